import copy
import pickle

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandAffined

from samtune.preprocessing.content_transforms import OnContentd
from samtune.preprocessing.model_frame import (
    frame_to_unit,
    image_to_frame,
    label_to_frame,
    unit_to_frame,
)
from samtune.preprocessing.slice_transforms import LoadSliced, ToFramed
from samtune.training.augmentation import PRESETS, random_transforms
from samtune.training.features import SliceDataset
from samtune.training.slice_data import slice_items

INSIDE = [name for name in PRESETS if name not in ("none", "affine")]


def frame_item(normalization="medsam", size_hw=(24, 40), channels=1, seed=0):
    """A slice wider than high in a frame of 32 pixels: 19 rows are content, 13 padding."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(10, 250, (channels, *size_hw), generator=generator).byte()
    label = torch.zeros(1, *size_hw, dtype=torch.int64)
    label[0, 4:12, 8:20], label[0, 12:20, 20:36] = 1, 5
    return {
        "image": image_to_frame(image, 32, normalization),
        "label": label_to_frame(label, 32),
        "size_hw": np.array(size_hw),
    }


def drawn(preset, item, seed, normalization="medsam"):
    made = random_transforms(preset, normalization=normalization, image_size=32)
    return Compose(made).set_random_state(seed)(copy.deepcopy(item))


def test_the_default_is_rotation_and_zoom_of_the_frame_bit_for_bit():
    item = frame_item()
    reference = RandAffined(
        keys=("image", "label"),
        prob=1.0,
        rotate_range=0.2,
        scale_range=[[1 / 1.2 - 1, 1 / 0.85 - 1]] * 2,
        mode=["bilinear", "nearest"],
        padding_mode="zeros",
    )
    made = random_transforms(rotation=0.2, zoom=[0.85, 1.2], normalization="medsam")
    expected = Compose([reference]).set_random_state(3)(copy.deepcopy(item))
    found = Compose(made).set_random_state(3)(copy.deepcopy(item))
    for key in ("image", "label"):
        assert torch.equal(found[key], expected[key])
        assert not torch.equal(found[key], item[key])


@pytest.mark.parametrize("normalization", ["medsam", "sam"])
@pytest.mark.parametrize("preset", INSIDE)
def test_padding_stays_zero_and_values_stay_those_of_an_image(preset, normalization):
    item = frame_item(normalization)
    changed = 0
    for seed in range(12):
        out = drawn(preset, item, seed, normalization)
        height, width = (32, 19) if list(out["size_hw"]) == [40, 24] else (19, 32)
        for key in ("image", "label"):
            assert type(out[key]) is torch.Tensor
            assert out[key].shape == item[key].shape
            assert out[key].dtype == item[key].dtype
            assert not out[key][:, height:].any()
            assert not out[key][:, :, width:].any()
        inside = frame_to_unit(out["image"][:, :height, :width], normalization)
        assert inside.min() > -1e-5
        assert inside.max() < 1 + 1e-5
        assert set(out["label"].unique().tolist()) <= {0, 1, 5}  # nearest: 2, 3, 4 are no classes
        changed += not torch.equal(out["image"], item["image"])
    assert changed > (
        3 if preset == "sam_adapter" else 10
    )  # half of sam_adapter's draws do nothing


@pytest.mark.parametrize("preset", INSIDE)
def test_image_and_label_move_together(preset):
    """A bright rectangle stays where its label is."""
    item = frame_item()
    item["image"] = torch.where(item["label"] > 0, 0.9, 0.1)
    item["image"][:, 19:] = 0
    for seed in range(10):
        out = drawn(preset, item, seed)
        is_bright = out["image"] > (out["image"].max() + 0.1) / 2
        agree = (is_bright == (out["label"] > 0)).float().mean()
        assert agree > 0.95  # but for interpolated borders


@pytest.mark.parametrize("preset", INSIDE)
def test_one_seed_one_result_and_grey_stays_grey(preset):
    item = frame_item("sam")
    first, second = (drawn(preset, item, 7, "sam") for _ in range(2))
    other = [drawn(preset, item, seed, "sam") for seed in range(8, 14)]
    assert torch.equal(first["image"], second["image"])
    assert any(not torch.equal(first["image"], one["image"]) for one in other)
    unit = frame_to_unit(first["image"][:, :19], "sam")
    torch.testing.assert_close(unit[0], unit[1])
    torch.testing.assert_close(unit[0], unit[2])


@pytest.mark.parametrize("normalization", ["medsam", "sam"])
def test_the_range_0_to_1_is_black_to_white(normalization):
    frame = image_to_frame(torch.tensor([[[0, 255], [255, 0]]]), 2, normalization)
    unit = frame_to_unit(frame, normalization)
    torch.testing.assert_close(unit, torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(len(unit), 2, 2))
    torch.testing.assert_close(unit_to_frame(unit, normalization), frame)


def test_colour_keeps_its_channels():
    item = frame_item("sam", channels=3)
    seen = []
    step = OnContentd([lambda d: seen.append(d["image"].shape) or d], "sam")
    out = step(item)
    assert seen == [(3, 19, 32)]
    torch.testing.assert_close(out["image"], item["image"])
    OnContentd([lambda d: seen.append(d["image"].shape) or d], "sam")(frame_item("sam"))
    assert seen[1] == (1, 19, 32)


def test_oct_is_never_upside_down_and_sam_adapter_turns():
    """The centre of mass of the upper label stays in the upper half, or doesn't."""

    def is_upper(preset, seed):
        item = frame_item(size_hw=(40, 40))
        item["label"] = torch.zeros_like(item["label"])
        item["label"][0, 4:8, 10:22] = 1
        rows = drawn(preset, item, seed)["label"][0].nonzero()[:, 0].float()
        return bool(rows.mean() < 16)

    assert all(is_upper("oct", seed) for seed in range(20))
    assert not all(is_upper("sam_adapter", seed) for seed in range(20))


def test_size_follows_a_quarter_turn():
    turned = [drawn("sam_adapter", frame_item(), seed) for seed in range(60)]
    sizes = {tuple(out["size_hw"].tolist()) for out in turned}
    assert sizes == {(24, 40), (40, 24)}


def test_none_needs_no_views_and_caches_each_slice_once(tiny_manifest, make_network):
    transform = Compose([LoadSliced([1, 3]), ToFramed(32, "medsam")])
    made = random_transforms("none", normalization="medsam")
    data = SliceDataset(
        slice_items(tiny_manifest, "train"),
        transform,
        network=make_network(),
        random_transforms=made,
        views=1,
    )
    first = data[0]["image"]
    data.set_epoch(1)
    assert torch.equal(data[0]["image"], first)
    assert made == []


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_reach_worker_processes(preset):
    made = pickle.loads(pickle.dumps(random_transforms(preset, normalization="sam")))
    assert len(made) == (0 if preset == "none" else 1)


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match=r"augmentation must be one of none, .*, got 'heavy'"):
        random_transforms("heavy", normalization="sam")
    with pytest.raises(ValueError, match=r"zoom must be a range .*, got \[1\.2, 0\.8\]"):
        random_transforms(zoom=[1.2, 0.8], normalization="sam")
