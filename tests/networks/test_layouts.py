"""Files in each published layout, written from seeded weights, against the upstream modules."""

import argparse
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as UpstreamSam
from torch import nn

from samtune.networks import ARCHITECTURES, SamSegmenter, build_sam
from samtune.networks.build import Architecture
from samtune.networks.checkpoints import read_state_dict
from samtune.networks.layouts import LAYOUTS, Layout, to_published_names
from samtune.networks.sam_vit import SamViT

SIZE, WIDTH, DEPTH, HEADS, WINDOW = 64, 24, 3, 3, 3  # four blocks of tokens a side
GRID = SIZE // 16
load = partial(build_sam, normalization="sam")


def upstream_sam(width=WIDTH, num_multimask=3):
    encoder = ImageEncoderViT(
        img_size=SIZE,
        embed_dim=width,
        depth=DEPTH,
        num_heads=HEADS,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=WINDOW,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(
        embed_dim=256,
        image_embedding_size=(GRID, GRID),
        input_image_size=(SIZE, SIZE),
        mask_in_chans=16,
    )
    decoder = MaskDecoder(
        num_multimask_outputs=num_multimask,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        transformer_dim=256,
    )
    return UpstreamSam(encoder, prompts, decoder)


@pytest.fixture
def upstream(randomised):
    return randomised(upstream_sam())


@pytest.fixture(autouse=True)
def _tiny_vit_b(monkeypatch):
    """SAM's ViT at a size that costs nothing, under the name of the real one."""

    def encoder(size):
        return SamViT(
            image_size=size,
            dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            global_blocks=(1,),
            window=WINDOW,
        )

    monkeypatch.setitem(ARCHITECTURES, "vit_b", Architecture(encoder, SIZE, (SIZE,), "sam"))


@pytest.fixture
def image():
    return torch.randn(2, 3, SIZE, SIZE)


BOX = torch.tensor([[5.0, 9, 40, 50], [20, 3, 60, 33]])


def masks_of(upstream, embedding):
    """Single masks of one box an image, by upstream's parts."""
    out = []
    for one, box in zip(embedding, BOX, strict=True):
        sparse, dense = upstream.prompt_encoder(points=None, boxes=box[None], masks=None)
        low, _ = upstream.mask_decoder(
            image_embeddings=one[None],
            image_pe=upstream.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        out.append(F.interpolate(low, (SIZE, SIZE), mode="bilinear", align_corners=False))
    return torch.cat(out)


def assert_close(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert expected.abs().max() > 0.1
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@torch.no_grad()
def assert_computes_the_same(sam, upstream, image):
    embedding = upstream.image_encoder(image)
    assert_close(sam.image_encoder(image), embedding)
    masks, valid = SamSegmenter(sam, 1).eval()(image, boxes=BOX[:, None])
    assert valid.all()
    assert_close(masks, masks_of(upstream, embedding))


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED = {
    "plain": dict,
    "model": lambda state: {"model": state, "optimizer": {"lr": 1e-4}, "epoch": 9},
    "module.sam.": lambda state: {"model": prefixed(state, "module.sam.")},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_sam_and_medsam_in_their_wrappers(upstream, image, tmp_path, wrap):
    path = tmp_path / "medsam_model_best.pth"
    torch.save(wrap(upstream.state_dict()), path)
    sam = load("auto", path)
    assert sam.arch == "vit_b"
    assert_computes_the_same(sam, upstream, image)


def test_safetensors_with_the_architecture_named(upstream, image, tmp_path):
    save_file(upstream.state_dict(), tmp_path / "sam.safetensors")
    assert_computes_the_same(load("vit_b", tmp_path / "sam.safetensors"), upstream, image)


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
        # the norms of upstream's decoder have torch's default; transformers' 1e-6 is a slip of 1e-5
        mask_decoder_config={"layer_norm_eps": 1e-5},
    )
    return randomised(transformers.SamModel(config))


@pytest.mark.parametrize("how", ["state_dict", "save_pretrained"])
def test_huggingface(huggingface, image, tmp_path, how):
    path = tmp_path / "model.safetensors"
    if how == "state_dict":  # with the positional matrix under both its names
        path = tmp_path / "pytorch_model.bin"
        torch.save(huggingface.state_dict(), path)
    else:
        huggingface.save_pretrained(tmp_path)
    sam = load("auto", path)
    assert sam.arch == "vit_b"
    with torch.no_grad():
        theirs = huggingface(pixel_values=image, input_boxes=BOX[:, None], multimask_output=False)
        masks, _ = SamSegmenter(sam, 1).eval()(image, boxes=BOX[:, None])
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


class MaskedAutoencoder(nn.Module):
    """Names and shapes of the official pretraining network; only the encoder is ever run."""

    def __init__(self, side=GRID):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, WIDTH, 16, 16)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, WIDTH))
        self.blocks = nn.ModuleList(self.block(WIDTH) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.decoder_embed = nn.Linear(WIDTH, 8)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, 8))
        self.decoder_blocks = nn.ModuleList([self.block(8)])
        self.decoder_norm = nn.LayerNorm(8)
        self.decoder_pred = nn.Linear(8, 16 * 16 * 3)

    @staticmethod
    def block(width):
        block = nn.Module()
        block.norm1, block.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        block.attn, block.mlp = nn.Module(), nn.Module()
        block.attn.qkv, block.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        block.mlp.fc1, block.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        return block

    def tokens(self, image):
        """Patch tokens after all blocks, without the class token: timm's block, written out."""
        x = self.patch_embed.proj(image).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        for block in self.blocks:
            h = F.layer_norm(x, (WIDTH,), block.norm1.weight, block.norm1.bias, 1e-6)
            q, k, v = block.attn.qkv(h).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + block.attn.proj(h)
            h = F.layer_norm(x, (WIDTH,), block.norm2.weight, block.norm2.bias, 1e-6)
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(h)))
        return x.unflatten(1, (GRID, GRID))


@pytest.fixture
def sam_file(upstream, tmp_path):
    torch.save(upstream.state_dict(), tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


@pytest.mark.parametrize("kind", ["pretraining", "encoder", "classifier"])
def test_mae_encoder_with_the_other_parts_from_a_sam(
    randomised, upstream, sam_file, image, tmp_path, kind
):
    mae = randomised(MaskedAutoencoder())
    state = mae.state_dict()
    if kind != "pretraining":
        state = {n: t for n, t in state.items() if not n.startswith(("decoder", "mask_token"))}
    if kind == "classifier":
        state |= {"head.weight": torch.zeros(5, WIDTH), "fc_norm.bias": torch.zeros(WIDTH)}
    path = tmp_path / "mae.pth"
    args = argparse.Namespace(model="mae_vit_base_patch16", blr=1e-3, dist_url="env://", eval=False)
    scaler = {"scale": 65536.0, "growth_tracker": 3}
    torch.save(
        {"model": state, "optimizer": {}, "epoch": 799, "scaler": scaler, "args": args}, path
    )
    sam = load("auto", path, base=sam_file)
    assert sam.arch == "vit_b"
    own, base = sam.state_dict(), upstream.state_dict()
    from_base = [n for n in own if ".rel_pos_" in n or not n.startswith("image_encoder.")]
    from_base += [n for n in own if n.startswith("image_encoder.neck.")]
    assert len(from_base) > 100
    assert all(torch.equal(own[name], base[name]) for name in from_base)
    # without relative positions and windows the blocks are MAE's
    encoder = sam.image_encoder
    for block in encoder.blocks:
        block.window_size = 0
        block.attn.use_rel_pos = False
    with torch.no_grad():
        assert_close(encoder.forward_prefix(image, DEPTH), mae.tokens(image))


def test_mae_positions_of_another_grid_are_interpolated(randomised, sam_file, tmp_path):
    state = randomised(MaskedAutoencoder(side=7)).state_dict()
    torch.save({"model": state}, tmp_path / "mae.pth")
    found = load("vit_b", tmp_path / "mae.pth", base=sam_file).image_encoder.pos_embed
    grid = state["pos_embed"][0, 1:].T.view(1, WIDTH, 7, 7)
    expected = F.interpolate(grid, (GRID, GRID), mode="bicubic", align_corners=False)
    assert_close(found, expected.permute(0, 2, 3, 1))


def test_mae_with_an_unknown_name_or_no_square(randomised):
    state = randomised(MaskedAutoencoder()).state_dict()
    with pytest.raises(ValueError, match=r"autoencoder: blocks\.0\.gamma has no counterpart"):
        to_published_names(state | {"blocks.0.gamma": torch.zeros(1)}, source="'x'")
    with pytest.raises(ValueError, match=r"15 positions .* no square"):
        to_published_names(state | {"pos_embed": torch.zeros(1, 16, WIDTH)}, source="'x'")


@pytest.mark.parametrize("prefix", ["", "image_encoder.", "module.image_encoder."])
def test_encoder_alone(upstream, randomised, sam_file, image, tmp_path, prefix):
    other = randomised(upstream_sam())
    torch.save(prefixed(other.image_encoder.state_dict(), prefix), tmp_path / "encoder.pth")
    sam = load("auto", tmp_path / "encoder.pth", base=sam_file)
    with torch.no_grad():
        assert_close(sam.image_encoder(image), other.image_encoder(image))
    parts = {**sam.prompt_encoder.state_dict(), **sam.mask_decoder.state_dict()}
    expected = {**upstream.prompt_encoder.state_dict(), **upstream.mask_decoder.state_dict()}
    assert parts.keys() == expected.keys()
    assert all(torch.equal(parts[name], expected[name]) for name in parts)


@pytest.fixture
def encoder_file(upstream, tmp_path):
    torch.save(upstream.image_encoder.state_dict(), tmp_path / "encoder.pth")
    return tmp_path / "encoder.pth"


def test_encoder_without_a_base_says_what_is_missing_and_how_to_give_it(encoder_file):
    with pytest.raises(ValueError, match=r"\.pth' \(encoder\) has nothing of prompt_encoder"):
        load("vit_b", encoder_file)
    with pytest.raises(ValueError, match=r"mask_decoder: name with base=FILE"):
        load("auto", encoder_file)


def test_parts_that_may_be_missing_are_named(encoder_file, upstream, image):
    sam = load("vit_b", encoder_file, allow_missing=["prompt_encoder.*", "mask_decoder.*"])
    with torch.no_grad():
        assert_close(sam.image_encoder(image), upstream.image_encoder(image))
    with pytest.raises(ValueError, match=r"missing: prompt_encoder\."):
        load("vit_b", encoder_file, allow_missing=["mask_decoder.*"])


def test_single_tensors_are_not_taken_from_a_base(encoder_file, sam_file):
    state = torch.load(encoder_file)
    del state["neck.0.weight"], state["blocks.1.attn.rel_pos_h"]
    torch.save(state, encoder_file)
    with pytest.raises(ValueError, match=r"lacks single tensors .*blocks\.1.*neck\.0\.weight"):
        load("vit_b", encoder_file, base=sam_file)


def test_a_base_that_is_not_needed_is_refused(sam_file):
    with pytest.raises(ValueError, match="has all parts of a SAM: nothing to take from base"):
        load("vit_b", sam_file, base=sam_file)
    with pytest.raises(ValueError, match="base goes with a checkpoint"):
        load("vit_b", "random", base=sam_file)


def test_base_is_part_of_the_hash(encoder_file, sam_file, randomised, tmp_path):
    torch.save(randomised(upstream_sam()).state_dict(), tmp_path / "other.pth")
    hashes = {
        load("vit_b", encoder_file, base=base).base_sha256
        for base in (sam_file, tmp_path / "other.pth")
    }
    assert len(hashes) == 2


@pytest.mark.parametrize("decoder", [False, True])
def test_lora_layers_inside_a_network_are_folded(upstream, image, tmp_path, decoder):
    """SAM-LoRA's and finetune-SAM's whole networks: q' = q + B_q A_q x, v' = v + B_v A_v x."""
    state = upstream.state_dict()
    updates = {}
    for index in (0, 2):
        root = f"image_encoder.blocks.{index}.attn.qkv"
        for kind in ("weight", "bias"):
            state[f"{root}.qkv.{kind}"] = state.pop(f"{root}.{kind}")
        for part in "qv":
            state[f"{root}.linear_a_{part}.weight"] = torch.randn(2, WIDTH)
            state[f"{root}.linear_b_{part}.weight"] = torch.randn(WIDTH, 2) / 5
        updates[index] = [
            state[f"{root}.linear_b_{p}.weight"] @ state[f"{root}.linear_a_{p}.weight"]
            for p in "qv"
        ]
    attention = upstream.mask_decoder.transformer.layers[1].cross_attn_token_to_image
    name = "mask_decoder.transformer.layers.1.cross_attn_token_to_image.v_proj"
    if decoder:
        for kind in ("weight", "bias"):
            state[f"{name}.proj.{kind}"] = state.pop(f"{name}.{kind}")
        state[f"{name}.w_a.weight"] = torch.randn(2, 256) / 4
        state[f"{name}.w_b.weight"] = torch.randn(128, 2) / 4
    torch.save(state, tmp_path / "medsam_model_best.pth")
    sam = load("auto", tmp_path / "medsam_model_best.pth")

    for index, (q, v) in updates.items():  # upstream with the update beside each layer

        def add(_module, inputs, output, q=q, v=v):
            x = inputs[0]
            return output + torch.cat([x @ q.T, torch.zeros_like(x), x @ v.T], -1)

        upstream.image_encoder.blocks[index].attn.qkv.register_forward_hook(add)
    if decoder:
        update = state[f"{name}.w_b.weight"] @ state[f"{name}.w_a.weight"]
        attention.v_proj.register_forward_hook(lambda _m, x, out: out + x[0] @ update.T)
    assert_computes_the_same(sam, upstream, image)


REFUSED = {
    "salt": (
        {
            "sam_encoder.blocks.0.attn.qkv.trainable_X": torch.zeros(2),
            "Text_Embedding_Affine.0.weight": torch.zeros(2),
        },
        "network trained by SALT: not convertible: .*signs differ.*CLIP",
    ),
    "salt_sam2": (
        {"sam_encoder.trunk.blocks.0.attn.proj.trainable_X": torch.zeros(2)},
        "trained by SALT: not convertible",
    ),
    "finetune_sam": (
        {"image_encoder.blocks.0.MLP_Adapter.D_fc1.weight": torch.zeros(2)},
        r"trained by finetune-SAM: not convertible.*MLP_Adapter\.D_fc1",
    ),
    "finetune_sam_decoder": (
        {"mask_decoder.transformer.layers.0.Adapter.D_fc1.weight": torch.zeros(2)},
        "trained by finetune-SAM: not convertible",
    ),
    "samed": ({"w_a_000": torch.zeros(2), "w_b_000": torch.zeros(2)}, "convert-adapter FILE OUT"),
    "sam_adapter": (
        {"image_encoder.task_adapter_up.weight": torch.zeros(2)},
        "SAM-Adapter's trained tensors.*convert-adapter",
    ),
}


@pytest.mark.parametrize(("state", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_is_no_sam_is_refused_with_the_reason(tmp_path, state, message, prefix):
    torch.save(prefixed(state, prefix), tmp_path / "trained.pth")
    with pytest.raises(ValueError, match=rf"trained\.pth' is .*{message}"):
        load("auto", tmp_path / "trained.pth")


def test_another_number_of_mask_tokens_says_what_differs(randomised, tmp_path):
    """finetune-SAM's vanilla checkpoint: num_cls + 1 tokens."""
    torch.save(randomised(upstream_sam(num_multimask=2)).state_dict(), tmp_path / "best.pth")
    with pytest.raises(ValueError, match=r"has 3 mask tokens .*num_cls=2.*SAM has 4.*encoder-only"):
        load("auto", tmp_path / "best.pth")


@pytest.mark.parametrize(
    ("name", "looks_like"),
    [("image_encoder.trunk.pos_embed", "SAM 2"), ("image_encoder.backbone.x", "EfficientViT-SAM")],
)
def test_an_unknown_file_says_what_it_looks_like(tmp_path, name, looks_like):
    state = {name: torch.zeros(1), "mask_decoder.x": torch.zeros(1)}
    state |= {"image_encoder.neck.x": torch.zeros(1), "prompt_encoder.x": torch.zeros(1)}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"no known architecture.*it looks like {looks_like};"):
        load("auto", tmp_path / "x.pth")


def test_mobile_sam_is_the_published_module(randomised, image, tmp_path):
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
    rest = upstream_sam().state_dict()
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


def test_a_further_layout_is_one_entry(monkeypatch, upstream, image, tmp_path):
    def convert(state):
        return {name.replace("theirs_", "", 1): tensor for name, tensor in state.items()}

    layout = Layout("theirs", "theirs", lambda state: "theirs_" in next(iter(state)), convert)
    monkeypatch.setattr("samtune.networks.layouts.LAYOUTS", [layout, *LAYOUTS])
    torch.save(prefixed(upstream.state_dict(), "theirs_"), tmp_path / "x.pth")
    assert_computes_the_same(load("auto", tmp_path / "x.pth"), upstream, image)


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
