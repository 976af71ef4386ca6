import numpy as np
import pytest
import torch
from monai.transforms import RandAffined

from samtune.preprocessing.prompt_schemes import PromptScheme
from samtune.preprocessing.prompt_transforms import PromptsFromLabeld, collate_prompts
from samtune.preprocessing.slice_transforms import ToFramed


@pytest.fixture
def item():
    """A slice of 24 x 48 with an 8 x 8 square of class 1."""
    label = torch.zeros(1, 24, 48, dtype=torch.int64)
    label[0, 12:20, 4:12] = 1
    return {
        "case": "a",
        "index": 3,
        "image": torch.rand(1, 24, 48),
        "label": label,
        "size_hw": np.array([24, 48]),
    }


@pytest.mark.parametrize("image_size", [96, 48, 24])
def test_points_keep_to_their_class_in_the_frame(item, image_size):
    scheme = PromptScheme(num_points=64, num_background=60)  # every pixel of the class
    out = ToFramed(image_size, "medsam")(PromptsFromLabeld([[1]], scheme)(item))
    # pixel centres, as SAM understands them
    x, y = (out["points"][0] + 0.5).T
    scale = image_size / 48
    inside = (x > 4 * scale) & (x < 12 * scale) & (y > 12 * scale) & (y < 20 * scale)
    assert inside.sum() == 64
    assert torch.equal(inside, out["point_labels"][0] == 1)


def test_prompts_made_in_the_frame_leave_its_padding_out(item):
    framed = ToFramed(96, "medsam")(item)
    box = PromptsFromLabeld([[1]], "oracle_box")(framed)["boxes"]
    assert box.tolist() == [[8, 24, 24, 40]]
    assert PromptsFromLabeld([[1]], "full_box")(framed)["boxes"].tolist() == [[0, 0, 96, 48]]
    before = ToFramed(96, "medsam")(PromptsFromLabeld([[1]], "full_box")(item))
    assert before["boxes"].tolist() == [[0, 0, 96, 48]]
    scheme = PromptScheme(num_background=500)
    points = PromptsFromLabeld([[1]], scheme)(framed)["points"]
    assert points[..., 1].max() < 48


@pytest.mark.parametrize("framed_first", [True, False])
def test_targets_are_in_the_frame_too(item, framed_first):
    prompts = PromptsFromLabeld([[1], [1, 2], [2]], "oracle_box", targets=True)
    frame = ToFramed(96, "medsam")
    out = prompts(frame(item)) if framed_first else frame(prompts(item))
    assert out["targets"].shape == (3, 1, 96, 96)
    assert out["targets"].dtype == torch.bool
    assert torch.equal(out["targets"][0], out["label"] == 1)
    assert torch.equal(out["targets"][1], out["label"] == 1)
    assert not out["targets"][2].any()
    assert out["owners"].tolist() == [0, 1, 2]


def test_prompts_depend_on_seed_epoch_and_slice_alone(item):
    def boxes(seed=0, epoch=0, **change):
        transform = PromptsFromLabeld([[1]], "sam_lora", seed=seed)
        transform.set_epoch(epoch)
        transform({**item, "index": 9})  # another slice before
        return transform({**item, **change})["points"].tolist()

    assert boxes() == boxes()
    assert len({str(found) for found in (boxes(), boxes(1), boxes(0, 1), boxes(index=4))}) == 4


def test_batches_are_padded_to_the_most_prompts_and_points(item):
    scheme = PromptScheme(box="tight", regions="all", one_per="region", num_points=1, pad_points=2)
    two = {**item, "label": item["label"].clone()}
    two["label"][0, 2, 30] = 1
    items = [PromptsFromLabeld([[1]], scheme)(given) for given in (item, two)]
    items[0]["points"], items[0]["point_labels"] = (
        items[0]["points"][:, :1],
        items[0]["point_labels"][:, :1],
    )
    batch = collate_prompts(items)
    assert batch["boxes"].shape == (2, 2, 4)
    assert batch["points"].shape == (2, 2, 2, 2)
    assert batch["boxes"].isnan().all(-1).tolist() == [[False, True], [False, False]]
    assert batch["point_labels"][0].tolist() == [[1, -1], [-1, -1]]
    assert torch.equal(batch["boxes"][1], items[1]["boxes"])
    assert batch["image"].shape == (2, 1, 24, 48)
    assert batch["index"].tolist() == [3, 3]


def test_the_item_is_left_alone(item):
    PromptsFromLabeld([[1]], "sam_lora", targets=True)(item)
    assert set(item) == {"case", "index", "image", "label", "size_hw"}


def test_prompts_follow_a_random_transform_of_the_frame(item):
    affine = RandAffined(
        keys=["image", "label"],
        prob=1.0,
        translate_range=[(8, 8), (0, 0)],
        mode=["bilinear", "nearest"],
        padding_mode="zeros",
    )
    affine.set_random_state(seed=1)
    framed = affine(ToFramed(96, "medsam")(item))
    rows, cols = np.nonzero(np.asarray(framed["label"][0]))
    assert rows.min() != 24  # moved
    out = PromptsFromLabeld([[1]], "oracle_box", targets=True)(framed)
    found = [cols.min(), rows.min(), cols.max() + 1, min(rows.max() + 1, 48)]
    assert out["boxes"].tolist() == [found]
    assert type(out["boxes"]) is torch.Tensor
