import pytest
import torch
from torch import nn

from samtune.peft.lora import LoRA, LoRALinear
from samtune.training.optim import make_optimizer, parameter_groups


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


# Layer-wise decay


def by_rate(groups):
    out = {}
    for group in groups:
        rate = round(group["lr"], 12)
        out.setdefault(rate, set()).update(id(parameter) for parameter in group["params"])
    return out


def test_each_block_learns_slower_than_the_next(make_network):
    """Five blocks; the decoder and the neck have the full rate."""
    network = make_network(LoRA(rank=2, blocks="all"))
    network.image_encoder.neck.requires_grad_(True)
    network.image_encoder.patch_embed.requires_grad_(True)
    groups = parameter_groups(network, 0.1, layer_decay=0.5)
    assert groups[0]["lr"] == 0.1
    sites = network.image_encoder.adapter_sites()
    assert len(sites) == 5
    expected = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = 0
        for site in sites:
            if name.startswith(f"image_encoder.{site.block}."):
                depth = 5 - site.index
        if name.startswith("image_encoder.patch_embed."):
            depth = 6
        expected.setdefault(round(0.1 * 0.5**depth, 12), set()).add(id(parameter))
    assert len(expected) == 7
    assert by_rate(groups) == expected


def test_layer_decay_and_lora_plus_multiply(make_network):
    network = make_network(LoRA(rank=2, blocks="last:2"))
    groups = by_rate(parameter_groups(network, 0.1, 4, layer_decay=0.5))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    last = [names[parameter] for parameter in groups[0.2]]  # 0.1 * 0.5 * 4
    before = [names[parameter] for parameter in groups[0.1]]  # 0.1 * 0.5 ** 2 * 4, or as it is
    block_4, block_3 = (site.block for site in network.image_encoder.adapter_sites()[:2:-1])
    assert last
    assert all(name.endswith("lora_b") and block_4 in name for name in last)
    b_before = [name for name in before if "image_encoder" in name]
    assert b_before
    assert all(name.endswith("lora_b") and block_3 in name for name in b_before)
    trained = {id(p) for p in network.parameters() if p.requires_grad}
    assert set().union(*groups.values()) == trained


def test_decay_of_one_and_a_frozen_encoder_are_one_rate(make_network):
    for network, decay in ((make_network(), 1.0), (make_network(None), 0.5)):
        assert {g["lr"] for g in parameter_groups(network, 0.1, layer_decay=decay)} == {0.1}


@pytest.mark.parametrize("decay", [0, -0.5, 1.5])
def test_a_decay_that_is_none(network, decay):
    with pytest.raises(ValueError, match=rf"in \(0, 1\], got {decay}"):
        parameter_groups(network, 0.1, layer_decay=decay)


def test_nothing_to_train():
    with pytest.raises(ValueError, match="no parameter of the network is trained"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)


# The optimiser by name


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)],
)
def test_optimisers_by_name(network, name, kind):
    made = make_optimizer(name, network, 0.1, weight_decay=0.05, momentum=0.8, lora_plus=16)
    assert type(made) is kind
    assert [group["lr"] for group in made.param_groups] == pytest.approx([0.1, 1.6])
    assert {group["weight_decay"] for group in made.param_groups} == {0.05}
    if name == "sgd":
        assert made.param_groups[0]["momentum"] == 0.8


def test_an_unknown_optimiser_names_the_known_ones(network):
    with pytest.raises(ValueError, match="one of adamw, adam, sgd, got 'lion'"):
        make_optimizer("lion", network, 0.1)
