"""Networks and adapters that other projects save: folded, or refused with the reason."""

from functools import partial

import pytest
import torch

from samtune.networks import build_sam

WIDTH = 24  # as in conftest
load = partial(build_sam, normalization="sam")


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("decoder", [False, True])
def test_lora_layers_inside_a_network_are_folded(
    upstream, assert_computes_the_same, tmp_path, decoder
):
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
    assert_computes_the_same(sam, upstream)


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


def test_another_number_of_mask_tokens_says_what_differs(upstream_sam, tmp_path):
    """finetune-SAM's vanilla checkpoint: num_cls + 1 tokens."""
    torch.save(upstream_sam(num_multimask=2).state_dict(), tmp_path / "best.pth")
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
