"""Methods by name."""

import pytest

from samtune.peft.lora import LoRA
from samtune.peft.registry import build_method


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
