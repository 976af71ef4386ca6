"""Merged checkpoints, loaded by those who know nothing of adapters."""

import json
from functools import partial

import pytest
import torch
from safetensors import safe_open
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam
from segment_anything.modeling import TwoWayTransformer as Transformer
from torch import nn

from samtune.networks import SamSegmenter, build_sam
from samtune.networks.build import assemble_sam
from samtune.networks.opening import known_normalization
from samtune.networks.sam_vit import SamViT
from samtune.networks.weights import sha256_of
from samtune.peft.adapt import adapt
from samtune.peft.bottleneck import AdaptFormer
from samtune.peft.lora import LoRA
from samtune.training.export import export_merged, load_class_head, merge_run
from samtune.training.run_folder import load_run


def upstream():
    """segment_anything's own modules, tiny, put together as its build_sam does."""
    encoder = ImageEncoderViT(
        img_size=64,
        patch_size=16,
        embed_dim=24,
        depth=2,
        num_heads=3,
        mlp_ratio=4,
        out_chans=256,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(256, (4, 4), (64, 64), 16)
    transformer = Transformer(2, 256, 8, 2048)
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer, iou_head_depth=3)
    return Sam(encoder, prompts, decoder).eval()


def tiny_segmenter():
    encoder = SamViT(image_size=64, dim=24, depth=2, num_heads=3, global_blocks=(1,), window=3)
    sam = assemble_sam(encoder, arch="tiny", image_size=64, normalization="sam")
    return SamSegmenter(sam, 2).eval()


def randomise(network, generator):
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return network


@torch.no_grad()
def test_a_merged_vit_runs_in_segment_anything(tmp_path, generator):
    network = tiny_segmenter()
    adapt(network, LoRA(rank=2), decoder="lora", generator=generator)
    randomise(network, generator)
    image = torch.rand(1, 3, 64, 64, generator=generator)
    box = torch.tensor([[[10.0, 12, 40, 50]]])
    embedding, (mask, _) = network.encode(image), network(image, boxes=box)
    path, _ = export_merged(network, tmp_path / "merged.pth")
    sam = upstream()
    sam.load_state_dict(torch.load(path, weights_only=True), strict=True)
    torch.testing.assert_close(sam.image_encoder(image), embedding, rtol=1e-5, atol=1e-5)
    sparse, dense = sam.prompt_encoder(None, box[0], None)
    low, _ = sam.mask_decoder(
        sam.image_encoder(image), sam.prompt_encoder.get_dense_pe(), sparse, dense, False
    )
    expected = nn.functional.interpolate(low, (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(mask, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["vit_b", "vit_l", "vit_h"])
def test_names_and_shapes_at_full_size_are_segment_anythings(arch):
    with torch.device("meta"):
        sam, theirs = build_sam(arch, "random"), sam_model_registry[arch]()
    adapt(sam, LoRA(rank=2), decoder="lora")
    from samtune.peft.adapt import merge_adapters

    merge_adapters(sam)
    shapes = {name: tensor.shape for name, tensor in sam.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}


@torch.no_grad()
def test_a_merged_run_with_its_head_is_the_run(tiny_run, tmp_path, generator):
    network = load_run(tiny_run.path).network()
    image = torch.rand(1, 1, network.image_size, network.image_size, generator=generator)
    expected = network(image)
    path, head = merge_run(tiny_run.path, tmp_path / "merged.pth")
    sam = build_sam("lite_medsam", path, network.image_size)
    plain = SamSegmenter(sam, network.num_classes).eval()
    load_class_head(plain, head)
    torch.testing.assert_close(plain(image), expected, rtol=1e-4, atol=1e-4)
    untouched = build_sam("lite_medsam", None, network.image_size)
    tokens = untouched.mask_decoder.mask_tokens.weight
    assert torch.equal(sam.mask_decoder.mask_tokens.weight, tokens)


def test_nothing_is_overwritten(tiny_run, tmp_path):
    (tmp_path / "merged.pth").write_text("mine")
    with pytest.raises(FileExistsError, match=r"merged.pth' exists already"):
        merge_run(tiny_run.path, tmp_path / "merged.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["merged.pth"]


def test_a_method_with_layers_of_its_own_is_refused(tmp_path):
    network = tiny_segmenter()
    adapt(network, AdaptFormer(hidden=2), decoder="frozen")
    with pytest.raises(ValueError, match="not mergeable"):
        export_merged(network, tmp_path / "merged.pth")
    assert list(tmp_path.iterdir()) == []


def test_another_number_of_classes_is_named(tmp_path):
    network = tiny_segmenter()
    adapt(network, None)
    _, head = export_merged(network, tmp_path / "merged.pth")
    other = SamSegmenter(build_sam("lite_medsam", "random"), 3)
    with pytest.raises(ValueError, match=r"merged_class_head.* has 2 classes, the network 3"):
        load_class_head(other, head)


@torch.no_grad()
def test_a_run_with_prompts_is_a_sam_without_a_class_head(tmp_path, make_network, generator):
    network = make_network()
    network.prompts = "box"
    randomise(network.mask_decoder, generator)
    image = torch.rand(1, 1, 32, 32, generator=generator)
    box = torch.tensor([[[4.0, 5, 20, 28]]])
    expected, _ = network.eval()(image, boxes=box)
    path, said = export_merged(network, tmp_path / "merged.pth")
    assert said.name == "merged_prompted.safetensors"
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, said.name]
    with safe_open(said, framework="pt") as file:
        assert list(file.keys()) == []
        assert json.loads(file.metadata()["samtune"])["prompts"] == "box"
    state = torch.load(path, weights_only=True)
    assert not any(name.startswith("class_head") for name in state)
    assert known_normalization(path, sha256_of(path)) == "medsam"
    plain = make_network(None)
    plain.load_state_dict({**plain.state_dict(), **state})
    plain.prompts = "box"
    torch.testing.assert_close(plain.eval()(image, boxes=box)[0], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="is of a run with prompts, which has no class head"):
        load_class_head(plain, said)
