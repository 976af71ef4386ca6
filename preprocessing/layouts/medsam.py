"""MedSAM: a folder of ``.npz`` files with ``imgs``, ``gts`` and, for volumes, ``spacing``.

2D (``H W 3``), 3D grey (``N H W``) and RGB (``N H W 3``), as utils/pre_CT_MR.py and
utils/pre_grey_rgb.py of https://github.com/bowang-lab/MedSAM write them.
"""

from pathlib import Path

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.layouts.files import visible
from samtune.preprocessing.layouts.listing import Evidence, LayoutOptions, Listing
from samtune.preprocessing.npz_case import is_npz, npz_keys


def recognise(folder: Path) -> Evidence | None:
    """.npz files directly in the folder, the first one with the array imgs; or one such file."""
    files = _files(folder)
    if not files or "imgs" not in npz_keys(files[0]):
        return None
    return Evidence("medsam", (f"{len(files)} .npz files with {', '.join(npz_keys(files[0]))}",))


def listing(folder: Path, options: LayoutOptions) -> Listing:
    """One case a file; if no file has gts the cases are unlabelled."""
    keys = {path: set(npz_keys(path)) for path in _files(folder)}
    is_labelled = any("gts" in found for found in keys.values())
    cases, unpaired = [], []
    for path, found in keys.items():
        if "imgs" not in found or (is_labelled and "gts" not in found):
            unpaired.append(
                f"{path.name}: has {', '.join(sorted(found)) or 'no arrays'}; expected imgs and gts"
            )
        else:
            cases.append(CaseSource(path.stem, (path,), (path,) if is_labelled else ()))
    return Listing("medsam", folder, cases, unpaired)


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder] if is_npz(folder) else []
    return [path for path in visible(folder) if path.is_file() and is_npz(path)]
