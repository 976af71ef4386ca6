"""Methods by name."""

import pytest

from samtune.peft.lora import LoRA
from samtune.peft.registry import build_method, build_methods


def test_lora_with_its_hyper_parameters():
    config = {"name": "lora", "rank": 4, "alpha": 16, "targets": ["q"], "blocks": [0, 2]}
    assert build_method(config) == LoRA(rank=4, alpha=16, targets=("q",), blocks=[0, 2])


def test_defaults():
    assert build_method({"name": "lora"}) == LoRA()


def test_every_method_survives_its_own_config(name):
    method = build_method({"name": name})
    assert build_method(method.config()).config() == method.config()
    assert method.config()["name"] == name


@pytest.mark.parametrize("config", [{"name": "dorra"}, {"rank": 4}, {"name": None}])
def test_unknown_method_lists_the_known_ones(config):
    with pytest.raises(ValueError, match=rf"'{config.get('name')}', expected one of: .*lora"):
        build_method(config)


def test_unknown_hyper_parameter_lists_the_known_ones():
    with pytest.raises(ValueError, match="'lora' has no hyper-parameter r; it has: alpha"):
        build_method({"name": "lora", "r": 4})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"name": "lora", "targets": None}, r"lora\.targets must be a list of names, got None"),
        ({"name": "lora", "targets": 3}, "list of names, got 3"),
        ({"name": "lora", "targets": [["q"]]}, "list of names"),
        ({"name": "lora", "convs": None}, "list of names, got None"),
        ({"name": "lora", "alpha": "abc"}, r"lora\.alpha must be of type float, got 'abc'"),
        ({"name": "lora", "alpha": True}, "float, got True"),
        ({"name": "salt", "alpha": "16"}, "float, got '16'"),
        ({"name": "lora", "alpha": 0}, "alpha must be a number above 0, got 0"),
        ({"name": "lora", "alpha": -1.0, "start": "pissa"}, "above 0, got -1"),
        ({"name": "lora", "alpha": float("nan")}, "above 0, got nan"),
        ({"name": "lora", "start": 3}, r"lora\.start must be text, got 3"),
        ({"name": "lora", "convs": ["neck"], "dropout": 0.1}, "not with convs"),
        ({"name": "salt", "reference": True, "pair": False}, "not with pair"),
        ({"name": "fact", "scale": 0.0}, "scale must be a number above 0"),
        ({"name": "vera", "initial": 0.0}, "initial must be a number above 0"),
        ({"name": ["lora"]}, r"unknown PEFT method '\['lora'\]'"),
        ("lora", "given as {name: ..., hyper-parameters}, got 'lora'"),
        (["lora"], "given as {name: ..., hyper-parameters}, got 'lora'"),
    ],
    ids=str,
)
def test_bad_values_say_what_was_expected(config, said):
    with pytest.raises(ValueError, match=said):
        build_methods(config)


def test_optional_numbers_may_be_left_open():
    assert build_methods({"name": "lora", "rank": 4, "alpha": None})[0].alpha == 4
    assert build_methods({"name": "lora", "rank": 4, "alpha": 8})[0].scale == 2
