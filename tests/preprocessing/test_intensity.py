import json

import numpy as np
import pytest

from samtune.preprocessing.intensity import Intensity, apply

MR, CT, OCT = (Intensity.for_modality(name) for name in ("mr", "ct", "oct"))


def test_mr_maps_the_percentiles_of_positive_voxels_to_0_and_255():
    # 1..1001 on a line: percentile q is 1 + 10 q, so the limits are 6 and 996
    array = np.concatenate([np.zeros(5000), np.arange(1, 1002)]).reshape(-1, 1, 1)
    scaled = apply(array.astype(np.float32), MR).ravel()
    expected = np.rint((np.clip(np.r_[np.zeros(5000), 1:1002], 6, 996) - 6) / 990 * 255)
    assert scaled.dtype == np.uint8
    np.testing.assert_array_equal(scaled, expected)


def test_mr_does_not_depend_on_the_scale():
    array = np.random.default_rng(0).gamma(2, 50, (6, 7, 8))
    np.testing.assert_array_equal(apply(array, MR), apply(array * 1024, MR))


def test_ct_maps_its_window_to_0_and_255():
    hu = np.array([-1024, -160, 40, 240, 3000], dtype=np.int16).reshape(5, 1, 1)
    assert apply(hu, CT).ravel().tolist() == [0, 0, 128, 255, 255]  # 127.5 rounds to even
    # -1350 to 150 HU: 326 / 1500, 1190 / 1500 and 1390 / 1500 of 255
    lung = Intensity.for_modality("ct", window=(-600, 1500))
    assert apply(hu, lung).ravel().tolist() == [55, 202, 236, 255, 255]


def test_oct_keeps_uint8_and_scales_others_by_minimum_and_maximum():
    array = np.array([3, 7, 200], dtype=np.uint8).reshape(3, 1, 1)
    scaled = apply(array, OCT)
    assert scaled.ravel().tolist() == [3, 7, 200]
    assert not np.shares_memory(scaled, array)
    assert apply(np.array([[[-1.0, 0.0, 1.0]]]), OCT).ravel().tolist() == [0, 128, 255]


@pytest.mark.parametrize("intensity", [MR, OCT], ids=["mr", "oct"])
@pytest.mark.parametrize("value", [0.0, 5.0, -5.0])
def test_a_constant_volume_becomes_zeros(intensity, value):
    assert not apply(np.full((3, 4, 5), value, dtype=np.float32), intensity).any()


def test_mr_with_one_positive_value_or_none_uses_all_voxels():
    assert apply(np.array([[[0, 7, 7]]], dtype=np.int16), MR).ravel().tolist() == [0, 255, 255]
    assert apply(np.array([[[-4, -2, 0]]], dtype=np.int16), MR).ravel().tolist() == [0, 128, 255]


def test_large_integers_keep_their_differences():
    array = (np.int64(2) ** 40 + np.arange(256)).reshape(256, 1, 1)
    np.testing.assert_array_equal(apply(array, OCT).ravel(), np.arange(256))


def test_nan_and_empty_volumes_are_refused():
    with pytest.raises(ValueError, match="2 voxels are NaN or infinite"):
        apply(np.array([[[1.0, np.nan, np.inf]]]), MR)
    with pytest.raises(ValueError, match=r"empty volume of shape \(0, 4, 5\)"):
        apply(np.zeros((0, 4, 5)), MR)


def test_settings_survive_json_and_unknown_keys_are_named():
    for intensity in (MR, CT, OCT):
        assert Intensity.from_dict(json.loads(json.dumps(intensity.to_dict()))) == intensity
    data = CT.to_dict()
    data["width"] = data.pop("window_width")
    with pytest.raises(ValueError, match=r"missing \['window_width'\], unknown \['width'\]"):
        Intensity.from_dict(data)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modality": "xray"}, "modality must be one of mr, ct, oct, rgb: 'xray'"),
        ({"modality": "mr"}, "percentiles None and None"),
        (
            {"modality": "mr", "lower_percentile": 9.0, "upper_percentile": 1.0},
            "percentiles 9.0 and 1.0",
        ),
        ({"modality": "ct", "window_level": 40.0, "window_width": 0.0}, "width 0.0"),
        ({"modality": "ct"}, "window level None"),
        ({"modality": "oct", "window_level": 40.0, "window_width": 1.0}, "others none"),
    ],
)
def test_settings_that_do_not_fit_the_modality_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Intensity(**values)


def test_a_window_for_mr_is_refused():
    with pytest.raises(ValueError, match="a window is for modality ct, got 'mr'"):
        Intensity.for_modality("mr", window=(40, 400))
