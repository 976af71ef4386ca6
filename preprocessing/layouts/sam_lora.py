"""SAM-LoRA: folders ``train``, ``val``, ``test`` of ``case*.npz``; the folders are the split.

Keys ``imgs`` (``N H W 3`` uint8) and ``gts`` (``N H W``). Source:
https://github.com/YIYIYI14736/SAM-LoRA.
"""

from pathlib import Path

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.layouts.files import case_names, split_folders, visible
from samtune.preprocessing.layouts.listing import Evidence, LayoutOptions, Listing
from samtune.preprocessing.npz_case import is_npz, npz_keys


def recognise(folder: Path) -> Evidence | None:
    """A folder a split, with .npz files of slices directly in it."""
    found = {split: _files(path) for split, path in split_folders(folder).items()}
    found = {split: files for split, files in found.items() if files}
    if not found or "imgs" not in npz_keys(next(iter(found.values()))[0]):
        return None
    return Evidence(
        "sam_lora",
        tuple(f"{split}/: {len(files)} .npz files with imgs" for split, files in found.items()),
    )


def listing(folder: Path, options: LayoutOptions) -> Listing:
    """One case a file, in the split that is its folder."""
    found = [
        (split, path.name, file)
        for split, path in split_folders(folder).items()
        for file in _files(path)
    ]
    names = case_names(f"{parent}/{file.stem}" for _, parent, file in found)
    cases, unpaired = [], []
    for split, parent, file in found:
        if {"imgs", "gts"} <= set(npz_keys(file)):
            cases.append(CaseSource(names[f"{parent}/{file.stem}"], (file,), (file,), split))
        else:
            unpaired.append(f"{parent}/{file.name}: no arrays imgs and gts")
    return Listing("sam_lora", folder, sorted(cases, key=lambda one: one.case), unpaired)


def _files(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_file() and is_npz(path)]
