import logging

import pytest
import torch
from torch import nn

from samtune.training import precision
from samtune.training.precision import AutocastInferer, amp_setting, pick_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def native(monkeypatch):
    """Say whether devices have bf16."""

    def be(has):
        monkeypatch.setattr(precision, "has_native_bf16", lambda device: has)

    return be


@pytest.mark.parametrize(
    ("given", "kept"),
    [(False, False), ("false", False), (True, True), ("True", True), ("BF16", "bf16")]
    + [(word, word) for word in ("bf16", "fp16", "auto")],
)
def test_values_of_the_key(given, kept):
    assert amp_setting(given) is kept or amp_setting(given) == kept


@pytest.mark.parametrize(
    ("amp", "device", "has", "expected"),
    [
        (False, CUDA, True, "float32"),
        (True, CUDA, True, "fp16"),  # what it always meant
        (True, CPU, True, "float32"),
        ("fp16", CUDA, True, "fp16"),
        ("bf16", CPU, True, "bf16"),
        ("bf16", CPU, False, "bf16"),
        ("auto", CPU, True, "bf16"),
        ("auto", CPU, False, "float32"),
        ("auto", CUDA, True, "bf16"),
        ("auto", CUDA, False, "fp16"),
    ],
)
def test_what_the_network_computes_in(native, amp, device, has, expected):
    native(has)
    assert pick_precision(amp, device) == expected


def test_warnings_say_when_it_costs_time_or_does_nothing(native, caplog):
    caplog.set_level(logging.WARNING)
    native(True)
    pick_precision("bf16", CPU)
    pick_precision("auto", CPU)
    pick_precision(False, CPU)
    assert caplog.messages == []
    pick_precision(True, CPU)
    native(False)
    pick_precision("bf16", CPU)
    assert "on cpu it does nothing: try bf16" in caplog.messages[0]
    assert "no native bf16" in caplog.messages[1]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_bf16": False, "avx512_f": True}, False),
        ({}, False),
    ],
)
def test_native_bf16_of_a_processor(monkeypatch, found, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert precision.has_native_bf16(CPU) is expected


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="fp16 needs CUDA, the device is 'cpu'"):
        pick_precision("fp16", CPU)
    with pytest.raises(ValueError, match=r"amp must be false, bf16, fp16 or auto .*, got 'half'"):
        amp_setting("half")


def test_every_tensor_of_an_output_comes_back_as_float32():
    linear = nn.Linear(2, 2)

    def network(x):
        y = linear(x)
        return {"a": y, "b": (y, torch.ones(1, dtype=torch.bool)), "c": "text"}

    def run(kind):
        infer = AutocastInferer(lambda x, net: net(x), kind, CPU)
        return infer(torch.ones(1, 2), network)

    out = run("bf16")
    assert out["a"].dtype == out["b"][0].dtype == torch.float32
    assert out["b"][1].dtype == torch.bool
    assert out["c"] == "text"
    assert torch.equal(out["a"], out["a"].bfloat16().float())  # it was computed in bf16
    assert torch.equal(run("float32")["a"], linear(torch.ones(1, 2)))
