"""SAM 2's image path against ``transformers``' ``Sam2Model``, from files in both published layouts.

The weights are random: the same file content goes into both networks.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from samtune.networks import SamSegmenter
from samtune.networks.checkpoints import load_strictly, read_state_dict
from samtune.networks.sam2_convert import convert, recognise

transformers = pytest.importorskip("transformers")

NAN = float("nan")


def write(path, sam_state, layout, to_meta):
    """A file with the content of Hugging Face's ``sam_state``, as its layout says."""
    if layout == "hugging face":
        save_file({name: tensor.clone() for name, tensor in sam_state.items()}, path)
    else:
        meta = {to_meta(name): tensor for name, tensor in convert(sam_state).items()}
        meta |= {"no_obj_ptr": torch.zeros(2), "memory_encoder.out_proj.bias": torch.zeros(2)}
        torch.save({"model": meta}, path)


@pytest.fixture(params=["hugging face", "meta"])
def layout(request):
    return request.param


@pytest.fixture
def pair(tmp_path, make_sam2, transformers_sam2, to_meta):
    """``pair(image_size, layout)``: theirs, and ours from a file with theirs' content."""

    def make(image_size=64, layout="hugging face"):
        theirs = transformers_sam2(image_size)
        path = tmp_path / ("sam2.pt" if layout == "meta" else "model.safetensors")
        write(path, theirs.state_dict(), layout, to_meta)
        sam = make_sam2(image_size)
        state = read_state_dict(path)
        assert recognise(state)
        load_strictly(sam, convert(state), source="the file")
        return theirs, SamSegmenter(sam, 1).eval()

    return make


def prompts(names, size, count, side):
    corners = torch.rand(2, count, 2, 2).sort(dim=2).values * size
    labels = torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 1, 1]])[:count]
    every = {
        "boxes": corners.flatten(2),
        "points": torch.rand(2, count, 4, 2) * size,
        "point_labels": labels.repeat(2, 1, 1),
        "masks": torch.randn(2, count, 4 * side, 4 * side),
    }
    return {name: every[name] for name in names}


def masks_of(theirs, image, given):
    """``Sam2Model``'s single masks, at the image's size."""
    names = {"boxes": "input_boxes", "points": "input_points", "point_labels": "input_labels"}
    arguments = {names[name]: tensor for name, tensor in given.items() if name != "masks"}
    if "masks" in given:
        arguments["input_masks"] = given["masks"]
    low = theirs(pixel_values=image, multimask_output=False, **arguments).pred_masks[:, :, 0]
    return F.interpolate(low, image.shape[-2:], mode="bilinear", align_corners=False)


def masks_without_points(theirs, image, masks=None):
    """The same from its parts: no point at all, where ``Sam2Model`` itself adds padding ones.

    ``SAM2ImagePredictor`` adds none.
    """
    maps = theirs.get_image_embeddings(image)
    _, dense = theirs.prompt_encoder(None, None, None, masks)
    low, *_ = theirs.mask_decoder(
        image_embeddings=maps[-1],
        image_positional_embeddings=theirs.get_image_wide_positional_embeddings(),
        sparse_prompt_embeddings=torch.zeros(len(image), 1, 0, 256),
        dense_prompt_embeddings=dense,
        multimask_output=False,
        high_resolution_features=maps[:-1],
    )
    return F.interpolate(low[:, 0], image.shape[-2:], mode="bilinear", align_corners=False)


def assert_near(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("size", [64, 96, 160])
@torch.no_grad()
def test_embedding_and_high_resolution_maps_are_theirs(pair, layout, size):
    theirs, net = pair(size, layout)
    image = torch.randn(2, 3, size, size)
    s0, s1, embedding = theirs.get_image_embeddings(image)
    found, high_res = net.mask_decoder.split(net.encode(image))
    assert_near(found, embedding)
    assert_near(high_res[0], s1)
    assert_near(high_res[1], s0)


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["boxes"], 3),
        (["points", "point_labels"], 3),
        (["boxes", "points", "point_labels"], 3),
        (["boxes", "masks"], 1),  # theirs takes one mask an image
        (["points", "point_labels", "masks"], 1),
    ],
)
@torch.no_grad()
def test_prompted_masks_are_theirs(pair, layout, names, count):
    theirs, net = pair(64, layout)
    image = torch.randn(2, 3, 64, 64)
    given = prompts(names, 64, count, 4)
    logits, valid = net(image, **given)
    assert valid.all()
    assert_near(logits, masks_of(theirs, image, given))


@torch.no_grad()
def test_mask_alone_and_no_prompt_have_no_point(pair):
    theirs, net = pair()
    image = torch.randn(2, 3, 64, 64)
    given = prompts(["masks"], 64, 1, 4)
    assert_near(net(image, **given)[0], masks_without_points(theirs, image, given["masks"]))
    # the head of one class is a decoder whose only mask token is the first, with a bias
    logits = net(image)
    assert logits.shape == (2, 2, 64, 64)
    decoder = theirs.mask_decoder
    decoder.mask_tokens.weight = torch.nn.Parameter(decoder.mask_tokens.weight[:1])
    decoder.num_mask_tokens = 1
    expected = masks_without_points(theirs, image) + net.class_head.bias
    assert_near(logits[:, 1:], expected)


@torch.no_grad()
def test_masks_depend_on_everything(pair):
    """Or the comparisons above would show nothing."""
    _, net = pair()
    image = torch.randn(2, 3, 64, 64)
    given = prompts(["boxes", "points", "point_labels", "masks"], 64, 2, 4)
    logits, _ = net(image, **given)
    for name in ("boxes", "points", "masks"):
        other = {**given, name: given[name].flip(0)}
        assert (net(image, **other)[0] - logits).abs().max() > 1e-3 * logits.abs().max()
    assert (net(image.flip(0), **given)[0] - logits).abs().max() > 0.1 * logits.std()
    net.image_encoder.no_mem_embed.zero_()
    assert (net(image, **given)[0] - logits).abs().max() > 1e-3 * logits.abs().max()


@torch.no_grad()
def test_all_masks_and_their_quality_are_theirs(pair):
    theirs, net = pair()
    image = torch.randn(1, 3, 64, 64)
    boxes = prompts(["boxes"], 64, 3, 4)["boxes"][:1]
    out = theirs(pixel_values=image, input_boxes=boxes, multimask_output=True)
    sparse, dense = net.prompt_encoder(points=None, boxes=boxes[0], masks=None)
    masks, quality = net.mask_decoder(
        image_embeddings=net.encode(image),
        image_pe=net.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    assert_near(masks, out.pred_masks[0])
    assert_near(quality, out.iou_scores[0])


@torch.no_grad()
def test_batch_of_two_is_two_single_images(pair):
    _, net = pair()
    image, given = torch.randn(2, 3, 64, 64), prompts(["boxes"], 64, 3, 4)
    assert_near(net(image), torch.cat([net(one[None]) for one in image]))
    single = [net(image[i : i + 1], boxes=given["boxes"][i : i + 1])[0] for i in range(2)]
    assert_near(net(image, **given)[0], torch.cat(single))


@torch.no_grad()
def test_padding_prompts_are_not_valid_and_leave_the_others_alone(pair):
    _, net = pair()
    image, boxes = torch.randn(2, 3, 64, 64), prompts(["boxes"], 64, 3, 4)["boxes"]
    padded = boxes.clone()
    padded[0, 1] = NAN
    logits, valid = net(image, boxes=padded)
    assert valid.tolist() == [[True, False, True], [True, True, True]]
    assert logits.isfinite().all()
    assert_near(logits[valid], net(image, boxes=boxes)[0][valid])


def test_gradients_reach_everything_that_makes_the_class_mask(make_segmenter):
    net = make_segmenter("hiera")
    net(torch.randn(1, 1, 64, 64))[:, 1:].square().mean().backward()
    without = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    # prompts, and what the masks and their quality are made of without classes
    unused = ("prompt_encoder.", "mask_decoder.mask_tokens", "mask_decoder.output_hypernetworks")
    unused += ("mask_decoder.iou_prediction_head", "mask_decoder.pred_obj_score_head")
    assert {n for n in without if not n.startswith(unused)} == set()
    used = {n for n, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    listed = {
        f"{path}.{name}"
        for path in net.decoder_paths()
        for name, _ in net.get_submodule(path).named_parameters()
    }
    assert {n for n in used if n.startswith(("mask_decoder.", "image_encoder.conv_s"))} == listed


def test_cached_features_give_the_logits_and_gradients_of_the_image(make_segmenter):
    net = make_segmenter("hiera")
    net.requires_grad_(False)
    net.image_encoder.neck.requires_grad_(True)
    net.class_head.requires_grad_(True)
    trained = [p for p in net.parameters() if p.requires_grad]
    image = torch.randn(1, 3, 64, 64)
    expected = net(image)
    gradients = torch.autograd.grad(expected.square().sum(), trained)
    for cut in range(8):
        features = net.prefix(image, cut)
        assert features.grad_fn is None
        logits = net(features, from_block=cut)
        assert_near(logits, expected)
        again = torch.autograd.grad(logits.square().sum(), trained)
        for a, b in zip(again, gradients, strict=True):
            assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.mark.parametrize(
    ("trained", "prefix"),
    [
        ([], 8),
        (["neck.convs.0"], 7),
        (["conv_s0"], 7),
        (["blocks.6.mlp"], 6),
        (["blocks.3.proj", "conv_s1"], 3),
        (["patch_embed"], -1),
    ],
)
def test_frozen_prefix_ends_at_the_first_trained_parameter(make_segmenter, trained, prefix):
    net = make_segmenter("hiera")
    net.requires_grad_(False)
    for path in trained:
        net.image_encoder.get_submodule(path).requires_grad_(True)
    assert net.frozen_prefix() == prefix


@torch.no_grad()
def test_copies_are_independent(make_segmenter):
    net = make_segmenter("hiera")
    image = torch.randn(1, 3, 64, 64)
    expected = net(image)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(image), expected)
    for parameter in twin.parameters():
        parameter.mul_(1.1)
    assert torch.equal(net(image), expected)
    assert not torch.equal(twin(image), expected)


@torch.no_grad()
def test_no_graph_break(make_segmenter):
    net = make_segmenter("hiera")
    image = torch.randn(1, 3, 64, 64)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    assert torch.equal(compiled(image), net(image))


@pytest.mark.parametrize("names", [["boxes"], ["points", "point_labels"], ["boxes", "masks"]])
@torch.no_grad()
def test_uniform_prompts_are_the_others(pair, names):
    """The path for export has upstream's padding token behind boxes too."""
    _, net = pair(64)
    image, given = torch.randn(2, 3, 64, 64), prompts(names, 64, 2, 4)
    assert_near(net.forward_uniform(image, **given), net(image, **given)[0])


@torch.no_grad()
def test_uniform_boxes_with_points_are_the_others(pair):
    _, net = pair(64)
    given = prompts(["boxes", "points", "point_labels"], 64, 3, 4)
    image = torch.randn(2, 3, 64, 64)
    assert_near(net.forward_uniform(image, **given), net(image, **given)[0])
