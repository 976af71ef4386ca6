import numpy as np
import pytest

from samtune.preprocessing.intensity import Intensity, apply
from samtune.preprocessing.prepare import prepare_case
from samtune.preprocessing.slicing import slices_to_volume
from samtune.preprocessing.volumes import read_volume


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
