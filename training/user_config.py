"""A config for one's own slices: what ``train.yaml`` would find out, written down to be changed."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samtune.atomic import write_atomically
from samtune.preprocessing.manifest import Manifest
from samtune.preprocessing.splits import SPLITS
from samtune.training.joined import open_slices
from samtune.training.release.config_text import flow
from samtune.training.task import Task, task_of

SIZES = (128, 256, 512)  # that LiteMedSAM is good at
BATCH = {128: 8, 256: 4, 512: 2}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_BASE = "bundles/sam_finetune/configs/train.yaml"


def write_user_config(
    name: str, folders: str | Sequence[str], out: str | Path = "configs", *, force: bool = False
) -> Path:
    """Write ``OUT/NAME.yaml``, to be used after ``train.yaml``.

    Args:
        name: of the file, and of the run.
        folders: a folder of slices, or several that are joined by class names; written as given.
        out: folder of the file.
        force: overwrite it.

    Raises:
        FileNotFoundError: a folder without manifest.
        FileExistsError: the file is there.
        ValueError: no such name for a file, or slices without labels.
    """
    if not _NAME.fullmatch(name):
        msg = f"name must be of letters, digits and . _ -, it is that of a file; got '{name}'"
        raise ValueError(msg)
    path = Path(out) / f"{name}.yaml"
    if path.exists() and not force:
        msg = f"'{path}' is there already; choose another name, or overwrite it with --force"
        raise FileExistsError(msg)
    manifest = open_slices(folders)
    text = _text(name, folders, path, manifest, task_of(manifest))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    return path


def suggested_size(manifest: Manifest) -> tuple[int, int]:
    """Image size for LiteMedSAM, and what it goes by: the median of the slices' longer sides."""
    side = int(
        np.median([max(manifest.cases[row.case].geometry.image_hw) for row in manifest.slices])
    )
    return next((size for size in SIZES if size >= side), SIZES[-1]), side


def _text(
    name: str, folders: str | Sequence[str], path: Path, manifest: Manifest, task: Task
) -> str:
    size, side = suggested_size(manifest)
    splits = Counter(case.split for case in manifest.cases.values())
    cases = ", ".join(f"{splits[split]} {split}" for split in SPLITS)
    regions: Any = {region: "+".join(map(str, values)) for region, values in task.regions.items()}
    classes: Any = task.classes
    if any(set("#@$%") & set(text) for text in [*classes.values(), *regions]):
        classes, regions = "auto", "auto"  # MONAI reads these characters as its own
    smaller = f"; slices are made smaller, from {side}" if side > size else ""
    lines = [
        f"# {name}: settings over train.yaml, from `samtune init`. Train:",
        "#   python -m monai.bundle run training --config_file \\",
        f"#     \"['{_BASE}', '{path.as_posix()}']\"",
        f"# or, each case of train and val scored once (cases: {cases}):",
        f"#   samtune crossval {_shell(folders)} --out runs/{name}_cv --config {path.as_posix()}",
        "# Every key of train.yaml may stand here, e.g. epochs, rank, blocks.",
        f"run_name: {flow(name)}",
        f"dataset_dir: {flow(folders)} # a relative path is from the current folder",
        f"classes: {flow(classes)} # label value to name",
        f"regions: {flow(regions)} # scored together, beside each class",
        "arch: auto # of the checkpoint",
        "checkpoint: null # LiteMedSAM as packaged; or a file, or a name: samtune weights list",
        f"image_size: {size} # longer side of a slice: {side} pixels (median){smaller}; with "
        "another checkpoint: auto",
        f"batch_size: {BATCH[size]} # slices; lower it where memory is full, with accumulation "
        "in its place",
    ]
    if splits["val"] == 0:
        lines.insert(
            5, "# There is no validation case: `samtune split` deals anew, or cross-validate."
        )
    return "\n".join(lines) + "\n"


def _shell(folders: str | Sequence[str]) -> str:
    listed = [folders] if isinstance(folders, str) else folders
    return " ".join(f"'{one}'" if re.search(r"[^\w./-]", one) else one for one in listed)
