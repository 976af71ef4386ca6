"""MetaImage (MHA, MHD) and NRRD through SimpleITK; compressed data is verified by ourselves.

ITK prints a line and goes on with what it has when the data of a compressed MetaImage is damaged.
"""

import bz2
import gzip
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from samtune.preprocessing.readers.grid import (
    Grid,
    Volume,
    affine_of_lps,
    choose_frame,
    make_grid,
    with_values,
)

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
HEADER_LIMIT = 2**20  # bytes; longer text headers are not headers


def read_grid(path: Path, *, frame: int | None = None) -> Grid:
    """Voxel grid of a MetaImage or NRRD file, without reading its values."""
    return _grid(path, _information(path), frame)


def read(path: Path, *, frame: int | None = None) -> Volume:
    """Read a MetaImage or NRRD file.

    Args:
        path: ``.mha``, ``.mhd``, ``.nrrd`` or ``.nhdr``.
        frame: which volume of a 4D file, or which component of a vector file.

    Returns:
        The volume; RGB and RGBA of 8 bits are ``i j k c``.

    Raises:
        ValueError: damaged (compressed data whose checksum is wrong included), 4D or of several
            components without a choice, complex voxels, or a geometry that cannot be inverted.
    """
    reader = _information(path)
    grid = _grid(path, reader, frame)
    _verify_compressed(path)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    array = sitk.GetArrayFromImage(image)
    components = image.GetNumberOfComponentsPerPixel()
    if components == 1:
        array = array[..., np.newaxis]
    array = array.transpose(*range(array.ndim - 2, -1, -1), array.ndim - 1)  # t z y x c: x y z t c
    if image.GetDimension() == 2:
        array = array[:, :, np.newaxis]
    if array.ndim == 5:
        array = array[:, :, :, choose_frame(path, image.GetSize(), array.shape[3], frame)]
    elif components > 1 and not _is_colour(reader):
        array = array[..., frame, np.newaxis]
    return with_values(grid, array if array.shape[3] > 1 else array[..., 0])


def _information(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return reader


def _is_colour(reader: sitk.ImageFileReader) -> bool:
    is_8_bit = reader.GetPixelID() == sitk.sitkVectorUInt8
    return is_8_bit and reader.GetNumberOfComponents() in (3, 4)


def _grid(path: Path, reader: sitk.ImageFileReader, frame: int | None) -> Grid:
    size, dimension = tuple(reader.GetSize()), reader.GetDimension()
    components = reader.GetNumberOfComponents()
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise ValueError(f"{path}: voxels are complex; expected one real number a voxel")
    if dimension not in (2, 3, 4):
        raise ValueError(f"{path}: shape is {size}; expected a 3D volume")
    if dimension == 4:
        if components > 1:
            raise ValueError(f"{path}: 4D with {components} values a voxel; expected one")
        choose_frame(path, size, size[3], frame)
    elif components > 1 and not _is_colour(reader):
        choose_frame(path, (*size, components), components, frame)
    else:
        choose_frame(path, size, 1, frame)
    count = min(dimension, 3)
    direction = np.eye(3)
    stored = np.array(reader.GetDirection()).reshape(dimension, dimension)
    direction[:count, :count] = stored[:count, :count]
    spacing = np.full(3, max(reader.GetSpacing()[:count]))  # of a 2D file: as thick as wide
    spacing[:count] = reader.GetSpacing()[:count]
    origin = np.zeros(3)
    origin[:count] = reader.GetOrigin()[:count]
    shape = (size[0], size[1], size[2] if dimension > 2 else 1)
    return make_grid(path, shape, affine_of_lps(direction * spacing, origin))


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = str(error).strip().splitlines()[-1].strip() if str(error).strip() else "no reason"
    kind = "MetaImage" if path.suffix.lower() in (".mha", ".mhd") else "NRRD"
    return ValueError(f"{path}: not a complete {kind} file ({reason}); expected a readable volume")


def _verify_compressed(path: Path) -> None:
    """Decompress the data once, so that a wrong checksum is an error."""
    is_meta = path.suffix.lower() in (".mha", ".mhd")
    fields, start = _meta_fields(path) if is_meta else _nrrd_fields(path)
    if is_meta:
        if fields.get("compresseddata", "").lower() != "true":
            return
        encoding, data_file = "zlib", fields.get("elementdatafile", "LOCAL")
    else:
        encoding = fields.get("encoding", "raw").lower()
        data_file = fields.get("data file", fields.get("datafile", "LOCAL"))
        if encoding not in ("gz", "gzip", "bz2", "bzip2"):
            return
    if data_file.upper() == "LOCAL":
        data = path.read_bytes()[start:]
    elif (path.parent / data_file).is_file():
        data = (path.parent / data_file).read_bytes()
    else:
        return  # a list of files, or none: ITK says so
    try:
        if encoding == "zlib":
            inflater = zlib.decompressobj(32 + zlib.MAX_WBITS)  # zlib or gzip, by its first bytes
            inflater.decompress(data)
            if not inflater.eof:
                raise EOFError("compressed data ends too early")
        elif encoding.startswith("gz"):
            gzip.decompress(data)
        else:
            bz2.decompress(data)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _meta_fields(path: Path) -> tuple[dict[str, str], int]:
    """Header of a MetaImage, names in lower case, and where its data starts."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while file.tell() < HEADER_LIMIT and (line := file.readline(HEADER_LIMIT)):
            name, _, value = line.decode("latin-1").partition("=")
            fields[name.strip().lower()] = value.strip()
            if name.strip().lower() == "elementdatafile":
                break
        return fields, file.tell()


def _nrrd_fields(path: Path) -> tuple[dict[str, str], int]:
    """Header of an NRRD file, names in lower case, and where its data starts."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while file.tell() < HEADER_LIMIT and (line := file.readline(HEADER_LIMIT).strip()):
            name, colon, value = line.decode("latin-1").partition(": ")
            if colon and not name.startswith("#"):
                fields[name.strip().lower()] = value.strip()
        return fields, file.tell()
