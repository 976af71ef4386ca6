"""Which scans a user means: files, folders of them, pictures, DICOM folders."""

from collections.abc import Sequence
from pathlib import Path

from samtune.preprocessing.label_files import is_picture
from samtune.preprocessing.volumes import case_id, find_volumes, volume_suffix

DICOM_SUFFIXES = (".dcm", ".ima")
DICOM_PREAMBLE = 128  # bytes before the letters DICM


def find_scans(given: str | Path | Sequence[str | Path]) -> dict[str, Path]:
    """Scans by name: that of the file without its suffix, or of the folder.

    A folder of volumes or of pictures means each of them; a folder of DICOM files is one scan.

    Args:
        given: files or folders.

    Raises:
        FileNotFoundError: one does not exist, or a folder has no scan in it.
        ValueError: two scans have one name.
    """
    entries = [given] if isinstance(given, str | Path) else list(given)
    scans: dict[str, Path] = {}
    for entry in map(Path, entries):
        if not entry.exists():
            msg = f"'{entry}' does not exist"
            raise FileNotFoundError(msg)
        for name, path in _in_folder(entry) if entry.is_dir() else [_named(entry)]:
            if name in scans:
                msg = f"'{scans[name]}' and '{path}' have one name; predict them into two folders"
                raise ValueError(msg)
            scans[name] = path
    return scans


def _in_folder(folder: Path) -> list[tuple[str, Path]]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    if not any(volume_suffix(path) for path in files):
        pictures = [path for path in files if is_picture(path)]
        if pictures:
            return [_named(path) for path in pictures]
        if any(_is_dicom(path) for path in files):
            folder = folder.resolve()  # "." has no name
            return [(folder.name, folder)]
    return list(find_volumes(folder).items())


def _named(path: Path) -> tuple[str, Path]:
    if volume_suffix(path) is None and (is_picture(path) or _is_dicom(path)):
        return path.stem, path
    return case_id(path), path


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(DICOM_PREAMBLE + 4)[DICOM_PREAMBLE:] == b"DICM"
