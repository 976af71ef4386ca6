"""Label maps as files of the image's own kind, on its own grid: NIfTI, NRRD, MetaImage or PNG."""

import gzip
import io
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from samtune.atomic import write_atomically
from samtune.preprocessing.readers.grid import RAS_OF_LPS
from samtune.preprocessing.volumes import Array, Grid, write_label
from samtune.preprocessing.write_volumes import itk_file

FORMATS = ("nii.gz", "nii", "nrrd", "mha", "png")
# what a label is written as, by the suffix of its image; all others: NIfTI
_FORMAT_OF = {
    ".nii.gz": "nii.gz",
    ".nii": "nii",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "mha",
    ".mhd": "mha",
    ".png": "png",
    ".jpg": "png",
    ".jpeg": "png",
    ".bmp": "png",
    ".gif": "png",
    ".pgm": "png",
    ".ppm": "png",
    ".tif": "png",
    ".tiff": "png",
}
_ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
NRRD_HEADER_LIMIT = 2**20  # bytes
NRRD_GEOMETRY = ("space", "space units", "space directions", "space origin", "kinds")
LPS_OF_RAS = RAS_OF_LPS[:3, :3]  # its own inverse; ITK counts towards left and posterior


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its suffix: its array axes are row, column, page."""
    return _FORMAT_OF.get(path.suffix.lower()) == "png"


def label_name(image: Path, *, num_slices: int = 1, file_format: str | None = None) -> str:
    """Name of the label file of an image.

    Args:
        image: file or DICOM folder.
        num_slices: voxels along the image's third axis; more than one never make a PNG.
        file_format: one of ``FORMATS``; None: as the image (JPEG, TIFF and BMP: PNG; NIfTI for
            stacks of pictures and for what else cannot hold a label).

    Raises:
        ValueError: unknown format, or PNG for a volume.
    """
    lower = image.name.lower()
    suffix = next((one for one in _FORMAT_OF if lower.endswith(one)), "")
    if file_format is None:
        if suffix in (".nii", ".nii.gz"):
            return image.name  # as it is spelt
        file_format = _FORMAT_OF.get(suffix, "nii.gz")
        file_format = "nii.gz" if file_format == "png" and num_slices > 1 else file_format
    if file_format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {file_format!r}")
    if file_format == "png" and num_slices > 1:
        raise ValueError(f"{image}: {num_slices} slices do not fit a PNG; choose nii.gz")
    return f"{image.name[: len(image.name) - len(suffix)]}.{file_format}"


def write_label_file(path: Path, array: Array, like: Grid) -> None:
    """Write a label map on the grid of ``like``, complete or not at all, by the suffix of ``path``.

    Values are the smallest of uint8, uint16 and uint32 that holds them. Shape and geometry are
    those of ``like``: for NIfTI see :func:`samtune.preprocessing.volumes.write_label`; a MetaImage
    has the very numbers of the image's file, and so has the NRRD of an NRRD. No other field of a
    header is copied, as it may tell of a person.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha`` or, for one slice, ``.png``.
        array: ``i j k`` integer or bool, values >= 0, on the file grid of ``like``.
        like: the image.

    Raises:
        ValueError: wrong suffix, shape or type, a negative value, or more than a PNG can hold.
    """
    path = Path(path)
    lower = path.name.lower()
    if not lower.endswith((".nrrd", ".mha", ".png")):
        write_label(path, array, like)
        return
    if array.shape != like.shape:
        raise ValueError(f"{path}: label has shape {array.shape}, {like.path} has {like.shape}")
    if array.dtype.kind not in "bui" or (array.dtype.kind == "i" and array.min() < 0):
        raise ValueError(f"{path}: label must be integers >= 0, got {array.dtype}")
    values = array.astype(np.min_scalar_type(int(array.max())))
    if lower.endswith(".png"):
        write_atomically(path, _png(path, values, like))
    else:
        copied = _nrrd(values, like) if lower.endswith(".nrrd") else None
        write_atomically(path, copied or _itk(path, values, like))


def _png(path: Path, values: Array, like: Grid) -> bytes:
    if values.shape[2] != 1 or values.dtype.itemsize > 2:
        raise ValueError(
            f"{path}: label of shape {values.shape} and type {values.dtype}; a PNG holds one slice "
            "of values up to 65535"
        )
    buffer = io.BytesIO()
    rows = values[:, :, 0]
    if not is_picture(like.path):  # i of a scan is the column, j the row
        rows = rows.T
    Image.fromarray(np.ascontiguousarray(rows)).save(buffer, format="PNG")
    return buffer.getvalue()


def _nrrd(values: Array, like: Grid) -> bytes | None:
    """Label with the geometry lines of a 3D NRRD, as they stand there; None for other images.

    NRRD keeps spacing and direction as one product, which ITK takes apart: its numbers come back
    with another last digit.
    """
    if not like.path.name.lower().endswith((".nrrd", ".nhdr")) or not like.path.is_file():
        return None
    with like.path.open("rb") as file:
        head = file.read(NRRD_HEADER_LIMIT).replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    lines = head.decode("ascii", errors="replace").split("\n")
    fields = dict(line.split(": ", 1) for line in lines if ": " in line)
    if fields.get("dimension") != "3" or "space directions" not in fields:
        return None
    header = ["NRRD0005", f"type: uint{8 * values.dtype.itemsize}", "dimension: 3"]
    header += [f"sizes: {' '.join(map(str, values.shape))}", "encoding: gzip", "endian: little"]
    header += [f"{name}: {fields[name]}" for name in NRRD_GEOMETRY if name in fields]
    data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
    return "\n".join([*header, "", ""]).encode() + gzip.compress(data, 6, mtime=0)


def _itk(path: Path, values: Array, like: Grid) -> bytes:
    dimension, spacing, origin, direction = _geometry(like)
    image = sitk.GetImageFromArray(values.T if dimension == 3 else values[:, :, 0].T)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return itk_file(image, path.suffix.lower())


def _geometry(like: Grid) -> tuple[int, list[float], list[float], list[float]]:
    """Dimension, spacing, origin and direction in ITK's terms."""
    if like.path.name.lower().endswith(_ITK_SUFFIXES) and like.path.is_file():
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(like.path))
        reader.ReadImageInformation()
        stored = reader.GetDimension()
        count = min(stored, 3)
        direction = np.array(reader.GetDirection()).reshape(stored, stored)[:count, :count]
        spacing, origin = reader.GetSpacing()[:count], reader.GetOrigin()[:count]
        return count, list(spacing), list(origin), direction.ravel().tolist()
    norms = np.linalg.norm(like.affine[:3, :3], axis=0)
    to_mm = like.spacing[0] / norms[0]
    direction = LPS_OF_RAS @ (like.affine[:3, :3] / norms)
    origin = LPS_OF_RAS @ like.affine[:3, 3] * to_mm
    return 3, list(like.spacing), origin.tolist(), direction.ravel().tolist()
