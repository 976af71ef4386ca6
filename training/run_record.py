"""What ``run.json`` holds: reading it, comparing it, and the facts of this machine that go in."""

import json
import logging
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from samtune import __version__

FORMAT_VERSION = 1
RUN_FILE = "run.json"
# settings that don't change what is learned at an epoch, or only how far it goes; a checkpoint is
# compared by its weights, wherever it lies, a normalization by what came of it; cached features are
# the same wherever they lie
MAY_DIFFER = (
    "cache_dir",
    "cache_max_gib",
    "checkpoint",
    "checkpoint_minutes",
    "device",
    "epochs",
    "max_minutes",
    "normalization",
    "num_workers",
    "tracker",
)
# files that are compared by their hash, wherever they lie
FILES = ("init_adapter", "text_embeddings")
# settings that older runs lack, with what they did
LATER_SETTINGS: dict[str, Any] = {
    "accumulation": 1,
    "activation": "softmax",
    "augmentation": "affine",
    "class_weights": None,
    "data": {"fold": None, "folds": 5, "seed": 0, "stratify": None},
    "early_stopping": None,
    "layer_decay": None,
    "loss_name": "dice_ce",
    "momentum": 0.9,
    "neighbours": 0,
    "optimizer_name": "adamw",
    "sampler": "all",
    "schedule": "cosine",
}
_LIBRARIES = ("torch", "monai", "pytorch-ignite", "segment-anything", "numpy")

logger = logging.getLogger(__name__)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping)
        out |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return out


def read_object(file: Path) -> dict[str, Any]:
    """The content of a JSON file that holds an object.

    Raises:
        ValueError: it is damaged.
    """
    try:
        found: Any = json.loads(file.read_bytes())
    except ValueError as error:
        msg = f"'{file}' is damaged: {error}"
        raise ValueError(msg) from error
    if not isinstance(found, dict):
        msg = f"'{file}' is damaged: expected a JSON object, found {type(found).__name__}"
        raise ValueError(msg)
    return found


def read_record(file: Path) -> dict[str, Any]:
    """The content of a ``run.json``.

    Raises:
        ValueError: it is damaged, or of another format version.
    """
    record = read_object(file)
    if record.get("format_version") != FORMAT_VERSION:
        msg = (
            f"'{file}' has format_version {record.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}"
        )
        raise ValueError(msg)
    needed = ("settings", "task", "data", "network")
    lacking = [key for key in needed if not isinstance(record.get(key), dict)]
    if lacking:
        msg = f"'{file}' is damaged: it lacks {', '.join(lacking)}"
        raise ValueError(msg)
    return record


def versions() -> dict[str, str]:
    """Of samtune and of the libraries that decide about bits."""
    return {"samtune": __version__, **{name: _version(name) for name in _LIBRARIES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def may_differ(key: str) -> bool:
    """Whether a setting may be another one when a run goes on, or is compared by a hash."""
    return key in MAY_DIFFER or key in FILES


def warn_of_versions(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Say which versions a run was begun with are others now."""
    changed = [f"{k} {v} -> {now.get(k)}" for k, v in before.items() if v != now.get(k)]
    if changed:
        logger.warning("goes on with other versions, to other bits: %s", ", ".join(changed))


def git_state() -> tuple[str | None, bool | None]:
    """Commit of the source checkout, and whether files differ from it; ``None``: no checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None
    found = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        line = ["git", "-C", str(root), *command]
        try:
            done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None, None
        if done.returncode != 0:
            return None, None
        found.append(done.stdout.strip())
    return found[0], bool(found[1])
