import pytest
import torch
from torch import nn

from samtune.peft.lora import LoRALinear
from samtune.training.optim import parameter_groups


@pytest.fixture
def network():
    network = nn.Sequential(LoRALinear(nn.Linear(4, 6), rank=2), nn.Linear(6, 2))
    network[0].lora_a.requires_grad_(True)
    network[0].lora_b.requires_grad_(True)
    return network


def test_one_rate_for_all_that_is_trained(network):
    (group,) = parameter_groups(network, 0.1)
    assert group["lr"] == 0.1
    trained = [p for p in network.parameters() if p.requires_grad]
    assert [id(p) for p in group["params"]] == [id(p) for p in trained]


def test_lora_plus_gives_b_its_own_rate(network):
    rest, b = parameter_groups(network, 0.1, 16)
    assert b["lr"] == pytest.approx(1.6)
    assert [id(p) for p in b["params"]] == [id(network[0].lora_b)]
    assert len(rest["params"]) == 3
    assert rest["lr"] == 0.1
    torch.optim.AdamW([rest, b])  # refuses a parameter in two groups


def test_lora_plus_without_lora():
    with pytest.raises(ValueError, match="needs LoRA's B factors"):
        parameter_groups(nn.Linear(2, 2), 0.1, 16)


def test_a_ratio_below_one(network):
    with pytest.raises(ValueError, match=r"at least 1, got 0\.5"):
        parameter_groups(network, 0.1, 0.5)
