"""Small folders of label volumes for the tests of folder evaluation and its command."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def write_volume(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def label_volume(seed):
    """Class 1 and class 2, touching blocks whose size depends on the seed."""
    label = np.zeros((12, 10, 8), dtype=np.uint8)
    label[2 : 5 + seed % 3, 2:7, 2:6] = 1
    label[5 + seed % 3 : 10, 2:7, 2:6] = 2
    return label


@dataclass(frozen=True)
class Folders:
    """References ``case_0`` …, and predictions that are one voxel off along the first axis."""

    pred: Path
    ref: Path
    out: Path

    def write_pred(self, case, array, affine=AFFINE):
        write_volume(self.pred / f"{case}.nii.gz", array, affine)

    def write_ref(self, case, array, affine=AFFINE):
        write_volume(self.ref / f"{case}.nii.gz", array, affine)


@pytest.fixture
def folders(tmp_path):
    made = Folders(tmp_path / "pred", tmp_path / "ref", tmp_path / "out" / "metrics.csv")
    for number in range(4):
        made.write_ref(f"case_{number}", label_volume(number))
        made.write_pred(f"case_{number}", np.roll(label_volume(number), 1, axis=0))
    return made


@pytest.fixture
def write_pair():
    """Writes ``pred/CASE.nii.gz`` and ``ref/CASE.nii.gz`` of a block of class 1."""

    def write(folder, case, shape):
        label = np.zeros(shape, np.uint8)
        label[tuple(slice(size // 4, -size // 4) for size in shape)] = 1
        write_volume(folder / "ref" / f"{case}.nii.gz", label)
        write_volume(folder / "pred" / f"{case}.nii.gz", np.roll(label, 1, axis=0))

    return write
