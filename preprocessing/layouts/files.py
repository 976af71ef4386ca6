"""Files of a dataset folder: which are images, and what their names say."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm")
DICOM = (".dcm", ".ima")
SUFFIXES = (
    *(".nii.gz", ".nii", ".mgz", ".mgh", ".mha", ".mhd", ".nrrd", ".npz"),
    *PICTURES,
    *DICOM,
)
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}
MAX_NAMED = 5


def stem_of(name: str) -> str | None:
    """Name of an image file without its suffix (``.nii.gz`` is one); None for other files."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return None


def image_files(folder: Path) -> dict[str, Path]:
    """Images directly in ``folder``, stem to path, sorted; hidden files are left out.

    A folder of nothing but DICOM files is one image, called as the folder. If there are no images
    but folders of DICOM files or pictures, each of these is an image: a series (or several, in
    folders below it), or one file a slice.

    Raises:
        ValueError: two files have one stem.
    """
    found: dict[str, Path] = {}
    for path in visible(folder):
        stem = stem_of(path.name) if path.is_file() else None
        if stem is None:
            continue
        if stem in found:
            raise ValueError(
                f"{folder}: {found[stem].name} and {path.name} have one name; expected one file "
                "an image"
            )
        found[stem] = path
    if found and all(path.suffix.lower() in DICOM for path in found.values()):
        folder = folder.resolve()  # "." has no name
        return {folder.name: folder}
    if not found:
        found = {path.name: path for path in visible(folder) if _is_image_folder(path)}
    return dict(sorted(found.items()))


def _is_image_folder(path: Path) -> bool:
    suffixes = {child.suffix.lower() for child in visible(path) if child.is_file()}
    if not suffixes:
        folders = [child for child in visible(path) if child.is_dir()]
        return bool(folders) and all(_is_dicom_folder(child) for child in folders)
    return _is_dicom_folder(path) or suffixes <= set(PICTURES)


def _is_dicom_folder(path: Path) -> bool:
    """Nothing but DICOM files, as far as suffixes say, in it and below."""
    children = visible(path)
    return bool(children) and all(
        # DICOM files often have no suffix
        _is_dicom_folder(child) if child.is_dir() else child.suffix.lower() in {*DICOM, ""}
        for child in children
    )


def visible(folder: Path) -> list[Path]:
    """Entries of a folder, sorted, without hidden ones; none if it is no folder."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]


def split_folders(folder: Path) -> dict[str, Path]:
    """Folders directly in ``folder`` that are named like a split: ``train`` to path.

    Raises:
        ValueError: two folders for one split.
    """
    found: dict[str, Path] = {}
    for path in visible(folder):
        split = SPLIT_NAMES.get(path.name.lower()) if path.is_dir() else None
        if split is None:
            continue
        if split in found:
            raise ValueError(f"{folder}: {found[split].name}/ and {path.name}/ are both {split}")
        found[split] = path
    return found


def case_names(paths: Iterable[str]) -> dict[str, str]:
    """Short unique case ids of relative paths without suffix: the last part where that is unique.

    Where two share it, every case gets all parts of its path, joined by ``_``.

    Raises:
        ValueError: two are still the same.
    """
    paths = list(paths)
    names = {path: PurePosixPath(path).name for path in paths}
    if len(set(names.values())) < len(names):
        names = {path: "_".join(re.findall(r"[^/]+", path)) for path in paths}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice or len(names) < len(paths):
        raise ValueError(f"two images would both be case {(twice or paths)[0]!r}; rename one")
    return names


def naming(names: Iterable[str]) -> str:
    """The first names of many, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def shown(paths: Mapping[str, Path]) -> dict[str, str]:
    """Stem to file name."""
    return {stem: path.name for stem, path in paths.items()}
