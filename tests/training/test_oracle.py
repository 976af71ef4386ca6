import pytest
import torch

from samtune.networks import SamSegmenter, build_sam
from samtune.training.oracle import ORACLE_PROTOCOL, PromptedSegmenter


@pytest.fixture(scope="module")
def prompted():
    torch.manual_seed(0)
    return PromptedSegmenter(checkpoint="random", image_size=128).eval()


@torch.no_grad()
def test_logits_of_each_box_and_minus_infinity_where_there_is_none(prompted, generator):
    image = torch.rand(2, 1, 128, 128, generator=generator)
    boxes = torch.tensor([[10.0, 20, 60, 80], [torch.nan] * 4, [0, 0, 128, 128]]).repeat(2, 1, 1)
    boxes[1, 2] = torch.nan
    logits = prompted(image, boxes)
    assert logits.shape == (2, 3, 128, 128)
    assert logits[:, 1].eq(-torch.inf).all()
    assert logits[1, 2].eq(-torch.inf).all()
    expected, valid = prompted.segmenter(image, boxes=boxes)
    assert valid.tolist() == [[True, False, True], [True, False, False]]
    assert torch.equal(logits[valid], expected[valid])
    assert logits[valid].isfinite().all()


def test_it_is_the_untouched_network(packaged_weights):
    prompted = PromptedSegmenter()
    assert (prompted.image_size, prompted.normalization) == (256, "medsam")
    published = SamSegmenter(build_sam("lite_medsam"), num_classes=1).state_dict()
    state = prompted.segmenter.state_dict()
    assert state.keys() == published.keys()
    assert all(torch.equal(state[key], published[key]) for key in state)


def test_protocol_marks_the_prompt_as_an_oracle():
    assert ORACLE_PROTOCOL["prompt"] == "oracle_box"
    assert ORACLE_PROTOCOL["fine_tuned"] is False
