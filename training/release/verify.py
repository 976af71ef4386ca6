"""Whether a bundle is what was released, and does here what it did there."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import yaml

from samtune.networks.weights import sha256_of
from samtune.preprocessing.volumes import read_label
from samtune.training.ensemble import load_averaged, open_runs
from samtune.training.predict import predict
from samtune.training.release.files import (
    HASHES,
    METADATA,
    altered_files,
    files_of,
    hashes_file,
    read_hashes,
)
from samtune.training.release.sample import RECORD, dice, dice_scores, read_sample
from samtune.training.release.versions import OURS, installed, required
from samtune.training.run_folder import MODELS

State = Literal["ok", "warning", "FAILED", "skipped"]
NEEDED = (METADATA, "configs/inference.yaml", "configs/train.yaml", "LICENSE", "large_files.yml")
LEAST_DICE = 0.99  # with other versions, of each class with the recorded label file
SCORE_TOLERANCE = 0.01  # with other versions, of the sample's Dice
_SAME = 1e-9
_OUTPUTS = ("eval/", "predictions/")  # what running a bundle leaves in it


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    state: State
    detail: str


def verify_bundle(bundle: str | Path, *, device: str = "cpu") -> list[Check]:
    """Check a released bundle; no failure hides another.

    Raises:
        FileNotFoundError: the folder is no released bundle.
    """
    bundle = Path(bundle)
    if not bundle.is_dir():
        msg = f"bundle '{bundle}' is not a folder; unpack an archive first"
        raise FileNotFoundError(msg)
    hashes_file(bundle)  # before the checks: without it there is nothing to check
    checks: list[Check] = []
    steps: list[tuple[str, Callable[[Path], list[Check]]]] = [
        ("files", _files),
        ("metadata", _metadata),
        ("versions", _versions),
        ("network", _network),
        ("sample", lambda folder: _sample(folder, checks, device)),
    ]
    for name, step in steps:
        try:
            checks += step(bundle)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            checks.append(Check(name, "FAILED", reason))
    return checks


def passed(checks: list[Check], *, strict: bool = False) -> bool:
    """Whether nothing failed, and with ``strict`` nothing was warned of."""
    bad = ("FAILED", "warning") if strict else ("FAILED",)
    return not any(check.state in bad for check in checks)


def format_checks(checks: list[Check]) -> str:
    """The checks as a table."""
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{c.name:<{width}}  {c.state:<7}  {c.detail}" for c in checks)


def _files(bundle: Path) -> list[Check]:
    hashes = read_hashes(bundle)
    found = [Check(f"file {n}", "FAILED", wrong) for n, wrong in altered_files(bundle).items()]
    large = _large_files(bundle)
    extra = [
        name
        for name in files_of(bundle)
        if name not in hashes
        and name != HASHES
        and name not in large
        and not name.startswith(_OUTPUTS)
    ]
    if extra:
        listed = ", ".join(extra[:4])
        found.append(Check("files", "warning", f"{len(extra)} not in {HASHES}: {listed}"))
    lacking = [name for name in NEEDED if name not in hashes]
    if lacking:
        found.append(Check("files", "FAILED", f"{HASHES} lacks {', '.join(lacking)}"))
    if not any(check.state == "FAILED" for check in found):
        found.insert(0, Check("files", "ok", f"{len(hashes)} as released"))
    return found


def _large_files(bundle: Path) -> dict[str, str | None]:
    """Files that are fetched, to their SHA-256 where it is known."""
    path = bundle / "large_files.yml"
    if not path.is_file():
        return {}
    entries = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("large_files") or []
    return {entry["path"]: entry.get("hash_val") for entry in entries}


def _read_metadata(bundle: Path) -> dict[str, Any]:
    path = bundle / METADATA
    try:
        metadata = json.loads(path.read_bytes())
    except ValueError as error:
        msg = f"'{path}' is not JSON: {error}"
        raise ValueError(msg) from error
    if not isinstance(metadata, dict):
        msg = f"'{path}': expected an object, found {type(metadata).__name__}"
        raise ValueError(msg)
    return metadata


def _metadata(bundle: Path) -> list[Check]:
    metadata = _read_metadata(bundle)
    version = metadata.get("version")
    if version not in metadata.get("changelog", {}):
        return [Check("metadata", "FAILED", f"version {version} is not in the changelog")]
    return [Check("metadata", "ok", f"{metadata.get('name')} {version}")]


def _versions(bundle: Path) -> list[Check]:
    wanted = required(_read_metadata(bundle))
    found = {package: installed(package) for package in wanted}
    missing = [f"{name}=={wanted[name]}" for name, version in found.items() if version is None]
    checks = []
    if missing:
        detail = f"not installed: {', '.join(missing)}"
        checks.append(Check("versions", "FAILED", detail))
    others = [
        f"{name} {version} (released with {wanted[name]})"
        for name, version in found.items()
        if version not in (None, wanted[name])
    ]
    ours = found.get(OURS)
    if ours is not None and _minor(ours) < _minor(wanted[OURS]):
        detail = f"samtune {ours} is older than {wanted[OURS]}, which made it"
        checks.append(Check("versions", "FAILED", detail))
    if others:
        checks.append(Check("versions", "warning", ", ".join(others)))
    return checks or [Check("versions", "ok", f"{len(wanted)} packages as released")]


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _network(bundle: Path) -> list[Check]:
    for name, digest in _large_files(bundle).items():
        path = bundle / name
        if path.is_file() and digest is not None and sha256_of(path) != digest:
            return [Check("network", "FAILED", f"{name} is not the file of large_files.yml")]
    runs = open_runs(bundle)
    try:
        load_averaged(runs)
    except FileNotFoundError as error:
        absent = [name for name in _large_files(bundle) if not (bundle / name).is_file()]
        if not absent:
            raise
        msg = (
            f"no base weights: {absent[0]} is not there; fetch it: python -m monai.bundle "
            f"download_large_files --bundle_path {bundle}"
        )
        raise FileNotFoundError(msg) from error
    network = runs[0].record["network"]
    members = "" if len(runs) == 1 else f"{len(runs)} times "
    base = str(network["base_sha256"])[:12]
    return [Check("network", "ok", f"{members}{network['arch']}, base weights SHA-256 {base}")]


def _sample(bundle: Path, before: list[Check], device: str) -> list[Check]:
    sample = read_sample(bundle)
    if sample is None:
        return [Check("sample", "skipped", f"the bundle has none ({RECORD})")]
    if any(check.name == "network" and check.state == "FAILED" for check in before):
        return [Check("sample", "skipped", "needs the network")]
    same_versions = not any(c.name == "versions" and c.state != "ok" for c in before)
    with TemporaryDirectory() as folder:
        (made,) = predict(bundle / MODELS, sample.image, folder, device=device, progress=False)
        found, expected = read_label(made).array, read_label(sample.expected).array
        if found.shape != expected.shape:
            detail = f"{sample.case}: shape {found.shape}, recorded {expected.shape}"
            return [Check("sample", "FAILED", detail)]
        checks = [_compare(sample.case, found, expected)]
        if sample.label is not None:
            scores = dice_scores(bundle, made, sample.label)
            exact = same_versions and device == "cpu"
            tolerance = _SAME if exact and checks[0].state == "ok" else SCORE_TOLERANCE
            checks.append(_metrics(sample.case, scores, sample.dice, tolerance))
    return checks


def _compare(case: str, found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> Check:
    if np.array_equal(found, expected):
        return Check("sample", "ok", f"{case}: every voxel as recorded")
    values = sorted({int(v) for v in np.union1d(found, expected)} - {0})
    scores = {value: dice(found == value, expected == value) or 0.0 for value in values}
    worst = min(scores.values())
    text = ", ".join(f"{value}: {score:.4f}" for value, score in scores.items())
    detail = f"{case}: Dice with the recorded labels {text}"
    if worst < LEAST_DICE:
        return Check("sample", "FAILED", f"{detail}; at least {LEAST_DICE} is expected")
    return Check("sample", "warning", detail)


def _metrics(
    case: str,
    found: dict[str, float | None],
    recorded: dict[str, float | None],
    tolerance: float,
) -> Check:
    bad = []
    for name in sorted({*found, *recorded}):
        now, then = found.get(name), recorded.get(name)
        if (now is None) != (then is None) or abs((now or 0.0) - (then or 0.0)) > tolerance:
            bad.append(f"{name} {_text(now)}, recorded {_text(then)}")
    if bad:
        return Check("metrics", "FAILED", f"{case}: Dice of {'; '.join(bad)}")
    text = ", ".join(f"{name} {_text(score)}" for name, score in found.items())
    return Check("metrics", "ok", f"{case}: Dice as recorded: {text}")


def _text(score: float | None) -> str:
    return "undefined" if score is None else f"{score:.4f}"
