"""Values of a DICOM file: decoded, rescaled frame by frame, MONOCHROME1 turned round."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import SecondaryCaptureImageStorage

from samtune.preprocessing.readers.dicom_files import named_damage, read_dataset
from samtune.preprocessing.readers.dicom_planes import frame_value
from samtune.preprocessing.readers.grid import Array

PIXEL_KEYWORDS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
)  # fmt: skip
QUANTITATIVE = ("CT", "PT")  # their values are a measure: HU, activity


def read_pixels(path: Path) -> tuple[Array, tuple[str, ...]]:
    """All frames of a file.

    Returns:
        ``frame row column``, or with a last axis of 3 colours, and notes on what was changed.
        Integers where slope and intercept of all frames are whole, else float32.

    Raises:
        ValueError: the pixels can't be decoded, or there are fewer than the header says.
    """
    dataset = read_dataset(path, pixels=True)
    with named_damage(path):
        return _rescaled(path, dataset)


def _rescaled(path: Path, dataset: Dataset) -> tuple[Array, tuple[str, ...]]:
    try:
        stored = _decode(dataset)
    except (
        AttributeError,
        KeyError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        NotImplementedError,
        EOFError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path}: its pixels cannot be decoded ({reason}); expected a complete DICOM image"
        ) from error
    number = int(dataset.get("NumberOfFrames") or 1)
    shape = (number, int(dataset.Rows), int(dataset.Columns))
    samples = stored.shape[-1] if stored.size != int(np.prod(shape)) else 1
    stored = stored.reshape(*shape, samples) if samples > 1 else stored.reshape(shape)
    if samples > 1:
        return stored, ()
    slopes, intercepts = _rescale(path, dataset, number)
    notes: tuple[str, ...] = ()
    array = stored
    if any(slope != 1 for slope in slopes) or any(intercepts):
        array = _apply(stored, slopes, intercepts)
    is_inverse = str(dataset.get("PhotometricInterpretation", "")).strip() == "MONOCHROME1"
    if is_inverse and dataset.get("Modality") in QUANTITATIVE:
        notes = ("MONOCHROME1 was left as it is: the values are a measure",)
    elif is_inverse:
        # minimum and maximum that the stored bits can hold change places
        total = -1 if int(dataset.PixelRepresentation) else 2 ** int(dataset.BitsStored) - 1
        array = _apply(
            stored,
            [-s for s in slopes],
            [s * total + i for s, i in zip(slopes, intercepts, strict=True)],
        )
        notes = ("MONOCHROME1 was turned round: high values are bright",)
    return array, notes


def _apply(stored: Array, slopes: list[float], intercepts: list[float]) -> Array:
    shape = (-1, *[1] * (stored.ndim - 1))
    scaled: Array = stored * np.array(slopes).reshape(shape) + np.array(intercepts).reshape(shape)
    if all(float(value).is_integer() for value in (*slopes, *intercepts)):
        low, high = int(scaled.min()), int(scaled.max())
        for dtype in (np.uint8, np.int16, np.uint16, np.int32):
            if dtype().dtype.itemsize >= stored.dtype.itemsize or dtype == np.int16:
                info = np.iinfo(dtype)
                if info.min <= low and high <= info.max:
                    return scaled.astype(dtype)
    return scaled.astype(np.float32)


def _rescale(path: Path, dataset: Dataset, number: int) -> tuple[list[float], list[float]]:
    slopes: list[float] = []
    intercepts: list[float] = []
    if dataset.get("ModalityLUTSequence"):
        raise ValueError(f"{path}: has a modality look-up table; only slope and intercept are read")
    for frame in range(number):
        values: list[Any] = [
            frame_value(dataset, frame, "PixelValueTransformationSequence", keyword)
            for keyword in ("RescaleSlope", "RescaleIntercept")
        ]
        slope = 1.0 if values[0] is None else float(values[0])
        intercept = 0.0 if values[1] is None else float(values[1])
        if slope == 0 or not np.isfinite([slope, intercept]).all():
            raise ValueError(
                f"{path}: rescale slope is {slope}, intercept {intercept}; expected "
                "finite numbers and a slope other than 0"
            )
        slopes.append(slope)
        intercepts.append(intercept)
    return slopes, intercepts


def _decode(dataset: Dataset) -> Array:
    """Stored values, bits as in the header; colours as RGB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # padding and lengths that break the standard's letter
        try:
            array: Array = pixel_array(dataset)  # YBR becomes RGB
        except (NotImplementedError, RuntimeError):
            # RuntimeError: a compression for which pydicom found no package that decodes it
            if not dataset.file_meta.TransferSyntaxUID.is_compressed:
                raise
            return _decode_with_gdcm(dataset)
        if str(dataset.get("PhotometricInterpretation", "")).strip() == "PALETTE COLOR":
            array = np.asarray(apply_color_lut(array, dataset))
            return (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    return array


def _decode_with_gdcm(dataset: Dataset) -> Array:
    """Through a copy that holds nothing but the pixels: GDCM rescales by rules of its own."""
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ValueError(
            f"{dataset.file_meta.TransferSyntaxUID.name} of several frames has no decoder here; "
            "decompress the file first"
        )
    bare = Dataset()
    for keyword in PIXEL_KEYWORDS:
        if keyword in dataset:
            bare[keyword] = dataset[keyword]
    bare.SOPClassUID = SecondaryCaptureImageStorage
    bare.SOPInstanceUID = "1.2.3"
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.dcm"
        bare.save_as(path, enforce_file_format=True)
        image = sitk.ReadImage(str(path))
    return np.asarray(sitk.GetArrayFromImage(image))
