"""Reading checkpoint files: wrappers, damage, and code; loading: all of it or nothing."""

import argparse
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from samtune.networks.checkpoints import load_strictly, read_state_dict

STATE = {
    "encoder.weight": torch.arange(6.0).view(2, 3),
    "encoder.bias": torch.tensor([1.0, -1.0]),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 2)


class Payload:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def assert_is_state(found):
    assert found.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"model": STATE, "optimizer": {"lr": 0.1}, "epoch": 3},
        {"state_dict": STATE},
        {"model": {"state_dict": STATE}},
        {f"module.{name}": tensor for name, tensor in STATE.items()},
        {"model": {f"module.{name}": tensor for name, tensor in STATE.items()}},
        {f"sam.{name}": tensor for name, tensor in STATE.items()},
        {"model": {f"module.sam.{name}": tensor for name, tensor in STATE.items()}},
        {f"sam.module.{name}": tensor for name, tensor in STATE.items()},
        {f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()},
        {"model": STATE, "args": argparse.Namespace(lr=1e-3, dist_url="env://", resume=None)},
    ],
    ids=[
        "plain",
        "model",
        "state_dict",
        "model-state_dict",
        "module.",
        "model-module.",
        "sam.",
        "model-module.sam.",
        "sam.module.",
        "module._orig_mod.",
        "model-args",
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_wrappers_are_removed(tmp_path, content, suffix):
    path = tmp_path / f"base{suffix}"
    torch.save(content, path)
    assert_is_state(read_state_dict(path))


def test_safetensors(tmp_path):
    save_file(STATE, tmp_path / "base.safetensors")
    assert_is_state(read_state_dict(tmp_path / "base.safetensors"))


def test_prefix_on_some_names_only_is_part_of_the_name(tmp_path):
    state = {"module.weight": torch.zeros(1), "other": torch.zeros(1)}
    torch.save(state, tmp_path / "base.pth")
    assert set(read_state_dict(tmp_path / "base.pth")) == set(state)


def test_file_with_code_is_refused_and_the_code_not_run(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"encoder.weight": Payload(tmp_path / "made")}, path)
    with pytest.raises(ValueError, match=r"evil\.pth' is refused.*mkdir") as info:
        read_state_dict(path)
    assert not (tmp_path / "made").exists()
    assert "weights_only" not in str(info.value)  # torch advises to switch the check off


def test_code_inside_the_arguments_of_a_training_script_is_refused(tmp_path):
    path = tmp_path / "mae.pth"
    torch.save({"model": STATE, "args": argparse.Namespace(hook=Payload(tmp_path / "made"))}, path)
    with pytest.raises(ValueError, match=r"mae\.pth' is refused.*mkdir"):
        read_state_dict(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 40, 0.5, 0.95])
def test_truncated_file(tmp_path, suffix, kept):
    path = tmp_path / f"base{suffix}"
    if suffix == ".pth":
        torch.save(STATE, path)
    else:
        save_file(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(
        ValueError, match=rf"checkpoint '.*base{suffix}' (can't be read|is refused)"
    ):
        read_state_dict(path)


def test_text_file(tmp_path):
    (tmp_path / "base.pth").write_text("no checkpoint\n")
    with pytest.raises(ValueError, match=r"base\.pth' is refused"):
        read_state_dict(tmp_path / "base.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"\x10\0\0\0\0\0\0\0{}", "in safetensors' format: rename it"),
    ],
)
def test_what_lies_in_a_checkpoints_place_is_named(tmp_path, content, said):
    (tmp_path / "base.pth").write_bytes(content)
    with pytest.raises(ValueError, match=rf"base\.pth' is {said}"):
        read_state_dict(tmp_path / "base.pth")


def test_a_flipped_bit_is_found_by_the_archives_checksum(tmp_path):
    path = tmp_path / "base.pth"
    torch.save({"weight": torch.arange(4096.0)}, path)
    data = bytearray(path.read_bytes())
    at = data.index(torch.arange(1000.0, 1010.0).numpy().tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"base\.pth' is altered: the checksum of its part"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(2), "holds Tensor"),
        ({}, "holds dict"),
        ({"weight": torch.zeros(1), "epoch": 3}, "not tensors: epoch"),
    ],
)
def test_file_with_something_else(tmp_path, content, message):
    torch.save(content, tmp_path / "base.pth")
    with pytest.raises(ValueError, match=rf"base\.pth.*{message}"):
        read_state_dict(tmp_path / "base.pth")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"base\.pth' does not exist"):
        read_state_dict(tmp_path / "base.pth")


def test_load_fills_every_tensor():
    net = Net()
    load_strictly(net, STATE, source="here")
    assert_is_state(net.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.bias": None}, "file 'x' doesn't fit Net: 1 missing: encoder.bias"),
        ({"head.weight": torch.zeros(1)}, "1 unexpected: head.weight"),
        (
            {"encoder.bias": torch.zeros(5)},
            r"1 of another shape or kind: encoder.bias is \(5,\), the model expects \(2,\)",
        ),
        (
            {"encoder.bias": torch.zeros(2, dtype=torch.int8)},
            r"or kind: encoder.bias holds torch.int8, the model expects torch.float32",
        ),
        (
            {"encoder.bias": None, "encoder.biases": torch.zeros(2)},
            r"missing: encoder.bias \(nearest in the file: encoder.biases\); "
            r"1 unexpected: encoder.biases \(nearest in the model: encoder.bias\)",
        ),
    ],
    ids=["missing", "unexpected", "shape", "kind", "renamed"],
)
def test_misfit_is_named_and_nothing_is_loaded(change, message):
    net = Net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = {name: t for name, t in (STATE | change).items() if t is not None}
    with pytest.raises(ValueError, match=message):
        load_strictly(net, state, source="file 'x'")
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


def test_allowed_names_may_be_missing_others_not():
    net = Net()
    bias = net.encoder.bias.detach().clone()
    partial = {"encoder.weight": STATE["encoder.weight"]}
    load_strictly(net, partial, source="here", allow_missing=["encoder.bias"])
    assert torch.equal(net.encoder.weight, STATE["encoder.weight"])
    assert torch.equal(net.encoder.bias, bias)
    with pytest.raises(ValueError, match=r"1 missing: encoder\.weight"):
        load_strictly(net, {}, source="here", allow_missing=["encoder.bias"])


def test_long_lists_are_cut():
    state = STATE | {f"extra.{i}": torch.zeros(1) for i in range(20)}
    with pytest.raises(ValueError, match=r"20 unexpected: extra\.0, .*extra\.7 and 12 more"):
        load_strictly(Net(), state, source="here")
