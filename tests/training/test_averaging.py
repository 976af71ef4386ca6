import numpy as np
import pytest
import torch

from samtune.peft.adapt import trained_state
from samtune.preprocessing.model_frame import image_to_frame, logits_to_slice
from samtune.training.averaging import FLIPS, AveragedSegmenter, flip_content


@pytest.fixture
def networks(make_network):
    """Two networks of one base with other trained weights."""
    first, second = make_network().eval(), make_network().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for network in (first, second):
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return first, second


@pytest.fixture
def images():
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_one_network_without_flips_is_passed_through(networks, images):
    averaged = AveragedSegmenter(networks[:1])
    assert torch.equal(averaged(images), networks[0](images))
    assert (averaged.image_size, averaged.normalization) == (32, "medsam")


@torch.no_grad()
def test_the_mean_is_of_probabilities_not_of_logits(networks, images):
    expected = torch.stack([network(images).softmax(1) for network in networks]).mean(0)
    of_logits = torch.stack([network(images) for network in networks]).mean(0).softmax(1)
    found = AveragedSegmenter(networks)(images).softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, of_logits, atol=1e-3)


@torch.no_grad()
def test_channels_that_overlap_are_averaged_each_for_itself(networks, images):
    for network in networks:
        network.activation = "sigmoid"
    expected = torch.stack([network(images)[:, 1:].sigmoid() for network in networks]).mean(0)
    found = AveragedSegmenter(networks)(images)
    torch.testing.assert_close(found[:, 1:].sigmoid(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[:, 0], torch.zeros_like(found[:, 0]))
    sure = (expected - 0.5).abs() > 1e-4  # of random weights a part is 0 exactly
    assert sure.any()
    assert torch.equal((found[:, 1:] > 0)[sure], (expected > 0.5)[sure])


@torch.no_grad()
def test_extreme_logits_stay_finite(networks, images):
    for network in networks:
        network.class_head.bias.mul_(0).add_(300)
    assert AveragedSegmenter(networks, flips="h")(images).isfinite().all()


@torch.no_grad()
def test_a_network_and_itself_give_its_own_label_at_any_size(networks, images):
    alone, twice = networks[0](images), AveragedSegmenter([networks[0]] * 2)(images)
    for size in ((32, 20), (75, 51)):
        for one, other in zip(alone, twice, strict=True):
            labels = [logits_to_slice(logits, size).argmax(0) for logits in (one, other)]
            assert (labels[0] == labels[1]).float().mean() > 0.999  # a tie may fall the other way


@torch.no_grad()
@pytest.mark.parametrize("flips", ["h", "v", "hv"])
def test_flips_are_those_of_the_slice_not_of_its_frame(networks, flips):
    """By hand: the slice is flipped before it is framed, its probabilities are flipped back."""
    network = networks[0]
    slices = [np.random.default_rng(n).integers(0, 255, s) for n, s in enumerate([(9, 5), (4, 8)])]
    frames = [image_to_frame(torch.tensor(one)[None], 32, "medsam") for one in slices]
    sizes = torch.tensor([one.shape for one in slices])
    averaged = AveragedSegmenter([network], flips=flips)
    found = averaged(torch.stack(frames), size_hw=sizes).softmax(1)
    assert len(FLIPS[flips]) == {"h": 2, "v": 2, "hv": 4}[flips]
    for number, image in enumerate(slices):
        height, width = (round(side * 32 / max(image.shape)) for side in image.shape)
        views = []
        for axes in FLIPS[flips]:
            turned = np.ascontiguousarray(np.flip(image, axes))
            frame = image_to_frame(torch.tensor(turned)[None], 32, "medsam")
            content = network(frame[None]).softmax(1)[0, :, :height, :width]
            views.append(content.flip(axes))
        expected = torch.stack(views).mean(0)
        torch.testing.assert_close(found[number, :, :height, :width], expected, rtol=0, atol=2e-4)
    assert not torch.allclose(found, network(torch.stack(frames)).softmax(1), atol=4e-3)


def test_flipping_twice_is_nothing_and_padding_stays(images):
    sizes = torch.tensor([(32, 32), (20, 32), (32, 11)])
    once = flip_content(images, (-1, -2), sizes, 32)
    assert torch.equal(flip_content(once, (-1, -2), sizes, 32), images)
    assert torch.equal(once[1, :, 20:], images[1, :, 20:])
    assert torch.equal(once[2, :, :, 11:], images[2, :, :, 11:])
    assert not torch.equal(once[1, :, :20], images[1, :, :20])


@torch.no_grad()
@pytest.mark.parametrize("flips", ["none", "h"])
def test_one_base_with_several_trained_parts_equals_separate_networks(
    networks, make_network, images, flips
):
    shared = make_network().eval()
    sets = [{k: v.clone() for k, v in trained_state(n).items()} for n in networks]
    found = AveragedSegmenter([shared], trained=[sets], flips=flips)
    expected = AveragedSegmenter(networks, flips=flips)
    assert found.num_members == expected.num_members == 2
    torch.testing.assert_close(found(images), expected(images), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_frozen_part_of_a_shared_base_runs_once_a_view(
    networks, make_network, images, monkeypatch
):
    shared, calls = make_network().eval(), []
    prefix = shared.prefix
    monkeypatch.setattr(shared, "prefix", lambda *a: (calls.append(1), prefix(*a))[1])
    sets = [trained_state(network) for network in networks]
    AveragedSegmenter([shared], trained=[sets], flips="hv")(images)
    assert len(calls) == 4


def test_what_does_not_fit_is_refused(networks, make_network):
    with pytest.raises(ValueError, match="flips must be one of none, h, v, hv, got 'x'"):
        AveragedSegmenter(networks, flips="x")
    with pytest.raises(ValueError, match=r"different num_classes can't be averaged: \[2, 3\]"):
        AveragedSegmenter([networks[0], make_network(num_classes=3)])
    with pytest.raises(ValueError, match="no network"):
        AveragedSegmenter([])
