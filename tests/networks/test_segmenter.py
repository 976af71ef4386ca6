"""SamSegmenter against ``segment_anything``'s prompt encoder and mask decoder, image by image."""

import pytest
import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer

from samtune.networks import SamSegmenter
from samtune.networks.build import assemble_sam

kinds = pytest.mark.parametrize("kind", ["tiny_vit", "sam_vit"])
NAN = float("nan")


def image_batch(net, batch=2, channels=3):
    return 2 * torch.randn(batch, channels, net.image_size, net.image_size)


def assert_same(found, expected):
    """Equal up to float32 rounding, relative to the scale of the whole tensor."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


def prompts(net, names):
    """Two images with three prompts each, of the named kinds."""
    size, grid = net.image_size, net.prompt_encoder.mask_input_size
    corners = torch.rand(2, 3, 2, 2).sort(dim=2).values * size
    every = {
        "boxes": corners.flatten(2),
        "points": torch.rand(2, 3, 4, 2) * size,
        "point_labels": torch.tensor([[1, 0, 1, -1], [1, -1, -1, -1], [0, 0, 1, 1]]).repeat(
            2, 1, 1
        ),
        "masks": torch.randn(2, 3, *grid),
    }
    return {name: every[name] for name in names}


def upstream(net, embedding, boxes=None, points=None, point_labels=None, masks=None):
    """The upstream calls for one image, prompt by prompt: embedding (1, 256, h, w), no batch axis.

    A prompt's padding points are taken away: alone, it would have none.
    """
    out = []
    for p in range(len(next(t for t in (boxes, points, masks) if t is not None))):
        real = None if points is None else point_labels[p] >= 0
        sparse, dense = net.prompt_encoder(
            points=None if points is None else (points[p][real][None], point_labels[p][real][None]),
            boxes=None if boxes is None else boxes[p : p + 1],
            masks=None if masks is None else masks[p][None, None],
        )
        low_res, _ = net.mask_decoder(
            image_embeddings=embedding,
            image_pe=net.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        size = (net.image_size, net.image_size)
        out.append(F.interpolate(low_res, size, mode="bilinear", align_corners=False)[0])
    return torch.cat(out)


@kinds
@torch.no_grad()
def test_fixtures_depend_on_the_image(make_segmenter, kind):
    """Otherwise the comparisons below would not notice images that are mixed up."""
    net = make_segmenter(kind)
    first, second = net(image_batch(net))[:, 1:]
    assert (first - second).abs().max() > 0.1 * first.abs().max()
    first, second = net(image_batch(net), **prompts(net, ["masks"]))[0]
    assert (first - second).abs().max() > 0.1 * first.abs().max()


PROMPT_SETS = {
    "boxes": ("boxes",),
    "points": ("points", "point_labels"),
    "masks": ("masks",),
    "boxes-points": ("boxes", "points", "point_labels"),
    "boxes-masks": ("boxes", "masks"),
    "all": ("boxes", "points", "point_labels", "masks"),
}


@kinds
@pytest.mark.parametrize("names", PROMPT_SETS.values(), ids=PROMPT_SETS.keys())
@torch.no_grad()
def test_prompted_masks_are_upstreams_image_by_image(make_segmenter, kind, names):
    net = make_segmenter(kind)
    image, given = image_batch(net), prompts(net, names)
    logits, valid = net(image, **given)
    assert logits.shape == (2, 3, net.image_size, net.image_size)
    assert valid.dtype == torch.bool
    assert valid.all()
    for i in range(2):
        embedding = net.image_encoder(image[i : i + 1])
        expected = upstream(net, embedding, **{name: tensor[i] for name, tensor in given.items()})
        assert_same(logits[i], expected)


@torch.no_grad()
def test_prompted_masks_are_those_of_the_whole_upstream_sam(make_segmenter):
    net = make_segmenter("sam_vit")
    sam = Sam(net.image_encoder, net.prompt_encoder, net.mask_decoder)
    raw = torch.rand(2, 3, 64, 64) * 255
    boxes = prompts(net, ["boxes"])["boxes"]
    logits, _ = net((raw - sam.pixel_mean) / sam.pixel_std, boxes=boxes)
    records = [{"image": raw[i], "original_size": (64, 64), "boxes": boxes[i]} for i in range(2)]
    for i, out in enumerate(sam(records, multimask_output=False)):
        assert torch.equal(logits[i] > 0, out["masks"][:, 0])


@kinds
@torch.no_grad()
def test_class_logits_are_those_of_an_upstream_decoder_with_the_class_tokens(make_segmenter, kind):
    net = make_segmenter(kind, num_classes=3)
    for parameter in net.class_head.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    decoder = MaskDecoder(
        num_multimask_outputs=2,  # and one more: three tokens
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        transformer_dim=256,
    ).eval()
    state = {
        name: tensor
        for name, tensor in net.mask_decoder.state_dict().items()
        if name.startswith(("transformer.", "output_upscaling.", "iou_token."))
    }
    state["mask_tokens.weight"] = net.class_head.tokens
    for name, tensor in net.class_head.hypernetworks.state_dict().items():
        state[f"output_hypernetworks_mlps.{name}"] = tensor
    rest = decoder.load_state_dict(state, strict=False)
    assert all(name.startswith("iou_prediction_head.") for name in rest.missing_keys)
    assert not rest.unexpected_keys
    bias = dict(net.class_head.named_parameters()).get("bias", torch.zeros(3))
    image = image_batch(net)
    sparse, dense = net.prompt_encoder(points=None, boxes=None, masks=None)
    for i in range(2):
        masks, _ = decoder.predict_masks(
            image_embeddings=net.image_encoder(image[i : i + 1]),
            image_pe=net.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
        size = (net.image_size, net.image_size)
        expected = F.interpolate(masks, size, mode="bilinear", align_corners=False)[0]
        expected = expected + bias[:, None, None]
        assert_same(net(image)[i, 1:], expected)


@kinds
@pytest.mark.parametrize("num_classes", [1, 3])
@torch.no_grad()
def test_without_prompts_one_tensor_with_a_zero_background(make_segmenter, kind, num_classes):
    net = make_segmenter(kind, num_classes)
    logits = net(image_batch(net))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, num_classes + 1, net.image_size, net.image_size)
    assert (logits[:, 0] == 0).all()
    assert (logits[:, 1:] != 0).any()


@torch.no_grad()
def test_batch_of_two_is_two_single_images(make_segmenter):
    net = make_segmenter()
    image = image_batch(net)
    singles = torch.cat([net(one[None]) for one in image])
    assert_same(net(image), singles)


def test_class_tokens_start_from_mask_token_zero(make_segmenter):
    net = make_segmenter(num_classes=3)
    head, decoder = net.class_head, net.mask_decoder
    first = decoder.output_hypernetworks_mlps[0].state_dict()
    for c in range(3):
        assert torch.equal(head.tokens[c], decoder.mask_tokens.weight[0])
        own = head.hypernetworks[c].state_dict()
        assert all(torch.equal(own[name], tensor) for name, tensor in first.items())
    shared = {p.data_ptr() for p in decoder.parameters()}
    assert not shared & {p.data_ptr() for p in head.parameters()}  # copies: trained apart
    assert len({p.data_ptr() for p in head.parameters()}) == len(list(head.parameters()))


@torch.no_grad()
def test_prompted_path_does_not_know_the_class_head(make_segmenter):
    net = make_segmenter()
    image, given = image_batch(net), prompts(net, ["boxes"])
    before, _ = net(image, **given)
    for parameter in net.class_head.parameters():
        parameter.normal_()
    assert torch.equal(net(image, **given)[0], before)


@torch.no_grad()
def test_padding_prompts_are_not_valid_and_leave_the_others_alone(make_segmenter):
    net = make_segmenter()
    image, boxes = image_batch(net), prompts(net, ["boxes"])["boxes"]
    padded = boxes.clone()
    padded[0, 1] = NAN
    padded[1, 2, 3] = NAN
    logits, valid = net(image, boxes=padded)
    assert valid.tolist() == [[True, False, True], [True, True, False]]
    assert logits.isfinite().all()
    assert_same(logits[valid], net(image, boxes=boxes)[0][valid])
    labels = torch.tensor([[[1, -1]], [[-1, -1]]])
    _, valid = net(image, points=torch.rand(2, 1, 2, 2), point_labels=labels)
    assert valid.tolist() == [[True], [False]]


@torch.no_grad()
def test_grey_image_is_three_equal_channels(make_segmenter):
    net = make_segmenter()
    grey = image_batch(net, channels=1)
    assert torch.equal(net(grey), net(grey.repeat(1, 3, 1, 1)))
    start = len(net.image_encoder.adapter_sites())
    assert torch.equal(net.prefix(grey, start), net.prefix(grey.repeat(1, 3, 1, 1), start))


@kinds
def test_cached_features_give_the_logits_and_gradients_of_the_image(make_segmenter, kind):
    net = make_segmenter(kind)
    image = image_batch(net, batch=1)
    sites = len(net.image_encoder.adapter_sites())
    net.requires_grad_(False)
    net.image_encoder.neck.requires_grad_(True)
    net.class_head.requires_grad_(True)
    trained = [p for p in net.parameters() if p.requires_grad]
    expected = net(image)
    gradients = torch.autograd.grad(expected.square().sum(), trained, allow_unused=True)
    for cut in range(sites + 1):
        features = net.prefix(image, cut)
        assert features.grad_fn is None
        logits = net(features, from_block=cut)
        assert_same(logits, expected)
        again = torch.autograd.grad(logits.square().sum(), trained, allow_unused=True)
        for a, b in zip(again, gradients, strict=True):
            assert_same(a, b)


@pytest.mark.parametrize(
    ("kind", "trained", "prefix"),
    [
        ("tiny_vit", [], 6),
        ("tiny_vit", ["neck.0"], 5),
        ("tiny_vit", ["layers.3.blocks.1.attn.qkv"], 4),
        ("tiny_vit", ["layers.3.blocks.1.mlp", "layers.2.blocks.0.attn.qkv"], 2),
        ("tiny_vit", ["layers.2.downsample"], 2),
        ("tiny_vit", ["layers.1.downsample"], 1),
        ("tiny_vit", ["layers.1.blocks.0.local_conv.bn"], 0),
        ("tiny_vit", ["layers.0.downsample"], -1),
        ("tiny_vit", ["layers.0.blocks.0", "neck.0"], -1),
        ("tiny_vit", ["patch_embed"], -1),
        ("sam_vit", [], 4),
        ("sam_vit", ["neck.3"], 3),
        ("sam_vit", ["blocks.2.attn.qkv"], 2),
        ("sam_vit", ["blocks.0.norm1", "blocks.2"], 0),
        ("sam_vit", ["patch_embed.proj"], -1),
    ],
)
def test_frozen_prefix_ends_at_the_first_trained_parameter(make_segmenter, kind, trained, prefix):
    net = make_segmenter(kind)
    net.requires_grad_(False)
    net.mask_decoder.requires_grad_(True)  # no part of the encoder
    for path in trained:
        net.image_encoder.get_submodule(path).requires_grad_(True)
    assert net.frozen_prefix() == prefix


@pytest.mark.parametrize(("kind", "site"), [("tiny_vit", 2), ("sam_vit", 1), ("tiny_vit", None)])
def test_no_graph_before_the_first_trained_block(make_segmenter, kind, site):
    net = make_segmenter(kind)
    encoder = net.image_encoder
    sites = encoder.adapter_sites()
    net.requires_grad_(False)
    net.class_head.requires_grad_(True)
    if site is not None:
        encoder.get_submodule(sites[site].qkv).requires_grad_(True)
    seen = {}
    for s in sites:
        encoder.get_submodule(s.block).register_forward_hook(
            lambda _m, _i, out, index=s.index: seen.update({index: out.grad_fn is not None})
        )
    with_graph = net.train()(image_batch(net))
    first = len(sites) if site is None else site
    assert seen == {s.index: s.index >= first for s in sites}
    assert with_graph.grad_fn is not None


def test_logits_are_the_same_with_and_without_a_graph(make_segmenter):
    net = make_segmenter()
    image = image_batch(net)
    net.requires_grad_(False)
    net.image_encoder.neck.requires_grad_(True)
    with torch.no_grad():
        expected = net(image)
    assert_same(net(image), expected)


def test_decoder_paths_are_what_the_class_logits_depend_on(make_segmenter):
    net = make_segmenter()
    names, parameters = zip(*net.mask_decoder.named_parameters(), strict=True)
    out = net(image_batch(net, batch=1))
    gradients = torch.autograd.grad(out.sum(), parameters, allow_unused=True)
    used = {f"mask_decoder.{n}" for n, g in zip(names, gradients, strict=True) if g is not None}
    listed = set()
    for path in net.decoder_paths():
        listed |= {f"{path}.{name}" for name, _ in net.get_submodule(path).named_parameters()}
    assert used == listed


def test_names_are_the_published_ones_and_the_class_head(make_encoder):
    sam = assemble_sam(make_encoder("sam_vit"), arch="tiny", image_size=64, normalization="sam")
    published = set(sam.state_dict())
    own = set(SamSegmenter(sam, 2).state_dict())
    assert {name for name in own if not name.startswith("class_head.")} == published


def test_prompts_of_different_counts_are_refused(make_segmenter):
    net = make_segmenter()
    image = image_batch(net)
    given = prompts(net, ["boxes", "masks"])
    shapes = r"image's batch 2, got \(2, 3, 4\), \(2, 1, "
    with pytest.raises(ValueError, match=shapes):
        net(image, boxes=given["boxes"], masks=given["masks"][:, :1])
    with pytest.raises(ValueError, match=r"batch 2, got \(1, 3, 4\)"):
        net(image, boxes=given["boxes"][:1])


@pytest.mark.parametrize("name", ["points", "point_labels"])
def test_points_and_labels_go_together(make_segmenter, name):
    net = make_segmenter()
    given = prompts(net, ["boxes", name])
    with pytest.raises(ValueError, match="points and point_labels go together"):
        net(image_batch(net), **given)
    with pytest.raises(ValueError, match="points and point_labels go together"):
        net(image_batch(net), **{name: given[name]})  # not taken for a call without prompts


def test_at_least_one_class(make_segmenter):
    with pytest.raises(ValueError, match=r"at least 1 .*got 0"):
        make_segmenter(num_classes=0)


@pytest.mark.parametrize("kind", ["tiny_vit", "sam_vit"])
@pytest.mark.parametrize("cut", [(0, 9), (5, 0), (8, 3)])
@torch.no_grad()
def test_an_image_that_is_not_square_is_padded_and_the_logits_are_cropped(
    make_segmenter, kind, cut
):
    segmenter = make_segmenter(kind)
    size = segmenter.image_size
    height, width = size - cut[0], size - cut[1]
    image = torch.rand(2, 1, height, width)
    padded = torch.zeros(2, 3, size, size)
    padded[..., :height, :width] = image
    box = torch.tensor([[[1.0, 2, 20, 18]]]).repeat(2, 1, 1)
    assert torch.equal(segmenter(image), segmenter(padded)[..., :height, :width])
    found, valid = segmenter(image, boxes=box)
    assert torch.equal(found, segmenter(padded, boxes=box)[0][..., :height, :width])
    assert valid.all()
    assert torch.equal(segmenter.forward_uniform(image, boxes=box), found)
    assert torch.equal(segmenter.prefix(image, 1), segmenter.prefix(padded, 1))


def test_an_image_larger_than_the_input_is_refused(make_segmenter):
    with pytest.raises(ValueError, match=r"images of 32x33 pixels are larger than .* input, 32"):
        make_segmenter("tiny_vit")(torch.rand(1, 3, 32, 33))
