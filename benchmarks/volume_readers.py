"""Ways to read a ``.nii.gz`` volume, timed beside the one that samtune takes."""

import gzip
import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from samtune.preprocessing.volumes import read_image

Read = Callable[[Path], Any]


def volume_readers() -> dict[str, Read]:
    """Name to a function from path to stored voxels ``i j k``, in C order as slicing needs them.

    ``isal`` is there if that package is installed; samtune does not need it. Only samtune, gzip and
    isal notice a wrong checksum: nibabel stops reading before it.
    """
    readers: dict[str, Read] = {
        "nibabel get_fdata": lambda path: _load(path).get_fdata(dtype=np.float64),
        "nibabel": lambda path: np.asanyarray(_load(path).dataobj),
        "gzip": lambda path: _from_bytes(gzip.decompress(path.read_bytes())),
        "SimpleITK": lambda path: sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T,
        "samtune": lambda path: read_image(path).array,
    }
    try:
        igzip: Any = importlib.import_module("isal.igzip")
        readers["isal"] = lambda path: _from_bytes(igzip.decompress(path.read_bytes()))
    except ImportError:
        pass
    return {name: partial(_in_c_order, read) for name, read in readers.items()}


def _in_c_order(read: Read, path: Path) -> Any:
    return np.ascontiguousarray(read(path))


def _load(path: Path) -> Any:
    return nib.load(path)  # typed as a file without voxels


def _from_bytes(data: bytes) -> Any:
    return np.asanyarray(nib.Nifti1Image.from_bytes(data).dataobj)
