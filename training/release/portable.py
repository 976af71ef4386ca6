"""Records of a run without the paths of the machine that it ran on."""

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from samtune.networks.packaged import PACKAGED
from samtune.networks.registry import by_sha256
from samtune.training.run_folder import TrainedRun

SLICES = "./slices"  # where a release's configs look for slices of your own
# an absolute path within a text: what follows a start, a blank, a quote or one of =[(:
_ABSOLUTE = re.compile(r"""(^|[\s'"=\[(:,])(?:[A-Za-z]:[\\/]|/)[^\s'",\])]+""")


def without_paths(value: Any) -> Any:
    """``value`` with each absolute path in it cut down to its last part."""
    if isinstance(value, dict):
        return {key: without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_paths(one) for one in value]
    if not isinstance(value, str) or "://" in value:
        return value
    return _ABSOLUTE.sub(lambda m: m[1] + _last(m[0][len(m[1]) :]), value)


def _last(path: str) -> str:
    return PurePosixPath(path).name if path.startswith("/") else PureWindowsPath(path).name


def base_name(run: TrainedRun) -> str | None:
    """What a release calls its base weights; None: those that a package brings."""
    sha256 = run.record["network"]["base_sha256"]
    if sha256 in [packaged.sha256 for packaged in PACKAGED.values()]:
        return None
    published = by_sha256(sha256)
    if published is not None:
        return published.file
    return Path(str(run.record["settings"].get("checkpoint"))).name


def portable_record(run: TrainedRun, *, released: str) -> dict[str, Any]:
    """``run.json`` for a bundle.

    Args:
        released: which adapter of the run it is, ``best`` or ``last``.
    """
    record: dict[str, Any] = without_paths(run.record)
    record["settings"] |= {"checkpoint": base_name(run), "cache_dir": None}
    record["data"]["dataset_dir"] = SLICES
    return {**record, "released": released}
