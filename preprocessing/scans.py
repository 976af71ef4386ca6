"""Which scans a user means: files, folders of them, pictures, DICOM folders and trees of these."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from samtune.preprocessing.label_files import is_picture
from samtune.preprocessing.layouts.files import image_files, visible
from samtune.preprocessing.readers.dicom_files import has_dicom, is_dicom
from samtune.preprocessing.volumes import case_id, find_volumes, volume_suffix

# scans as a user names them, or by name as find_scans found them
Given = str | Path | Sequence[str | Path] | Mapping[str, Path]


def find_scans(given: Given) -> dict[str, Path]:
    """Scans by name: that of the file without its suffix, or of the folder.

    A folder of volumes or of pictures means each of them; a folder of DICOM files is one scan. A
    folder of folders with DICOM files, or with folders of these, means each of its folders: those
    that ``samtune slice`` takes for an image.

    Args:
        given: files or folders; scans by name are kept as they are: a patient's folder that was
            found in a tree is one scan, although by itself it would mean its series.

    Raises:
        FileNotFoundError: one does not exist, or a folder has no scan in it.
        ValueError: two scans have one name, or a folder has DICOM files among others.
    """
    if isinstance(given, Mapping):
        return dict(given)
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
    files = [path for path in visible(folder) if path.is_file()]
    if not any(volume_suffix(path) for path in files):
        pictures = [path for path in files if is_picture(path)]
        if pictures:
            return [_named(path) for path in pictures]
        if any(is_dicom(path) for path in files):
            folder = folder.resolve()  # "." has no name
            return [(folder.name, folder)]
        folders = [path for path in visible(folder) if path.is_dir() and has_dicom(path)]
        if folders:
            return _series_folders(folder, folders)
    return list(find_volumes(folder).items())


def _series_folders(folder: Path, with_dicom: Sequence[Path]) -> list[tuple[str, Path]]:
    """All of them, as ``samtune slice`` would take them: none is left out without a word."""
    taken = image_files(folder)
    for path in with_dicom:
        if path.name not in taken:
            msg = (
                f"'{path}' has DICOM files and others among them: take the others out, or predict "
                "its folders one by one"
            )
            raise ValueError(msg)
    return [(path.name, path) for path in with_dicom]


def _named(path: Path) -> tuple[str, Path]:
    if volume_suffix(path) is None and (is_picture(path) or is_dicom(path)):
        return path.stem, path
    return case_id(path), path
