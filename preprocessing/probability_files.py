"""Probabilities of a case as a file on the scan's own grid: 4D NIfTI or compressed NumPy arrays."""

import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samtune.atomic import write_atomically
from samtune.preprocessing.nifti_files import impersonal_header, nifti_bytes
from samtune.preprocessing.volumes import Array, Grid

PROBABILITY_FORMATS = ("nii.gz", "npz")


def write_probabilities(path: Path, array: Array, channels: Sequence[str], like: Grid) -> None:
    """Write probabilities, complete or not at all, by the suffix of ``path``.

    Args:
        path: ``.nii.gz``: float32, one volume a channel along the fourth axis, with the affine,
            codes and unit of ``like``. ``.npz``: ``probabilities`` (float16, channels first),
            ``channels`` (names) and ``affine``.
        array: ``i j k c`` in [0, 1] on the grid of ``like``.
        channels: name of each.
        like: the scan.

    Raises:
        ValueError: another suffix or shape.
    """
    if array.ndim != 4 or array.shape[:3] != like.shape or array.shape[3] != len(channels):
        msg = (
            f"{path}: probabilities have shape {array.shape}, expected {like.shape} and "
            f"{len(channels)} channels"
        )
        raise ValueError(msg)
    if path.name.endswith(".npz"):
        buffer = io.BytesIO()
        np.savez_compressed(  # stamps each entry with 1980, so the bytes depend on the data alone
            buffer,
            probabilities=np.moveaxis(array, 3, 0).astype(np.float16),
            channels=np.array(list(channels)),
            affine=like.affine,
        )
        write_atomically(path, buffer.getvalue())
        return
    if not path.name.endswith(".nii.gz"):
        msg = f"{path}: probabilities are written as {' or '.join(PROBABILITY_FORMATS)}"
        raise ValueError(msg)
    header = impersonal_header(like.header)
    header.set_data_shape(array.shape)
    header["cal_min"] = header["cal_max"] = 0
    data = nifti_bytes(array.astype(np.float32), like.affine, header)
    write_atomically(path, gzip.compress(data, 6, mtime=0))
