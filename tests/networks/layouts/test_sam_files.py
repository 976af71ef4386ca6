"""SAM, MedSAM, MobileSAM and Hugging Face's files, against the upstream modules."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from samtune.networks import SamSegmenter, build_sam
from samtune.networks.checkpoints import read_state_dict
from samtune.networks.layouts import LAYOUTS, Layout, to_published_names

SIZE, WIDTH, DEPTH, HEADS, WINDOW = 64, 24, 3, 3, 3  # as in conftest
load = partial(build_sam, normalization="sam")


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED = {
    "plain": dict,
    "model": lambda state: {"model": state, "optimizer": {"lr": 1e-4}, "epoch": 9},
    "module.sam.": lambda state: {"model": prefixed(state, "module.sam.")},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_sam_and_medsam_in_their_wrappers(upstream, assert_computes_the_same, tmp_path, wrap):
    path = tmp_path / "medsam_model_best.pth"
    torch.save(wrap(upstream.state_dict()), path)
    sam = load("auto", path)
    assert sam.arch == "vit_b"
    assert_computes_the_same(sam, upstream)


def test_safetensors_with_the_architecture_named(upstream, assert_computes_the_same, tmp_path):
    save_file(upstream.state_dict(), tmp_path / "sam.safetensors")
    assert_computes_the_same(load("vit_b", tmp_path / "sam.safetensors"), upstream)


@pytest.fixture
def huggingface(randomised):
    transformers = pytest.importorskip("transformers")
    vision = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "image_size": SIZE,
        "window_size": WINDOW,
        "global_attn_indexes": [1],
        "mlp_dim": 4 * WIDTH,
    }
    config = transformers.SamConfig(
        vision_config=vision,
        prompt_encoder_config={"image_size": SIZE},
    )
    return randomised(transformers.SamModel(config))


@pytest.mark.parametrize("how", ["state_dict", "save_pretrained"])
def test_huggingface(huggingface, image, boxes, assert_close, tmp_path, how):
    path = tmp_path / "model.safetensors"
    if how == "state_dict":  # with the positional matrix under both its names
        path = tmp_path / "pytorch_model.bin"
        torch.save(huggingface.state_dict(), path)
    else:
        huggingface.save_pretrained(tmp_path)
    sam = load("auto", path)
    assert sam.arch == "vit_b"
    with torch.no_grad():
        theirs = huggingface(pixel_values=image, input_boxes=boxes[:, None], multimask_output=False)
        masks, _ = SamSegmenter(sam, 1).eval()(image, boxes=boxes[:, None])
        embedding = huggingface.get_image_embeddings(image)
        assert_close(sam.image_encoder(image), embedding)
    low = theirs.pred_masks[:, 0]
    assert_close(masks, F.interpolate(low, (SIZE, SIZE), mode="bilinear", align_corners=False))


def test_huggingface_names_without_counterpart_and_differing_copies(huggingface):
    state = huggingface.state_dict()
    with pytest.raises(ValueError, match=r"'x' is Hugging Face's SamModel: 1 names .*hq_token"):
        to_published_names(state | {"mask_decoder.hq_token": torch.zeros(1)}, source="'x'")
    copy = "prompt_encoder.shared_embedding.positional_embedding"
    with pytest.raises(ValueError, match=r"two copies of prompt_encoder.pe_layer.* differ"):
        to_published_names(state | {copy: state[copy] + 1}, source="'x'")


def test_mobile_sam_is_the_published_module(randomised, upstream, assert_close, tmp_path):
    """mobilesam-mirror is MobileSAM's own code; only its forward is fixed to 1024 pixels."""
    mobile_sam = pytest.importorskip("mobile_sam.modeling", exc_type=ImportError)
    size = 256
    theirs = randomised(
        mobile_sam.TinyViT(
            img_size=size,
            embed_dims=[64, 128, 160, 320],
            depths=[2, 2, 6, 2],
            num_heads=[2, 4, 5, 10],
            window_sizes=[7, 7, 14, 7],
        )
    )
    theirs.train().eval()  # only now: it copies the attention biases
    rest = upstream.state_dict()
    state = prefixed(theirs.state_dict(), "image_encoder.")
    assert "image_encoder.norm_head.weight" in state  # of its classifier
    assert "image_encoder.head.bias" in state
    state |= {n: t for n, t in rest.items() if not n.startswith("image_encoder.")}
    torch.save(state, tmp_path / "mobile_sam.pt")
    sam = load("auto", tmp_path / "mobile_sam.pt")
    assert (sam.arch, sam.image_size) == ("vit_t", 1024)
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = theirs.patch_embed(x)
        for layer in theirs.layers:
            expected = layer(expected)
        side = size // 16
        expected = theirs.neck(expected.view(1, side, side, -1).permute(0, 3, 1, 2))
        assert_close(sam.image_encoder(x), expected)


def test_a_further_layout_is_one_entry(monkeypatch, upstream, assert_computes_the_same, tmp_path):
    def convert(state):
        return {name.replace("theirs_", "", 1): tensor for name, tensor in state.items()}

    layout = Layout("theirs", "theirs", lambda state: "theirs_" in next(iter(state)), convert)
    monkeypatch.setattr("samtune.networks.layouts.LAYOUTS", [layout, *LAYOUTS])
    torch.save(prefixed(upstream.state_dict(), "theirs_"), tmp_path / "x.pth")
    assert_computes_the_same(load("auto", tmp_path / "x.pth"), upstream)


def test_names_of_layouts_are_unique():
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinite_weights_are_refused(upstream, tmp_path, value):
    state = upstream.state_dict()
    state["mask_decoder.iou_token.weight"] = state["mask_decoder.iou_token.weight"].clone()
    state["mask_decoder.iou_token.weight"][0, 3] = value
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=r"sam\.pth' holds NaN or infinite values in mask_decoder"):
        read_state_dict(tmp_path / "sam.pth")
