"""Adapter files: the same network in another process, and nothing but the network they are of."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from segment_anything import sam_model_registry

from samtune.networks import SamSegmenter, build_sam
from samtune.peft import adapter_file, lora
from samtune.peft.adapt import (
    adapt,
    merge_adapters,
    method_configs,
    trained_state,
    unmerge_adapters,
)
from samtune.peft.adapter_file import load_adapter, read_adapter, save_adapter
from samtune.peft.lora import LoRA
from samtune.peft.registry import build_method
from samtune.peft.svd import thin_svd

METHOD = LoRA(rank=2, alpha=3, blocks="last:2")


def adapted(net, method=METHOD, decoder="lora"):
    adapt(net, method, decoder=decoder)
    return net, method_configs(method, decoder)


@pytest.fixture
def saved(tmp_path, make_segmenter, randomise_factors):
    """(trained network, how it was adapted, its file)."""
    net, peft = adapted(make_segmenter())
    randomise_factors(net)
    with torch.no_grad():
        net.class_head.tokens.normal_()
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, net, peft=peft, extra={"classes": {"1": "anterior"}})
    return net, peft, path


def rewrite(path, *, header=None, tensors=None):
    """Change what the header or the tensors of an adapter file hold."""
    with safe_open(path, framework="pt") as file:
        old = json.loads(file.metadata()["samtune"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if tensors is not None:
        del old["tensors_sha256"]  # as in older files: nothing is known of the tensors
    new = old if header is None else header(old)
    text = new if isinstance(new, str) else json.dumps(new)
    save_file(held if tensors is None else tensors(held), path, {"samtune": text})


# run in a process of its own: torch.Tensor files in, logits out
PROGRAM = """
import sys, torch
from samtune.networks import SamSegmenter
from samtune.networks.build import assemble_sam
from samtune.networks.tiny_vit import TinyViT
from samtune.peft.adapt import adapt, method_configs
from samtune.peft.adapter_file import load_adapter, read_adapter
from samtune.peft.registry import build_method

folder, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
encoder = TinyViT(
    patch_stride=1, dims=(8, 12, 20, 24), depths=(1, 2, 1, 2),
    num_heads=(1, 3, 5, 2), windows=(1, 7, 5, 3),
)
sam = assemble_sam(encoder, arch="tiny_vit", image_size=32, normalization="medsam")
adapter = read_adapter(f"{folder}/adapter.safetensors")
net = SamSegmenter(sam, adapter.base["num_classes"])
net.load_state_dict(torch.load(f"{folder}/base.pth", weights_only=True), strict=True)
method, decoder = build_method(adapter.peft["method"]), adapter.peft["decoder"]
adapt(net, method, decoder=decoder)
load_adapter(net, adapter, peft=method_configs(method, decoder))
with torch.no_grad():
    torch.save(net.eval()(torch.load(f"{folder}/image.pth")), f"{folder}/logits.pth")
"""


def test_round_trip_in_a_new_process_is_bit_identical(saved, tmp_path, make_segmenter, repo_root):
    net, _, _ = saved
    image = torch.randn(1, 1, 32, 32)
    torch.save(make_segmenter().state_dict(), tmp_path / "base.pth")
    torch.save(image, tmp_path / "image.pth")
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(torch.get_num_threads())],
        check=True,
        cwd=repo_root,
        timeout=120,
    )
    with torch.no_grad():
        expected = net(image)
        untouched = make_segmenter()(image)
    assert (expected - untouched).abs().max() > 1e-2
    assert torch.equal(torch.load(tmp_path / "logits.pth"), expected)


def test_file_holds_the_trained_tensors_alone(saved):
    net, peft, path = saved
    adapter = read_adapter(path)
    trained = trained_state(net)
    assert adapter.tensors.keys() == trained.keys()
    assert all(torch.equal(adapter.tensors[name], trained[name]) for name in trained)
    assert adapter.peft == peft
    assert adapter.extra == {"classes": {"1": "anterior"}}
    assert adapter.base == {
        "arch": "tiny_vit",
        "image_size": 32,
        "normalization": "medsam",
        "num_classes": 2,
        "base_sha256": "random",
        "class_names": None,
        "activation": "softmax",
        "prompts": "none",
    }
    assert path.stat().st_size < 4 * sum(t.numel() for t in trained.values()) + 16_384


def test_header_has_a_format_version_and_those_of_the_libraries(saved):
    with safe_open(saved[2], framework="pt") as file:
        header = json.loads(file.metadata()["samtune"])
    assert header["format_version"] == 1
    assert header["versions"]["torch"] == version("torch")


def test_same_network_same_bytes(saved, tmp_path):
    net, peft, path = saved
    save_adapter(tmp_path / "again", net, peft=peft, extra={"classes": {"1": "anterior"}})
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_load_changes_the_trained_tensors_alone(saved, make_segmenter):
    net, peft, path = saved
    other, _ = adapted(make_segmenter())
    parameters = dict(other.named_parameters())
    load_adapter(other, path, peft=peft)
    assert all(p is parameters[name] for name, p in other.named_parameters())
    for name, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("arch", "vit_b", "arch is tiny_vit in the file, vit_b here"),
        ("image_size", 256, "image_size is 32 in the file, 256 here"),
        ("normalization", "sam", "normalization is medsam in the file, sam here"),
        ("base_sha256", "79d8", "base_sha256 is random in the file, 79d8 here"),
    ],
)
def test_another_base_is_named(saved, make_segmenter, attribute, value, message):
    _, peft, path = saved
    other, _ = adapted(make_segmenter())
    setattr(other, attribute, value)
    assert_refused_and_unchanged(other, path, peft, message)


@pytest.mark.parametrize(
    ("method", "decoder", "message"),
    [
        (LoRA(rank=3, alpha=3, blocks="last:2"), "lora", r"peft\.method\.rank is 2 in the file, 3"),
        (LoRA(rank=2, blocks="last:2"), "lora", r"peft\.method\.alpha is 3 in the file, 2 here"),
        (
            LoRA(rank=2, alpha=3, blocks="last:1"),
            "lora",
            r"peft\.method\.blocks is last:2 in the file, last:1 here",
        ),
        (
            LoRA(rank=2, alpha=3, blocks="last:2", targets=("q", "k")),
            "lora",
            r"peft\.method\.targets is \['q', 'v'\] in the file, \['q', 'k'\] here",
        ),
        (METHOD, "frozen", r"peft\.decoder is lora in the file, frozen here"),
        (None, "full", r"peft\.method is .*rank.* in the file, None here"),
    ],
    ids=["rank", "alpha", "blocks", "targets", "decoder", "no-method"],
)
def test_another_adaptation_is_named(saved, make_segmenter, method, decoder, message):
    _, _, path = saved
    other, peft = adapted(make_segmenter(), method, decoder)
    assert_refused_and_unchanged(other, path, peft, message)


def test_another_number_of_classes_is_named(saved, make_segmenter):
    _, peft, path = saved
    other, _ = adapted(make_segmenter(num_classes=3))
    assert_refused_and_unchanged(other, path, peft, "num_classes is 2 in the file, 3 here")


def assert_refused_and_unchanged(net, path, peft, message):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match=rf"adapter\.safetensors' .*{message}"):
        load_adapter(net, path, peft=peft)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_adapter_of_a_merged_network_is_refused(saved, make_segmenter):
    _, peft, path = saved
    assert_refused_and_unchanged(
        make_segmenter().requires_grad_(False), path, peft, r"doesn't fit: missing \[\], unexpected"
    )


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 7.0])
def test_altered_tensors_are_refused(saved, make_segmenter, value, known):
    """NaN always; another number where the file says what it held."""
    _, peft, path = saved
    other, _ = adapted(make_segmenter())
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["samtune"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    held["class_head.tokens"][0, 3] = value
    if not known:
        del header["tensors_sha256"]
    save_file(held, path, {"samtune": json.dumps(header)})
    if value == 7.0 and not known:
        load_adapter(other, path, peft=peft)
        return
    message = "was altered" if value == 7.0 else r"holds NaN or infinite values in class_head\.tok"
    assert_refused_and_unchanged(other, path, peft, message)


def test_missing_and_misshaped_tensors_are_named(saved, make_segmenter):
    _, peft, path = saved
    other, _ = adapted(make_segmenter())

    def alter(tensors):
        del tensors["class_head.tokens"]
        name = "class_head.hypernetworks.0.layers.2.bias"
        return tensors | {name: torch.zeros(5)}

    rewrite(path, tensors=alter)
    message = r"missing \['class_head\.tokens'\].*layers\.2\.bias is \(5,\), expected \(32,\)"
    assert_refused_and_unchanged(other, path, peft, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h | {"format_version": 99}, "format_version 99, this version reads 1"),
        (lambda h: {k: v for k, v in h.items() if k != "base"}, "a header without base"),
        (lambda h: {k: v for k, v in h.items() if k != "format_version"}, "without format_version"),
        (lambda _: "[1, 2]", "without format_version"),
        (lambda _: "{broken", "header that is not JSON"),
    ],
)
def test_other_headers(saved, change, message):
    rewrite(saved[2], header=change)
    with pytest.raises(ValueError, match=rf"adapter\.safetensors' .*{message}"):
        read_adapter(saved[2])


def test_safetensors_file_of_something_else(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"weights\.safetensors' is .* without samtune's header"):
        read_adapter(path)


@pytest.mark.parametrize("keep", [0, 4, 0.5])
def test_truncated_file(saved, keep):
    path = saved[2]
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ValueError, match=r"adapter\.safetensors' can't be read"):
        read_adapter(path)


def test_file_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors' does not exist"):
        read_adapter(tmp_path / "none.safetensors")


@pytest.mark.parametrize("failing", ["save_file", "os.replace"])
def test_write_that_fails_leaves_the_old_file_and_nothing_else(saved, monkeypatch, failing):
    net, peft, path = saved
    before = path.read_bytes()

    def fail(*args, **_):
        if failing == "save_file":  # after half of the bytes
            args[1].write_bytes(b"half")
        msg = "No space left on device"
        raise OSError(msg)

    target = adapter_file if failing == "save_file" else os
    monkeypatch.setattr(target, failing.removeprefix("os."), fail)
    with torch.no_grad():
        net.class_head.tokens.zero_()
    with pytest.raises(OSError, match="No space left"):
        save_adapter(path, net, peft=peft)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_folders_are_made(saved, tmp_path):
    net, peft, _ = saved
    save_adapter(tmp_path / "runs" / "a" / "best.safetensors", net, peft=peft)
    assert read_adapter(tmp_path / "runs" / "a" / "best.safetensors").extra == {}


def test_lora_of_vit_b_takes_less_than_a_megabyte(tmp_path):
    """Apart from the class head, which is a part of the decoder."""
    with torch.device("meta"):
        net = SamSegmenter(build_sam("vit_b", "random"), 1)
    method = LoRA(rank=4)
    adapt(net, method, decoder="frozen")
    for name, parameter in list(net.named_parameters()):
        if parameter.requires_grad:
            parent, _, last = name.rpartition(".")
            values = torch.nn.Parameter(torch.zeros(parameter.shape))
            setattr(net.get_submodule(parent), last, values)
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, net, peft=method_configs(method, "frozen"))
    size = path.stat().st_size - 4 * sum(p.numel() for p in net.class_head.parameters())
    assert 4 * 147_456 < size < 1e6


@pytest.mark.parametrize("low_rank", ["lora", "dora"])
@torch.no_grad()
def test_pissa_needs_no_svd_of_the_reader(tmp_path, monkeypatch, make_segmenter, low_rank):
    """Where A and B started is in the file: other signs there don't matter."""
    method = build_method({"name": low_rank, "rank": 2, "start": "pissa", "convs": ["neck"]})
    net, peft = adapted(make_segmenter(), method, low_rank)
    for key, parameter in net.named_parameters():
        if key.endswith(("lora_a", "lora_b")):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, net, peft=peft)

    def turned(weight):
        svd = thin_svd(weight)
        return replace(svd, u=-svd.u, vh=-svd.vh)

    monkeypatch.setattr(lora, "thin_svd", turned)
    other, _ = adapted(make_segmenter(), method, low_rank)
    image = torch.randn(1, 1, net.image_size, net.image_size)
    assert not torch.equal(other(image), net(image))
    load_adapter(other, path, peft=peft)
    assert torch.equal(other(image), net(image))


def test_adapter_of_a_merged_network_is_not_one_of_the_plain_one(
    tmp_path, make_segmenter, randomise_factors
):
    net, peft = adapted(make_segmenter())
    randomise_factors(net)
    before = merge_adapters(net)
    adapt(net, METHOD, decoder="lora")
    save_adapter(tmp_path / "second", net, peft=peft)
    plain, _ = adapted(make_segmenter())
    with pytest.raises(ValueError, match=r"base_sha256 is random\+merged in the file, random here"):
        load_adapter(plain, tmp_path / "second", peft=peft)
    merge_adapters(net)
    unmerge_adapters(net, before)
    assert net.base_sha256 == "random+merged"


def test_unmerging_brings_the_base_back(make_segmenter):
    net, _ = adapted(make_segmenter())
    unmerge_adapters(net, merge_adapters(net))
    assert net.base_sha256 == "random"


@pytest.mark.parametrize("config", [{"name": "lora", "rank": 2}, {"name": "bias"}], ids=str)
def test_a_copy_with_its_flags_off_is_not_written(tmp_path, make_segmenter, config):
    method = build_method(config)
    net, peft = adapted(make_segmenter(), method, "frozen")
    net.requires_grad_(False)
    with pytest.raises(ValueError, match="has requires_grad off"):
        save_adapter(tmp_path / "adapter", net, peft=peft)
    assert not list(tmp_path.iterdir())


def test_unmodified_sam_has_no_adapter_file(tmp_path):
    with torch.device("meta"):
        sam = sam_model_registry["vit_b"]()
    adapt(sam, METHOD, decoder="frozen")
    with pytest.raises(ValueError, match="need a SamSegmenter; Sam has no arch"):
        save_adapter(tmp_path / "adapter", sam, peft=method_configs(METHOD, "frozen"))
