"""NIfTI files on the grid of another: its geometry, unit and codes, nothing of a person."""

import nibabel as nib
from nibabel.nifti1 import Nifti1Header, Nifti1Image

from samtune.preprocessing.readers.grid import Affine, Array

PERSONAL_FIELDS = ("descrip", "aux_file", "db_name", "intent_name")  # free text of the header


def impersonal_header(header: Nifti1Header) -> Nifti1Header:
    """A copy without extensions and free text, which may hold names and dates."""
    copy: Nifti1Header = header.copy()
    copy.extensions.clear()
    for name in PERSONAL_FIELDS:
        if name in copy:  # NIfTI-2 has fewer
            copy[name] = b""
    copy.set_data_offset(0)
    return copy


def nifti_bytes(voxels: Array, affine: Affine, header: Nifti1Header) -> bytes:
    """The file of these values as they are, NIfTI-1 or 2 as the header is, which is changed."""
    header.set_data_dtype(voxels.dtype)
    if voxels.dtype.names is None:
        header.set_slope_inter(1, 0)
    is_second = isinstance(header, nib.Nifti2Header)
    kind: type[Nifti1Image] = nib.Nifti2Image if is_second else Nifti1Image
    return bytes(kind(voxels, affine, header).to_bytes())
