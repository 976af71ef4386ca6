"""Data, batches and networks of prompted training, by what the prompts have to be."""

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer
from monai.transforms import Compose, RandAffined
from torch import nn
from torch.utils.data import DataLoader

from samtune.peft.adapt import adapt
from samtune.preprocessing.prompt_schemes import PRESETS, PromptScheme, make_prompts
from samtune.preprocessing.prompt_transforms import collate_prompts
from samtune.preprocessing.prompts import tight_box
from samtune.preprocessing.slice_transforms import LoadSliced, ToClassMapd, ToFramed
from samtune.training.features import PrepareSlices
from samtune.training.network import build_network
from samtune.training.prompt_loss import PromptLoss, prompt_loss
from samtune.training.prompt_plan import KINDS, plan_of_settings, prompt_plan
from samtune.training.prompted import (
    PreparePrompts,
    PromptedInferer,
    PromptedSlices,
    RunPrompts,
    by_region,
)
from samtune.training.run_folder import TrainedRun
from samtune.training.segment_slice import segment_slice
from samtune.training.slice_data import slice_items
from samtune.training.task import make_task, task_of


@pytest.fixture
def make_data(tiny_manifest, make_network):
    """Training slices at 32 pixels over cached and turned views."""

    def make(kind="box", *, views=3, seed=0, network=None, **options):
        task = task_of(tiny_manifest)
        plan = prompt_plan(kind, task, seed=seed, **options)
        turn = RandAffined(
            keys=["image", "label"], prob=1.0, rotate_range=1.0, mode=["bilinear", "nearest"]
        )
        data = PromptedSlices(
            slice_items(tiny_manifest, "train", labelled_only=True),
            Compose([LoadSliced(task.class_values), ToFramed(32, "medsam")]),
            network=make_network() if network is None else network,
            random_transforms=[turn] if views > 1 else [],
            views=views,
            seed=seed,
            prompts=plan,
        )
        return data, plan

    return make


def test_targets_are_the_labels_of_the_view_and_boxes_are_theirs_moved_outward(make_data):
    data, plan = make_data()
    seen, moved = 0, set()
    for epoch in range(1, 6):
        data.set_epoch(epoch)
        for index in range(len(data)):
            item = data[index]
            for box, target, region in zip(
                item["boxes"], item["targets"][:, 0], plan.regions, strict=True
            ):
                expected = torch.isin(item["label"][0], torch.tensor(region))
                assert torch.equal(target, expected)
                tight = tight_box(target.numpy())
                if tight is None:
                    assert box.isnan().all()
                    continue
                outward = (torch.tensor(tight) - box) * torch.tensor([1, 1, -1, -1])
                # MedSAM's 0 to 20 pixels of 1024, here of 32
                assert outward.min() >= 0
                assert outward.max() <= 20 * 32 / 1024 + 1e-5
                seen += 1
                moved.add(tuple(outward.tolist()))
    assert seen > 20
    assert len(moved) > 0.9 * seen  # drawn anew each time


def test_points_lie_within_their_mask(make_data):
    data, _ = make_data("point")
    for epoch in range(1, 4):
        data.set_epoch(epoch)
        for index in range(len(data)):
            item = data[index]
            assert item["boxes"].isnan().all()
            for point, label, target in zip(
                item["points"][:, 0], item["point_labels"][:, 0], item["targets"], strict=True
            ):
                assert (label == 1) == bool(target.any())
                if label == 1:
                    x, y = point.int().tolist()
                    assert target[0, y, x]


def test_draws_go_by_seed_epoch_and_slice_alone(make_data):
    data, _ = make_data("clicks")
    again, _ = make_data("clicks")
    other, _ = make_data("clicks", seed=1)
    data.set_epoch(4)
    first = [data[i] for i in range(len(data))]
    for epoch in (1, 4):
        again.set_epoch(epoch)
        other.set_epoch(epoch)
        found = [again[i] for i in reversed(range(len(again)))][::-1]
    same = [
        all(torch.equal(a[k].nan_to_num(), b[k].nan_to_num()) for k in ("boxes", "points"))
        and a["prompt_seed"] == b["prompt_seed"]
        for a, b in zip(first, found, strict=True)
    ]
    assert all(same)
    assert len({item["prompt_seed"] for item in first}) == len(first)
    assert {i["prompt_seed"] for i in first}.isdisjoint(
        other[i]["prompt_seed"] for i in range(len(other))
    )


def test_first_prompts_of_clicks_are_points_or_noisy_boxes(rng):
    label = np.zeros((64, 64), np.int64)
    label[20:40, 10:50] = 1
    boxes, points = [], 0
    for _ in range(400):
        made = make_prompts(label, [[1]], "sam_first", rng)
        has_box, has_point = not np.isnan(made.boxes).any(), bool((made.point_labels == 1).any())
        assert has_box != has_point
        points += has_point
        if has_box:
            boxes.append(made.boxes[0] - (10, 20, 50, 40))
    assert 160 < points < 240
    moves = np.array(boxes)
    most = 20 * 64 / 1024
    assert np.abs(moves).max() <= most + 1e-5
    assert np.abs(moves.mean(0)).max() < 0.3  # in as well as out
    assert (np.abs(moves) > most - 1e-5).mean() > 0.3  # a tenth of 40 is more than that


def test_evaluation_leaves_nothing_to_chance(rng):
    named = {"box": "oracle_box", "point": "centre_point", "hybrid": "oracle_hybrid"}
    for kind, preset in named.items():
        assert KINDS[kind].without_chance() == PRESETS[preset]
        plan = prompt_plan(kind, make_task({1: "a"}))
        assert plan.protocol()["prompt"] == preset
    assert KINDS["clicks"].without_chance() == PRESETS["centre_point"]
    assert prompt_plan("clicks", make_task({1: "a"})).protocol()["prompt"] == "clicks_3"
    label = rng.integers(0, 3, (16, 16))
    for scheme in PRESETS.values():
        a, b = (
            make_prompts(label, [[1], [2]], scheme.without_chance(), np.random.default_rng(seed))
            for seed in (0, 1)
        )
        assert np.array_equal(a.boxes, b.boxes, equal_nan=True)
        assert np.array_equal(a.points, b.points)


def test_a_region_that_a_folder_annotates_in_part_is_not_prompted_for(make_data):
    data, plan = make_data("box", views=1)
    item = dict(data[0])
    item.pop("boxes")
    item["annotated"] = torch.tensor([True, False])
    drawn = data.draw(item)
    has = ~drawn["boxes"].isnan().any(-1)
    assert plan.regions == [[1], [2], [1, 2]]
    assert has.tolist() == [True, False, False]


def test_settings_are_read_back():
    task = make_task({1: "a", 2: "b"}, {"both": [1, 2]})
    scheme = {"box": "tight", "regions": "all", "one_per": "region", "jitter_px": [0, 3]}
    for plan in (
        prompt_plan("box", task, scheme=scheme),
        prompt_plan("clicks", task, clicks=2, refinements=1, val_clicks=5),
    ):
        assert plan_of_settings(plan.settings, task) == plan


@pytest.mark.parametrize("preset", ["finetune_sam_point", "finetune_sam_hybrid"])
def test_without_chance_every_part_keeps_the_point_in_its_centre(preset):
    label = np.zeros((20, 40), np.int64)
    label[2:9, 2:9] = label[2:7, 20:25] = label[12:15, 30:33] = 1
    scheme = PRESETS[preset].without_chance()
    made = make_prompts(label, [[1]], scheme, np.random.default_rng(0))
    points = made.points[made.point_labels == 1].tolist()
    assert points == [[5, 5], [22, 4], [31, 13]]
    if scheme.box == "tight":
        assert made.boxes.tolist() == [[2, 2, 9, 9], [20, 2, 25, 7], [30, 12, 33, 15]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": "boxes"}, "prompts must be one of box, point, hybrid, clicks, got 'boxes'"),
        ({"scheme": "centre_point"}, "prompt_scheme doesn't fit prompts 'box'"),
        ({"scheme": {"bix": "tight"}}, "prompt_scheme has unknown keys.*known are box"),
        ({"clicks": -1}, "clicks must be at least 0, got -1"),
        ({"val_clicks": 0}, "val_clicks must be at least 1, got 0"),
    ],
)
def test_bad_plans_are_refused(changes, message):
    given = {"prompts": "box", **changes}
    with pytest.raises(ValueError, match=message):
        prompt_plan(given.pop("prompts"), make_task({1: "a"}), **given)


def test_channels_that_overlap_are_refused():
    task = make_task({1: "a"}, activation="sigmoid")
    with pytest.raises(ValueError, match="prompted training has no class channels"):
        prompt_plan("box", task)


# The network


def prompted(make_network, kind, **options):
    network = make_network(None, decoder="frozen")
    network.prompts = kind
    options = {"decoder": "full", **options}
    network.summary = adapt(network, None, **options)
    network.class_head.requires_grad_(False)
    return network


def steps(data, plan, network):
    loader = DataLoader(data, batch_size=3, collate_fn=collate_prompts)
    prepare = PreparePrompts(plan, data, training=True)
    inferer, loss = PromptedInferer(plan, training=True), prompt_loss(plan)
    for batch in loader:
        image, targets, _, keywords = prepare(batch, torch.device("cpu"))
        yield inferer(image, network, **keywords), targets, loss


@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_parameter_has_a_gradient(make_data, make_network, kind):
    network = prompted(make_network, kind)
    data, plan = make_data(kind, network=network, clicks=2, refinements=1)
    data.set_epoch(1)
    for found, targets, loss in steps(data, plan, network):
        loss(found, targets).backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    trained = {name.split(".")[1] for name, p in network.named_parameters() if p.requires_grad}
    assert ("iou_prediction_head" in trained) == (kind == "clicks")
    assert not any(p.requires_grad for p in network.class_head.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_a_prompt_gives_each_parameter_a_gradient_of_zero(
    make_data, make_network, kind
):
    network = prompted(make_network, kind)
    data, plan = make_data(kind, network=network, clicks=1, refinements=1)
    batch = collate_prompts([data[0], data[1]])
    batch["boxes"][:] = torch.nan
    batch["point_labels"][:] = -1
    image, targets, _, keywords = PreparePrompts(plan, data, training=True)(batch, "cpu")
    found = PromptedInferer(plan, training=True)(image, network, **keywords)
    prompt_loss(plan)(found, targets).backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


def test_the_loss_of_a_prompt_is_not_changed_by_slices_without_one(make_data, make_network):
    network = prompted(make_network, "box")
    data, plan = make_data("box", network=network)
    batch = collate_prompts([data[0], data[1]])
    batch["boxes"][1] = torch.nan
    prepare = PreparePrompts(plan, data, training=True)
    inferer, loss = PromptedInferer(plan, training=True), PromptLoss()
    both, alone = [], []
    for given, out in ((batch, both), ({k: v[:1] for k, v in batch.items()}, alone)):
        network.zero_grad()
        image, targets, _, keywords = prepare(given, "cpu")
        loss(inferer(image, network, **keywords), targets).backward()
        out += [p.grad.clone() for p in network.parameters() if p.grad is not None]
    for a, b in zip(both, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_several_prompts_for_a_region_are_put_together():
    logits = torch.tensor([[1.0, -2, 3, 9]])[..., None, None].expand(1, 4, 2, 2)
    out = by_region(logits, torch.tensor([[0, 0, 2, -1]]), 3)
    assert out[0, :, 0, 0].tolist() == [1, -torch.inf, 3]


def test_class_head_is_frozen_and_a_forward_without_prompts_refused():
    network = build_network(checkpoint="random", image_size=128, num_classes=2, prompts="box")
    names = {name for name, p in network.named_parameters() if p.requires_grad}
    assert "mask_decoder.mask_tokens.weight" in names
    assert not any(name.startswith(("class_head", "prompt_encoder")) for name in names)
    assert network.summary.components["class head"][0] == 0
    with pytest.raises(ValueError, match=r"trained with prompts \(box\).*give boxes or points"):
        network(torch.zeros(1, 1, 128, 128))
    with pytest.raises(ValueError, match=r"prompts: box with decoder: frozen.*nothing is trained"):
        build_network(checkpoint="random", num_classes=2, decoder="frozen", prompts="box")
    with pytest.raises(ValueError, match="prompts must be one of none, box"):
        build_network(checkpoint="random", num_classes=2, prompts="boxes")


def test_a_run_without_prompts_is_nothing_untouched(tmp_path):
    run = TrainedRun(tmp_path, {"settings": {}}, make_task({1: "a"}))
    with pytest.raises(ValueError, match="trained without prompts: untouched it has no classes"):
        run.network("none")
    run.check_prompt_free()


def test_runs_without_prompts_are_evaluated_as_before(tmp_path):
    task = make_task({1: "a"})
    parts = RunPrompts(TrainedRun(tmp_path, {"settings": {}}, task), nn.Identity())
    assert parts.plan is None
    assert isinstance(parts.prepare_batch, PrepareSlices)
    assert isinstance(parts.inferer, SimpleInferer)
    assert isinstance(parts.postprocessing, ToClassMapd)
    assert parts.protocol == {"prompt": "none"}
    item = {"a": 1}
    assert parts.transform(item) is item


# One slice by prompts of its own pixels


def test_prompts_in_pixels_of_the_slice_go_to_the_frame(make_network, rng):
    network = prompted(make_network, "hybrid").eval()
    image = rng.integers(0, 255, (16, 64)).astype(np.uint8)
    found = segment_slice(network, image, boxes=[(8, 2, 40, 12), None], points=[[], [(11, 5, 1)]])
    assert found.shape == (2, 16, 64)
    frame = ToFramed(32, "medsam")(
        {"image": torch.from_numpy(image)[None], "size_hw": image.shape}
    )["image"]
    with torch.no_grad():
        box, _ = network(frame[None], boxes=torch.tensor([[[4.0, 1, 20, 6]]]))
        point, _ = network(
            frame[None],
            points=torch.tensor([[[[5.25, 2.25]]]]),  # pixel centres: (11.5, 5.5) / 2 - 0.5
            point_labels=torch.tensor([[[1]]]),
        )
    for mask, expected in zip(found, (box, point), strict=True):
        shrunk = torch.nn.functional.interpolate(
            expected[:, :, :8], (16, 64), mode="bilinear", align_corners=False
        )
        np.testing.assert_allclose(mask, shrunk[0, 0].numpy(), rtol=1e-4, atol=1e-4)


def test_one_click_alone_takes_the_best_of_three_masks(make_network, rng):
    network = prompted(make_network, "clicks").eval()
    image = rng.integers(0, 255, (32, 32)).astype(np.uint8)
    one = segment_slice(network, image, points=[[(11, 5, 1)]])
    network.prompts = "point"
    single = segment_slice(network, image, points=[[(11, 5, 1)]])
    assert not np.allclose(one, single)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "boxes and points must be for the same prompts, got 0 and 0"),
        ({"boxes": [None]}, "prompt 0 has neither box nor point"),
        ({"boxes": [(0, 0, 4, 4)], "points": [[], []]}, "got 1 and 2"),
        ({"boxes": [(5, 0, 5, 4)]}, "prompt 0: box must be x0,y0,x1,y1 with 0 <= x0 < x1 <= 20"),
        ({"points": [[(20, 0, 1)]]}, "x below 20, y below 10 and label 1"),
        ({"points": [[(2, 0, 2)]]}, r"got \[2, 0, 2\]"),
    ],
)
def test_bad_prompts_of_a_slice_are_refused(make_network, given, message):
    network = prompted(make_network, "box")
    with pytest.raises(ValueError, match=message):
        segment_slice(network, np.zeros((10, 20), np.uint8), **given)


def test_a_network_trained_without_prompts_takes_none(make_network):
    with pytest.raises(ValueError, match="trained without prompts"):
        segment_slice(make_network(), np.zeros((8, 8), np.uint8), boxes=[(0, 0, 4, 4)])


def test_schemes_with_both_or_neither_are_told_apart():
    with pytest.raises(ValueError, match="either a box or points"):
        PromptScheme(box="tight", either=True)
