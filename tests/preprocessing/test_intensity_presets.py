import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samtune.preprocessing.intensity import CT_WINDOWS, Intensity, apply
from samtune.preprocessing.percentiles import positive_percentiles


def medsam_as_described(volume, modality, level=40.0, width=400.0):
    """MedSAM's pre_CT_MR.py from its description: clip, min-max of what is left, truncate."""
    volume = volume.astype(np.float64)
    if modality == "ct":
        clipped = np.clip(volume, level - width / 2, level + width / 2)
    else:
        clipped = np.clip(volume, *np.percentile(volume[volume > 0], (0.5, 99.5)))
    scaled = (clipped - clipped.min()) / (clipped.max() - clipped.min()) * 255.0
    if modality != "ct":
        scaled[volume == 0] = 0
    return np.uint8(scaled)


@pytest.mark.parametrize("modality", ["mr", "ct", "oct"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("shape", [(4, 5, 6), (41, 42, 43)])  # the larger one by look-up table
def test_medsam_preset_is_what_its_description_says(modality, dtype, shape):
    volume = np.random.default_rng(3).normal(60, 90, shape).astype(dtype)
    volume[0] = 0
    scaled = apply(volume, Intensity.for_modality(modality, preset="medsam"))
    np.testing.assert_array_equal(scaled, medsam_as_described(volume, modality))
    assert scaled.max() == 255


def test_medsam_preset_stretches_a_volume_that_does_not_span_the_window_and_ours_does_not():
    hu = np.array([-100, 0, 100], dtype=np.int16).reshape(3, 1, 1)
    medsam = apply(hu, Intensity.for_modality("ct", preset="medsam"))
    assert medsam.ravel().tolist() == [0, 127, 255]  # 127.5, truncated
    # -160..240 HU: 60 / 400, 160 / 400 and 260 / 400 of 255
    ours = apply(hu, Intensity.for_modality("ct", preset="soft_tissue"))
    assert ours.ravel().tolist() == [38, 102, 166]


def test_medsam_preset_takes_another_window_and_keeps_zeros_zero():
    hu = np.array([-2000, -600, 900], dtype=np.int16).reshape(3, 1, 1)
    lung = Intensity.for_modality("ct", preset="medsam", window=(-600, 1500))
    expected = medsam_as_described(hu, "ct", -600, 1500)
    np.testing.assert_array_equal(apply(hu, lung), expected)
    mr = np.array([-8.0, 0.0, 4.0, 8.0]).reshape(4, 1, 1)  # clipped from 4.02 to 7.98
    scaled = apply(mr, Intensity.for_modality("mr", preset="medsam")).ravel()
    assert scaled.tolist() == [0, 0, 0, 255]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("soft_tissue", -160, 240),
        ("lung", -1350, 150),
        ("brain", 0, 80),
        ("bone", -500, 1300),
        ("liver", -45, 105),
    ],
)
def test_window_presets_map_their_ends_whatever_the_volume_spans(name, low, high):
    intensity = Intensity.for_modality("ct", preset=name)
    level, width = CT_WINDOWS[name]
    assert (level - width / 2, level + width / 2) == (low, high)
    ends = np.array([low - 1, low, high, high + 1], dtype=np.float32).reshape(4, 1, 1)
    assert apply(ends, intensity).ravel().tolist() == [0, 0, 255, 255]
    step = low + (high - low) / 255  # the first grey level, alone in its volume
    assert apply(np.full((1, 1, 1), step), intensity).item() == 1


@pytest.mark.parametrize("modality", ["oct", "rgb"])
def test_two_dimensional_modalities_keep_their_values_or_take_percentiles(modality):
    colour = np.random.default_rng(0).integers(0, 200, (2, 9, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(apply(colour, Intensity.for_modality(modality)), colour)
    scaled = apply(colour, Intensity.for_modality(modality, percentiles=(5, 95)))
    low, high = np.percentile(colour[colour > 0], (5, 95))  # one pair for all channels
    expected = np.rint((np.clip(colour.astype(float), low, high) - low) / (high - low) * 255)
    np.testing.assert_array_equal(scaled, expected)


def test_scope_slice_scales_each_slice_by_its_own_limits():
    stack = np.random.default_rng(1).gamma(2, 30, (3, 8, 9)) * np.array([1, 10, 100])[:, None, None]
    one = Intensity.for_modality("mr", scope="slice")
    volume = Intensity.for_modality("mr")
    scaled = apply(stack, one)
    for index in range(3):
        np.testing.assert_array_equal(scaled[index], apply(stack[index][None], volume)[0])
    assert not np.array_equal(scaled, apply(stack, volume))


def test_16_bits_hold_what_8_bits_round_away():
    hu = np.arange(-160, 241, dtype=np.int16).reshape(401, 1, 1)
    deep = apply(hu, Intensity.for_modality("ct", bits=16))
    assert deep.dtype == np.uint16
    np.testing.assert_array_equal(deep.ravel(), np.rint(np.arange(401) / 400 * 65535))
    stored = np.array([0, 9, 65535], dtype=np.uint16).reshape(3, 1, 1)
    oct16 = Intensity.for_modality("oct", bits=16)
    np.testing.assert_array_equal(apply(stored, oct16), stored)
    eight = np.array([0, 1, 255], dtype=np.uint8).reshape(3, 1, 1)
    assert apply(eight, oct16).ravel().tolist() == [0, 257, 65535]


@settings(max_examples=60, deadline=None)
@given(
    array=st.sampled_from([np.int16, np.uint16, np.uint8, np.int32, np.float32]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
            elements={"allow_nan": False, "allow_infinity": False} if dtype is np.float32 else None,
        )
    ),
    low=st.floats(0, 100),
    high=st.floats(0, 100),
)
def test_percentiles_are_those_of_numpy(array, low, high):
    positive = array[array > 0].astype(np.float64)
    found = positive_percentiles(array, (low, high))
    if positive.size == 0:
        assert found is None
    else:
        assert found == tuple(np.percentile(positive, (low, high)))


@pytest.mark.parametrize("modality", ["mr", "ct"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_the_look_up_table_gives_what_the_arithmetic_gives(modality, dtype):
    array = np.random.default_rng(0).integers(0, 900, (41, 42, 43)).astype(dtype)
    intensity = Intensity.for_modality(modality)
    expected = apply(array.astype(np.float64), intensity)  # float: no table
    np.testing.assert_array_equal(apply(array, intensity), expected)
    turned = np.moveaxis(array, 2, 0)[::-1]  # not contiguous
    np.testing.assert_array_equal(apply(turned, intensity), np.moveaxis(expected, 2, 0)[::-1])


def test_new_settings_survive_json_and_defaults_leave_older_records_as_they_were():
    assert set(Intensity.for_modality("mr").to_dict()) == {
        "modality",
        "lower_percentile",
        "upper_percentile",
        "window_level",
        "window_width",
    }
    for intensity in (
        Intensity.for_modality("mr", scope="slice", bits=16, percentiles=(1, 99)),
        Intensity.for_modality("ct", preset="medsam", window=(-600, 1500)),
        Intensity.for_modality("rgb"),
    ):
        assert Intensity.from_dict(json.loads(json.dumps(intensity.to_dict()))) == intensity


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"modality": "mr", "preset": "lung"}, "preset lung is for modality ct, got 'mr'"),
        ({"modality": "ct", "preset": "liver", "window": (1, 2)}, "not both"),
        ({"modality": "ct", "preset": "spine"}, "preset must be one of soft_tissue"),
        ({"modality": "ct", "percentiles": (1, 99)}, "ct has none"),
        ({"modality": "mr", "percentiles": (99, 1)}, "percentiles 99.0 and 1.0"),
        ({"modality": "mr", "percentiles": (99,)}, "expected lower and upper"),
        ({"modality": "mr", "scope": "patient"}, "scope must be volume or slice, got 'patient'"),
        ({"modality": "mr", "bits": 12}, "12 bits"),
        ({"modality": "mr", "bits": 16, "preset": "medsam"}, "preset medsam is 8 bit"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        Intensity.for_modality(**settings_)
