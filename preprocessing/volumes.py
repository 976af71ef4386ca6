"""The doors to pixels: any image or label to a volume, and label volumes back to NIfTI files."""

import dataclasses
import gzip
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from samtune.atomic import write_atomically
from samtune.preprocessing.nifti_files import impersonal_header, nifti_bytes
from samtune.preprocessing.readers import formats
from samtune.preprocessing.readers.dicom_files import STRUCTURE_SET, find_label_object
from samtune.preprocessing.readers.dicom_seg import read_segmentation
from samtune.preprocessing.readers.grid import (
    Affine,
    Array,
    Grid,
    Spacing,
    Volume,
    affine_text,
)
from samtune.preprocessing.readers.label_rule import LabelRule
from samtune.preprocessing.readers.label_values import join_class_files, to_classes
from samtune.preprocessing.readers.rtstruct import read_contours
from samtune.preprocessing.readers.run_lengths import is_run_lengths, read_run_lengths

__all__ = [
    "AFFINE_TOLERANCE",
    "SUFFIXES",
    "Affine",
    "Array",
    "Grid",
    "LabelRule",
    "Spacing",
    "Volume",
    "case_id",
    "check_same_grid",
    "find_volumes",
    "orientation",
    "read_grid",
    "read_image",
    "read_label",
    "read_volume",
    "volume_suffix",
    "write_label",
]

SUFFIXES = formats.VOLUME_SUFFIXES
AFFINE_TOLERANCE = 1e-3


def volume_suffix(path: Path) -> str | None:
    """Suffix of a volume file as spelt in its name (``.nii.gz``); None for any other file."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[-len(suffix) :]
    return None


def case_id(path: Path) -> str:
    """Name of a volume file without its suffix.

    Raises:
        ValueError: the name has no suffix of a volume file.
    """
    suffix = volume_suffix(path)
    if suffix is None:
        raise ValueError(
            f"{path}: the name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        )
    return path.name[: -len(suffix)]


def find_volumes(folder: Path) -> dict[str, Path]:
    """Volume files directly in ``folder``, sorted by case id; hidden files are ignored.

    Raises:
        FileNotFoundError: no such folder, or no volume file (``SUFFIXES``) in it.
        ValueError: two files have the same case id (``a.nii`` and ``a.nii.gz``).
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise FileNotFoundError(f"{folder}: expected a folder of volumes, found {found}")
    others: list[str] = []
    volumes: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() or volume_suffix(path) is None:
            others.append(path.name + ("/" if path.is_dir() else ""))
            continue
        case = case_id(path)
        if case in volumes:
            raise ValueError(
                f"{folder}: case {case!r} has two files, {volumes[case].name} and {path.name}; "
                "expected one"
            )
        volumes[case] = path
    if not volumes:
        found = "nothing"
        if others:
            more = ", ..." if len(others) > 3 else ""
            found = f"{len(others)} other entries ({', '.join(others[:3])}{more})"
        raise FileNotFoundError(
            f"{folder}: looked for *.nii and *.nii.gz (or {', '.join(SUFFIXES[2:])}) directly in "
            f"this folder, found {found}"
        )
    return dict(sorted(volumes.items()))


def read_grid(
    path: Path | Sequence[Path], *, frame: int | None = None, series: str | None = None
) -> Grid:
    """Voxel grid of an image or label, without reading its values where the format allows it.

    Args:
        path, frame, series: as for :func:`read_image`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable image, damaged header, not 3D, or an affine that cannot be
            inverted.
    """
    if isinstance(path, Sequence):
        return formats.grid_of_several([Path(one) for one in path], frame, series)
    path = Path(path)
    return formats.find_format(path).read_grid(path, frame=frame, series=series)


def read_image(
    path: Path | Sequence[Path], *, frame: int | None = None, series: str | None = None
) -> Volume:
    """Read an image of any format as a volume.

    Values are those of the header's scale and offset: integers keep their stored type if these
    are trivial, everything else is float32.

    Args:
        path: a file, or a folder with a DICOM series. Several volume files are the channels of
            one image (``i j k c``), all on one grid; several pictures are its slices, in this
            order; several DICOM files are one series.
        frame: which volume of a 4D file, from 0; needed if there are several.
        series: which series of a DICOM folder: SeriesDescription, SeriesInstanceUID or number;
            needed if there are several.

    Returns:
        The volume, array axes ``i j k`` as in the file. Values are not checked: they may be
        NaN or infinite where the file is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable image, truncated or damaged, not 3D, several frames or series
            without a choice, complex voxels, or an affine that cannot be inverted.
    """
    if isinstance(path, Sequence):
        return _narrow(formats.read_several([Path(one) for one in path], frame, series))
    path = Path(path)
    return _narrow(formats.find_format(path).read(path, frame=frame, series=series))


def read_volume(path: Path) -> Volume:
    """:func:`read_image` of one file without frames or series."""
    return read_image(path)


def read_label(
    path: Path | Sequence[Path],
    *,
    frame: int | None = None,
    series: str | None = None,
    rule: LabelRule | None = None,
    like: Grid | None = None,
) -> Volume:
    """Read a label of any format as integers.

    A stored integer type is kept; a float file is accepted if all its values are whole within
    1e-3, as the smallest integer type that holds them.

    Args:
        path: a label file; several are one file a class. A ``.csv`` has run lengths.
        frame, series: as for :func:`read_image`.
        rule: what the stored values or colours mean (default: they are the classes; a picture of
            0 and 255 alone is a mask of class 1, and its ``notes`` say so).
        like: grid of the image; needed for run lengths, contours and segmentation objects, which
            have none of their own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as :func:`read_image`, or a value is not a whole number >= 0 or not in the
            rule.
    """
    rule = rule or LabelRule()
    paths = [Path(one) for one in path] if isinstance(path, Sequence) else [Path(path)]
    if len(paths) != 1 or rule.files:
        return join_class_files(formats.read_class_files(paths, frame, series), rule)
    path = paths[0]
    if is_run_lengths(path) and path.is_file():
        if like is None:
            raise ValueError(f"{path}: run lengths need the grid of their image")
        return read_run_lengths(path, like, rule)
    one = formats.find_format(path)
    found = find_label_object(path) if one.name == "DICOM" else None
    if found is not None:
        return _read_object(*found, like, rule)
    stored = one.read_label(path, frame=frame, series=series)
    return to_classes(stored, rule, is_picture=one.name in formats.PICTURES)


def write_label(path: Path, array: Array, like: Grid) -> None:
    """Write a label volume on the grid of ``like``, complete or not at all.

    Shape (a trailing time axis of length 1 included), affine, qform and sform with their codes
    and the unit are those of ``like``; voxels are the smallest unsigned integer type that holds
    the values. The bytes depend on nothing else: no time stamp.

    Args:
        path: target, ``.nii`` or ``.nii.gz``.
        array: ``i j k`` integer or bool, values >= 0, on the file grid of ``like``.
        like: image or label read from the file whose grid the array is on.

    Raises:
        ValueError: wrong suffix, shape or type, or a negative value.
    """
    path = Path(path)
    suffix = volume_suffix(path)
    if suffix is None or suffix.lower() not in (".nii", ".nii.gz"):
        raise ValueError(f"{path}: the name of a label file must end in .nii or .nii.gz")
    if array.shape != like.shape:
        raise ValueError(f"{path}: label has shape {array.shape}, {like.path} has {like.shape}")
    if array.dtype.kind not in "bui":
        raise ValueError(f"{path}: label must be of integer type, got {array.dtype}")
    if array.dtype.kind == "i" and array.min() < 0:
        raise ValueError(f"{path}: label values must be >= 0, got {array.min()}")
    values = array.astype(np.min_scalar_type(int(array.max())))
    header = impersonal_header(like.header)
    header["cal_min"] = header["cal_max"] = 0  # display range of the image, not of a label
    data = nifti_bytes(values.reshape(header.get_data_shape()), like.affine, header)
    write_atomically(path, gzip.compress(data, 6, mtime=0) if suffix[-1] in "zZ" else data)


def orientation(affine: Affine) -> str:
    """Directions in which the array axes increase, such as ``"RAS"``, of a ``4 4`` affine."""
    return "".join(str(code) for code in nib.aff2axcodes(affine))


def check_same_grid(image: Grid, label: Grid) -> None:
    """Do nothing if both files have one shape and one affine (within 1e-3 per entry).

    Raises:
        ValueError: they differ; the message has both values.
    """
    if image.shape != label.shape:
        raise ValueError(
            f"{label.path}: label has shape {label.shape}, its image {image.path.name} has "
            f"{image.shape}; resample the label to the image's grid"
        )
    if not np.allclose(image.affine, label.affine, rtol=0, atol=AFFINE_TOLERANCE):
        raise ValueError(
            f"{label.path}: label has affine {affine_text(label.affine)}, its image "
            f"{image.path.name} has {affine_text(image.affine)}; resample the label or correct "
            "its header"
        )


def _read_object(path: Path, kind: str, like: Grid | None, rule: LabelRule) -> Volume:
    """A DICOM segmentation or structure set; ``kind`` is its SOPClassUID."""
    if kind != STRUCTURE_SET:
        return read_segmentation(path, like, rule)
    if like is None:
        raise ValueError(f"{path}: contours need the grid of their image")
    return read_contours(path, like, rule)


def _narrow(volume: Volume) -> Volume:
    """Floats as float32: half the memory of what nibabel gives for scaled integers."""
    if volume.array.dtype.kind != "f":
        return volume
    with np.errstate(over="ignore"):  # becomes inf, which users of the values refuse
        return dataclasses.replace(volume, array=volume.array.astype(np.float32))
