import pytest
import torch

from samtune.networks import SamSegmenter, build_sam
from samtune.training.oracle import PromptedSegmenter, needs_label, zero_shot_protocol


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
    protocol = zero_shot_protocol("oracle_box")
    assert protocol["prompt"] == "oracle_box"
    assert protocol["prompt_source"].startswith("the reference label")
    assert protocol["fine_tuned"] is False


def test_only_boxes_and_points_of_the_label_need_it():
    names = ("oracle_box", "centre_point", "full_box", "no_prompt")
    assert [needs_label(name) for name in names] == [True, True, False, False]
    for name in names:
        assert zero_shot_protocol(name)["prompt_source"].startswith("none") is not needs_label(name)


def test_unknown_protocol_names_the_known():
    with pytest.raises(ValueError, match=r"protocol 'box', expected one of: oracle_box, .*no_prom"):
        PromptedSegmenter(checkpoint="random", image_size=128, protocol="box")


@torch.no_grad()
def test_without_a_prompt_every_region_gets_sams_own_mask(generator):
    torch.manual_seed(0)
    prompted = PromptedSegmenter(checkpoint="random", image_size=128, protocol="no_prompt").eval()
    image = torch.rand(1, 1, 128, 128, generator=generator)
    logits = prompted(image, torch.full((1, 3, 4), torch.nan))
    assert logits.shape == (1, 3, 128, 128)
    net = prompted.segmenter
    sparse, dense = net.prompt_encoder(points=None, boxes=None, masks=None)
    low_res, _ = net.mask_decoder(
        image_embeddings=net.encode(image),
        image_pe=net.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    expected = torch.nn.functional.interpolate(low_res, (128, 128), mode="bilinear")[0, 0]
    for p in range(3):
        torch.testing.assert_close(logits[0, p], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_points_are_prompts_too(prompted, generator):
    image = torch.rand(1, 1, 128, 128, generator=generator)
    given = {
        "boxes": torch.full((1, 2, 4), torch.nan),
        "points": torch.tensor([[[[40.0, 50.0]], [[0.0, 0.0]]]]),
        "point_labels": torch.tensor([[[1], [-1]]]),
    }
    logits = prompted(image, **given)
    assert logits[0, 0].isfinite().all()
    assert logits[0, 1].eq(-torch.inf).all()
    assert torch.equal(logits[0, 0], prompted.segmenter(image, **given)[0][0, 0])
