import pytest
import torch

from samtune.peft.adapter_file import save_adapter
from samtune.training import network as module
from samtune.training.network import build_network, network_from_adapter

LORA = {"name": "lora", "rank": 4, "alpha": 8, "targets": ["q", "v"], "blocks": "last:2"}
WIDTHS = (128, 128, *[160] * 6, 320, 320)  # of LiteMedSAM's attention blocks
HEAD = 256 + 2 * (256 * 256 + 256) + 256 * 32 + 32 + 1  # a class: token, hypernetwork, bias


def encoder_count(rank, blocks):
    """Two targets of width d in and out: 2 (r d + d r) a block."""
    return sum(4 * rank * WIDTHS[block] for block in blocks)


def decoder_count(rank):
    """Two targets of 256 to 256, and of 256 to 128 in two cross attentions, a layer; one last."""
    full, cross = 2 * rank * (256 + 256), 2 * rank * (256 + 128)
    return 2 * (full + 2 * cross) + cross


@pytest.mark.parametrize(
    ("rank", "blocks", "indices"),
    [(4, "last:2", (8, 9)), (2, "all", range(10)), (8, [0, 3], (0, 3)), (3, "last:0", ())],
)
def test_trained_parameters_are_the_factors_and_the_head(rank, blocks, indices):
    network = build_network(
        checkpoint="random",
        num_classes=3,
        peft={**LORA, "rank": rank, "blocks": blocks},
        decoder="frozen",
    )
    components = network.summary.components
    assert components["encoder"][0] == encoder_count(rank, indices)
    assert components["decoder"][0] == components["prompt encoder"][0] == 0
    assert components["class head"] == (3 * HEAD, 3 * HEAD)
    assert network.summary.trainable == encoder_count(rank, indices) + 3 * HEAD


def test_decoder_policies():
    def trained(decoder):
        network = build_network(checkpoint="random", num_classes=1, peft=LORA, decoder=decoder)
        return network.summary.components["decoder"][0]

    assert trained("lora") == decoder_count(4)
    decoder = build_network(checkpoint="random", num_classes=1).mask_decoder
    parts = (decoder.transformer, decoder.output_upscaling, decoder.iou_token)
    assert trained("full") == sum(p.numel() for part in parts for p in part.parameters())


def test_auto_size_is_128_for_lite_medsam_and_the_native_size_otherwise(monkeypatch):
    asked = []

    def build_sam(arch, checkpoint, size, normalization):
        asked.append((arch, size))
        raise KeyboardInterrupt  # no ViT-B is built here

    def size_for(**options):
        with pytest.raises(KeyboardInterrupt):
            build_network(num_classes=1, **options)
        return asked.pop()[1]

    monkeypatch.setattr(module, "build_sam", build_sam)
    assert size_for() == 128
    assert size_for(arch="lite_medsam", checkpoint="x.pth") == 128
    assert size_for(arch="vit_b", checkpoint="x.pth") is None  # the native size
    assert size_for(image_size=None) is None
    assert size_for(image_size="512") == 512


def test_auto_size_holds_for_an_architecture_recognised_from_its_checkpoint(packaged_weights):
    network = build_network(arch="auto", checkpoint=packaged_weights, num_classes=1)
    assert (network.arch, network.image_size) == ("lite_medsam", 128)
    assert (
        build_network(checkpoint=packaged_weights, num_classes=1, image_size=256).image_size == 256
    )


def test_seed_makes_the_first_factors():
    def factors(seed):
        network = build_network(checkpoint="random", num_classes=1, peft=LORA, seed=seed)
        return network.get_parameter("image_encoder.layers.3.blocks.1.attn.qkv.lora_a")

    assert torch.equal(factors(1), factors(1))
    assert not torch.equal(factors(1), factors(2))


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        ({"name": "lorra", "rank": 4}, "unknown PEFT method 'lorra', expected one of: lora"),
        ({**LORA, "ranks": 4}, "'lora' has no hyper-parameter ranks; it has: .*rank"),
        ({**LORA, "blocks": "last:11"}, "blocks 'last:11' not understood"),
        ({**LORA, "rank": 0}, "rank must be at least 1, got 0"),
    ],
)
def test_wrong_methods(peft, message):
    with pytest.raises(ValueError, match=message):
        build_network(checkpoint="random", num_classes=1, peft=peft)


@pytest.fixture
def adapter(packaged_weights, tmp_path, generator):
    """File and network of an adapter with trained-looking values."""
    network = build_network(num_classes=2, peft=LORA, decoder="lora").eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, network, peft=network.peft)
    return path, network


def test_network_is_rebuilt_from_the_adapter_file_alone(adapter, generator):
    path, network = adapter
    rebuilt, file = network_from_adapter(path)
    assert not rebuilt.training
    assert file.peft == network.peft
    assert rebuilt.image_size == 128
    image = torch.rand(1, 1, 128, 128, generator=generator)
    with torch.no_grad():
        assert torch.equal(rebuilt(image), network(image))


def test_network_is_rebuilt_with_the_adapters_normalization(packaged_weights, tmp_path):
    """Not with what `auto` chooses for its base weights."""
    network = build_network(num_classes=1, peft=LORA, decoder="frozen", normalization="sam")
    assert build_network(num_classes=1).normalization == "medsam"
    save_adapter(tmp_path / "a.safetensors", network, peft=network.peft)
    rebuilt, file = network_from_adapter(tmp_path / "a.safetensors")
    assert rebuilt.normalization == file.base["normalization"] == "sam"


def test_adapter_of_another_rank_is_refused(adapter):
    path, _ = adapter
    with pytest.raises(ValueError, match=r"peft\.method\.rank is 4 in the file, 2 here"):
        build_network(num_classes=2, peft={**LORA, "rank": 2}, decoder="lora", adapter=path)


def test_adapter_on_other_base_weights_is_refused(adapter):
    path, _ = adapter
    with pytest.raises(ValueError, match=r"another network: base_sha256 is 79d8.* random here"):
        network_from_adapter(path, checkpoint="random")


def test_adapter_of_random_base_weights_is_refused(make_network, tmp_path):
    network = make_network()
    save_adapter(tmp_path / "a.safetensors", network, peft=network.peft)
    with pytest.raises(ValueError, match=r"random base weights .* kept nowhere"):
        network_from_adapter(tmp_path / "a.safetensors")


def test_adapter_of_an_unknown_architecture_names_the_known(make_network, tmp_path):
    network = make_network()
    network.arch, network.base_sha256 = "vit_z", "0" * 64
    save_adapter(tmp_path / "a.safetensors", network, peft=network.peft)
    with pytest.raises(ValueError, match="architecture 'vit_z', known are: lite_medsam, vit_b"):
        network_from_adapter(tmp_path / "a.safetensors")
