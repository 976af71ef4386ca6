"""Simulated clicks, against the recipe of SAM's paper (arXiv:2304.02643, appendix A)."""

import numpy as np
import pytest
import torch

from samtune.networks.mask_candidates import mask_candidates
from samtune.networks.prompting import PromptBatch
from samtune.training import clicks as module
from samtune.training.clicks import Clicks, best_masks, click_rounds, error_click

NAN = float("nan")


@pytest.fixture
def target():
    mask = np.zeros((12, 12), bool)
    mask[3:9, 3:9] = True
    return mask


def test_clicks_fall_uniformly_on_the_error_and_say_what_is_there(target, rng):
    mask = np.roll(target, 2, 1)  # two columns too few on the left, two too many on the right
    found = [error_click(mask, target, rng) for _ in range(2000)]
    counts = {}
    for x, y, label in found:
        assert mask[int(y), int(x)] != target[int(y), int(x)]
        assert label == target[int(y), int(x)]
        counts[x, y] = counts.get((x, y), 0) + 1
    assert len(counts) == 24  # every pixel of the error
    assert max(counts.values()) < 2 * 2000 / 24


def test_without_chance_the_click_is_the_centre_of_the_largest_error(target):
    mask = target.copy()
    mask[3:8, 3:8] = False  # lacks 25 pixels, and 4 far away are too many
    mask[10:12, 10:12] = True
    assert error_click(mask, target) == (5, 5, 1)
    mask = target.copy()
    mask[0:3] = True  # 36 too many
    mask[5, 5] = False
    _, y, label = error_click(mask, target)
    assert (y, label) == (1, 0)
    assert error_click(target, target) is None


@pytest.fixture
def scene(make_network, generator):
    """A network and four prompts: point, box, nothing, point and box."""
    network = make_network(None).eval()
    embedding = network.encode(torch.rand(2, 1, 32, 32, generator=generator))
    boxes = torch.full((2, 2, 4), NAN)
    boxes[0, 1] = torch.tensor([4.0, 4, 20, 20])
    boxes[1, 1] = torch.tensor([2.0, 2, 30, 30])
    points = torch.full((2, 2, 1, 2), 9.0)
    labels = torch.tensor([[[1], [-1]], [[-1], [1]]])
    targets = torch.zeros(2, 2, 32, 32, dtype=torch.bool)
    targets[:, :, 5:15, 5:15] = True
    targets[1, 0] = False
    return network, embedding, boxes, points, labels, targets


@pytest.mark.parametrize("chance", [True, False])
def test_rounds_grow_by_a_click_in_the_error_and_carry_the_mask(scene, monkeypatch, chance):
    network, embedding, boxes, points, labels, targets = scene
    asked = []

    def spy(segmenter, embedding, prompts, *, single):
        found = mask_candidates(segmenter, embedding, prompts, single=single)
        asked.append((prompts, found))
        return found

    monkeypatch.setattr(module, "mask_candidates", spy)
    seeds = torch.tensor([3, 4]) if chance else None
    with torch.no_grad():
        rounds = click_rounds(
            network, embedding, boxes, points, labels, Clicks(targets, 4, 2, seeds)
        )
    assert rounds["first"].shape == (2, 2, 4, 32, 32)
    assert rounds["later"].shape == (2, 2, 6, 32, 32)
    assert rounds["ambiguous"].tolist() == [[True, False], [False, False]]
    assert rounds["valid"].tolist() == [[True, True], [False, True]]
    assert asked[0][0].masks is None
    first = asked[0][1]
    best = 1 + int(first.iou[0, 0, 1:].argmax())
    given = asked[1][0].masks
    assert torch.equal(given[0, 0], first.logits[0, 0, best])  # the best of three
    assert torch.equal(given[0, 1], first.logits[0, 1, 0])
    assert given[1, 0].isnan().all()  # no prompt stays no prompt
    for number in (0, 1):
        new = [(prompts.point_labels[number, :, -1] >= 0).any().item() for prompts, _ in asked[1:]]
        assert sum(new) == 4
        assert not new[-1]  # the last round refines
    for (prompts, _), shown in zip(
        asked[1:], [rounds["first"][:, :, 0], *rounds["later"].unbind(2)], strict=False
    ):
        for b, p in ((0, 1), (1, 1)):  # of the others the first mask is one of three
            label = int(prompts.point_labels[b, p, -1])
            if label >= 0:
                x, y = prompts.points[b, p, -1].int().tolist()
                wanted = bool(targets[b, p, y, x])
                assert wanted == (label == 1)
                assert wanted != bool(shown[b, p, y, x] > 0)
    assert torch.equal(best_masks(rounds), rounds["later"][:, :, -1])


def test_clicks_depend_on_the_seed_of_the_slice_alone(scene):
    network, embedding, boxes, points, labels, targets = scene
    seeds = torch.tensor([3, 4])
    with torch.no_grad():
        both = click_rounds(network, embedding, boxes, points, labels, Clicks(targets, 3, 1, seeds))
        alone = click_rounds(
            network,
            embedding[1:],
            boxes[1:],
            points[1:],
            labels[1:],
            Clicks(targets[1:], 3, 1, seeds[1:]),
        )
        other = click_rounds(
            network, embedding, boxes, points, labels, Clicks(targets, 3, 1, seeds + 1)
        )
    torch.testing.assert_close(both["later"][1:], alone["later"], rtol=1e-4, atol=1e-4)
    assert not torch.equal(both["later"], other["later"])


def test_one_point_alone_ends_with_the_best_of_three_a_box_with_the_single_mask(scene):
    network, embedding, boxes, points, labels, targets = scene
    with torch.no_grad():
        rounds = click_rounds(network, embedding, boxes, points, labels, Clicks(targets, 0, 0))
    masks = best_masks(rounds)
    best = 1 + int(rounds["first_iou"][0, 0, 1:].argmax())
    assert torch.equal(masks[0, 0], rounds["first"][0, 0, best])
    assert torch.equal(masks[0, 1], rounds["first"][0, 1, 0])


def test_candidates_are_upstreams_masks_and_qualities(scene):
    network, embedding, boxes, *_ = scene
    with torch.no_grad():
        found = mask_candidates(
            network, embedding, PromptBatch(boxes, None, None, None), single=False
        )
        sparse, dense = network.prompt_encoder(None, boxes[0, 1:], None)
        masks, iou = network.mask_decoder.predict_masks(
            embedding[:1], network.prompt_encoder.get_dense_pe(), sparse, dense
        )
    torch.testing.assert_close(found.logits[0, 1], masks[0])
    torch.testing.assert_close(found.iou[0, 1], iou[0])
    assert found.valid.tolist() == [[False, True], [False, True]]


def test_nothing_is_clicked_where_nobody_judged(scene):
    network, embedding, boxes, points, labels, targets = scene
    judged = torch.zeros(2, 32, 32, dtype=torch.bool)
    judged[:, :, 20:] = True  # beside the target: only what is too much can be wrong
    asked = []
    new_clicks = module._new_clicks

    def spy(*args):
        found = new_clicks(*args)
        asked.extend(click for row in found for click in row if click is not None)
        return found

    clicks = Clicks(targets & judged[:, None], 4, 0, torch.tensor([3, 4]), judged=judged)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_new_clicks", spy)
        click_rounds(network, embedding, boxes, points, labels, clicks)
    assert asked
    assert all(x >= 20 and label == 0 for x, _, label in asked)
