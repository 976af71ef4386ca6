"""Small volumes on disk: all dimensions different, values and geometry known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from samtune.preprocessing.slice_volumes import SliceReport, slice_volumes

DIRECTIONS = {
    "R": (1, 0, 0),
    "L": (-1, 0, 0),
    "A": (0, 1, 0),
    "P": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}
SHAPE = (5, 7, 4)
SPACING = (0.5, 0.75, 3.0)


def affine_of(codes: str, spacing: tuple[float, ...] = SPACING) -> np.ndarray:
    """Affine whose array axes run as ``codes`` say, with an origin off zero."""
    affine = np.eye(4)
    for axis, code in enumerate(codes):
        affine[:3, axis] = np.array(DIRECTIONS[code]) * spacing[axis]
    affine[:3, 3] = (-12.5, 31.0, 8.25)
    return affine


def oblique_affine(codes: str, spacing: tuple[float, ...] = SPACING) -> np.ndarray:
    """``affine_of`` turned by 20 degrees around z, then 15 around x."""
    a, b = np.deg2rad(20), np.deg2rad(15)
    around_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    around_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = affine_of(codes, spacing)
    affine[:3, :3] = around_x @ around_z @ affine[:3, :3]
    return affine


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **header: Any) -> Path:
    """Write a NIfTI file with nibabel alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine_of("RAS") if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


@pytest.fixture
def save_volume() -> Callable[..., Path]:
    return save


@pytest.fixture
def make_affine() -> Callable[..., np.ndarray]:
    return affine_of


@pytest.fixture
def make_oblique() -> Callable[..., np.ndarray]:
    return oblique_affine


def make_cases(root: Path, number: int = 3) -> tuple[Path, Path]:
    """``images`` and ``labels`` with cases a, b, c ...: other shape and orientation each."""
    for index in range(number):
        rng = np.random.default_rng(index)
        name = f"{'abcdefgh'[index]}.nii.gz"
        shape = (5 + index, 8, 4 + index)
        affine = affine_of(("RAS", "LPS", "PSR", "SRP")[index % 4])
        label = np.zeros(shape, dtype=np.uint8)
        label[1:3, 2:5, 1:3] = 1
        label[3, 2:5, 1:3] = 2
        save(root / "images" / name, rng.normal(100, 20, shape).astype(np.float32), affine)
        save(root / "labels" / name, label, affine)
    return root / "images", root / "labels"


@pytest.fixture
def cases(tmp_path: Path) -> tuple[Path, Path]:
    return make_cases(tmp_path / "data")


@pytest.fixture(scope="session")
def hippocampus() -> Path:
    folder = Path(__file__).parents[2].parent / "shared/data/mr_hippocampus"
    if not folder.is_dir():
        pytest.skip("real volumes (shared/data/mr_hippocampus) are not beside the checkout")
    return folder


@pytest.fixture
def run(cases: tuple[Path, Path], tmp_path: Path) -> Callable[..., SliceReport]:
    """Slice the three cases a, b, c (5, 6, 7 voxels wide) without further processes."""

    def call(**changes: Any) -> SliceReport:
        arguments = {"modality": "mr", "out": tmp_path / "out", "workers": 1, "axis": 2}
        images, labels = changes.pop("images", cases[0]), changes.pop("labels", cases[1])
        return slice_volumes(images, labels, **{**arguments, **changes})

    return call


@pytest.fixture
def read_all() -> Callable[[Path], dict[str, bytes]]:
    """All files below a folder, by relative path."""

    def contents(folder: Path) -> dict[str, bytes]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return contents
