"""DICOM files made from nothing but pydicom, and the real series beside the checkout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

PERSON = {
    "PatientName": "DOE^JANE",
    "PatientID": "PID-4711",
    "PatientBirthDate": "19700101",
    "StudyDate": "20200202",
    "AccessionNumber": "ACC123",
}


def dicom_file(path: Path, pixels: np.ndarray, **elements: Any) -> Path:
    """Write one file; ``pixels`` is row column, frame row column, or ... 3 for colour."""
    dataset = Dataset()
    dataset.SOPClassUID = elements.pop("SOPClassUID", MRImageStorage)
    dataset.SOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = "1.2.3.4"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.Modality = "MR"
    for name, value in PERSON.items():
        setattr(dataset, name, value)
    is_colour = pixels.shape[-1] == 3
    dataset.SamplesPerPixel = 3 if is_colour else 1
    dataset.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        dataset.PlanarConfiguration = 0
    frames = pixels.reshape(-1, *pixels.shape[-3 if is_colour else -2 :])
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    data = np.ascontiguousarray(pixels).tobytes()
    dataset.PixelData = data + bytes(len(data) % 2)
    for name, value in elements.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def dicom_series(
    folder: Path,
    array: np.ndarray,
    directions: np.ndarray | None = None,
    spacing: tuple[float, float, float] = (0.5, 0.75, 3.0),
    origin: tuple[float, float, float] = (-12.5, 31.0, 8.25),
    **elements: Any,
) -> Path:
    """Write ``array`` (i j k: column, row, slice), a file a slice, in shuffled order.

    ``directions`` has the unit vectors (LPS) of the three array axes as columns.
    """
    axes = np.eye(3) if directions is None else directions
    order = np.random.default_rng(1).permutation(array.shape[2])
    for number, index in enumerate(order):
        position = np.array(origin) + axes[:, 2] * spacing[2] * index
        own = {
            name: value[index] if isinstance(value, list) and name.startswith("Rescale") else value
            for name, value in elements.items()
        }
        dicom_file(
            folder / f"{number:03d}.dcm",
            array[:, :, index].T,
            ImagePositionPatient=[f"{value:.10g}" for value in position],
            ImageOrientationPatient=[f"{value:.9f}" for value in axes[:, :2].T.ravel()],
            PixelSpacing=[spacing[1], spacing[0]],
            InstanceNumber=number + 1,
            **own,
        )
    return folder


def item(**elements: Any) -> Sequence:
    """A sequence of one item."""
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return Sequence([dataset])


@pytest.fixture
def make_dicom_file() -> Callable[..., Path]:
    return dicom_file


@pytest.fixture
def make_dicom_series() -> Callable[..., Path]:
    return dicom_series


@pytest.fixture
def make_item() -> Callable[..., Sequence]:
    return item


@pytest.fixture(scope="session")
def real_series() -> Path:
    folder = Path(__file__).parents[3].parent / "shared/data/dicom_series/mr_hippocrop_series"
    if not folder.is_dir():
        pytest.skip("the real series (shared/data/dicom_series) is not beside the checkout")
    return folder


@pytest.fixture
def copied_series(real_series: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "series"
    copy.mkdir()
    for path in real_series.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


@pytest.fixture
def edit_dicom() -> Callable[..., None]:
    """Set elements of a DICOM file."""

    def edit(path: Path, **elements: Any) -> None:
        dataset = pydicom.dcmread(path)
        for name, value in elements.items():
            setattr(dataset, name, value)
        dataset.save_as(path)

    return edit
