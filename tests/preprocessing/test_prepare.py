from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from samtune.preprocessing.intensity import Intensity, apply
from samtune.preprocessing.prepare import prepare_case
from samtune.preprocessing.slice_settings import Slicing
from samtune.preprocessing.slicing import slices_to_volume
from samtune.preprocessing.volumes import Volume, read_volume


def test_slices_put_back_are_the_scaled_volume(tmp_path, save_volume, make_affine):
    array = np.random.default_rng(0).gamma(2, 50, (5, 7, 4)).astype(np.float32)
    image = read_volume(save_volume(tmp_path / "a.nii.gz", array, make_affine("PSR")))
    intensity = Intensity.for_modality("mr")
    slices, geometry = prepare_case(image, case="a", intensity=intensity)
    assert slices.dtype == np.uint8
    assert slices.shape == (4, 5, 7)  # 3 mm runs to the right: axis 0
    assert (geometry.case, geometry.axis, geometry.orientation) == ("a", 0, "PSR")
    np.testing.assert_array_equal(slices_to_volume(slices, geometry), apply(array, intensity))
    assert prepare_case(image, case="a", intensity=intensity, axis=2)[0].shape == (7, 4, 5)


def test_nan_and_infinite_voxels_are_counted_with_the_file(tmp_path, save_volume):
    array = np.ones((5, 7, 4), dtype=np.float32)
    array[0, 0, :3] = np.nan
    array[1, 1, 1] = -np.inf
    image = read_volume(save_volume(tmp_path / "a.nii.gz", array))
    with pytest.raises(ValueError, match=r"a\.nii\.gz: 4 of 140 voxels are NaN or infinite"):
        prepare_case(image, case="a", intensity=Intensity.for_modality("mr"))


def test_a_wrong_axis_is_refused(tmp_path, save_volume):
    image = read_volume(save_volume(tmp_path / "a.nii", np.ones((5, 7, 4), np.uint8)))
    with pytest.raises(ValueError, match="axis must be 0, 1 or 2, got 3"):
        prepare_case(image, case="a", intensity=Intensity.for_modality("oct"), axis=3)


def colour(array):
    """A grid of pictures with three values a voxel, as several files give it."""
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    header = nib.Nifti1Header()
    return Volume(Path("a.png"), array.shape[:3], affine, (1.0, 1.0, 5.0), header, array)


def test_channels_of_a_photograph_share_their_limits_and_scans_do_not():
    rng = np.random.default_rng(0)
    array = rng.gamma(2, 50, (6, 5, 2, 3)) * np.array([1, 2, 4])
    photograph = Intensity.for_modality("rgb", percentiles=(1, 99))
    slices, geometry = prepare_case(colour(array), case="a", intensity=photograph)
    assert slices.shape == (2, 6, 5, 3)
    np.testing.assert_array_equal(slices_to_volume(slices, geometry), apply(array, photograph))
    scans = Intensity.for_modality("mr")
    slices, _ = prepare_case(colour(array), case="a", intensity=scans)
    for channel in range(3):
        alone = prepare_case(colour(array[..., channel]), case="a", intensity=scans)[0]
        np.testing.assert_array_equal(slices[..., channel], alone)
    with pytest.raises(ValueError, match=r"a\.png: 2 channels; expected 1 or 3"):
        prepare_case(colour(array[..., :2]), case="a", intensity=scans)


def test_crop_and_tiles_do_not_change_what_a_voxel_becomes(tmp_path, save_volume):
    array = np.random.default_rng(0).gamma(2, 50, (9, 7, 4)).astype(np.float32)
    image = read_volume(save_volume(tmp_path / "a.nii.gz", array))
    label = np.zeros(array.shape, np.uint8)
    label[3:6, 2:4, 1] = 1
    for scope in ("volume", "slice"):
        intensity = Intensity.for_modality("mr", scope=scope)
        whole, _ = prepare_case(image, case="a", intensity=intensity)
        cropped, geometry = prepare_case(
            image, case="a", intensity=intensity, slicing=Slicing(crop_margin=1), label=label
        )
        assert geometry.plane.crop == (2, 1, 5, 4)
        np.testing.assert_array_equal(cropped, whole[:, 2:7, 1:5])
