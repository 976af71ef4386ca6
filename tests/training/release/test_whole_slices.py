"""The network with its frame inside: the frame of training, slice for slice, scripted too."""

import warnings

import numpy as np
import pytest
import torch

from samtune.preprocessing.model_frame import image_to_frame, logits_to_slice
from samtune.training.release.whole_slices import Frame, WholeSlices

SIZES = [(20, 24), (37, 9), (64, 64), (3, 50), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("normalization", ["sam", "medsam"])
def test_the_frame_is_that_of_training(size, normalization, generator):
    frame = Frame(32, normalization)
    images = torch.randint(0, 256, (3, 1, *size), generator=generator).float()
    images[1] = 7  # constant
    expected = torch.stack([image_to_frame(i, 32, normalization) for i in images])
    torch.testing.assert_close(frame(images), expected.expand(-1, 3, -1, -1), rtol=0, atol=0)
    logits = torch.randn(3, 4, 32, 32, generator=generator)
    expected = torch.stack([logits_to_slice(one, size) for one in logits])
    torch.testing.assert_close(frame.back(logits, *size), expected, rtol=0, atol=0)


def test_colours_keep_their_order(generator):
    image = torch.rand(2, 3, 20, 30, generator=generator) * 255
    expected = torch.stack([image_to_frame(i, 32, "sam") for i in image])
    torch.testing.assert_close(Frame(32, "sam")(image), expected, rtol=0, atol=0)


def test_a_script_takes_other_sizes_and_batches_than_it_was_made_with(
    make_network, tmp_path, generator
):
    network = WholeSlices(make_network(None).eval()).eval()
    flags = [p.requires_grad for p in network.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(network), tmp_path / "model.ts")
        script = torch.jit.load(tmp_path / "model.ts")
    assert [p.requires_grad for p in network.parameters()] == flags
    for batch, size in zip((1, 3, 2, 5, 4), SIZES, strict=True):
        images = torch.randint(0, 256, (batch, 1, *size), generator=generator).float()
        with torch.no_grad():
            found, expected = script(images), network(images)
        assert found.shape == (batch, 3, *size)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(expected.numpy()) > 0
