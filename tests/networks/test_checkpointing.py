"""Activations that are computed again: the same gradients, fewer tensors kept."""

import pytest
import torch

from samtune.networks.checkpointing import set_checkpointing
from samtune.networks.sam_vit import SamViT
from tests.tiny_encoders import tiny_vit


def sam_vit():
    return SamViT(
        image_size=64, dim=16, depth=3, num_heads=2, global_blocks=(2,), patch_size=8, window=3
    )


def sam2():
    pytest.importorskip("transformers")
    from samtune.networks.sam2_encoder import Hiera

    return Hiera(image_size=64, dim=16, depths=(1, 2, 1, 1), num_heads=2, global_blocks=(2,))


class Kept:
    """Counts the values that are kept for the backward pass."""

    def __init__(self):
        self.values = 0

    def pack(self, tensor):
        self.values += tensor.numel()
        return tensor

    def counting(self):
        return torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)


def kept_beyond_blocks(encoder, x):
    last = len(encoder.adapter_sites())
    with torch.no_grad():
        features = encoder.forward_prefix(x, last)
    kept = Kept()
    with kept.counting():
        encoder.forward_suffix(features.requires_grad_(), last).square().mean()
    return kept.values


def gradients(encoder, x, on):
    """Gradients, and the values kept for the backward pass, with dropout within the blocks."""
    set_checkpointing(encoder, on)
    encoder.zero_grad()
    kept = Kept()
    hooks = [
        encoder.get_submodule(site.block).register_forward_hook(
            lambda module, inputs, out: torch.nn.functional.dropout(out, 0.3)
        )
        for site in encoder.adapter_sites()
    ]
    torch.manual_seed(3)
    with torch.no_grad():
        features = encoder.forward_prefix(x, 1)
    with kept.counting():
        loss = encoder.forward_suffix(features.requires_grad_(), 1).square().mean()
    loss.backward()
    for hook in hooks:
        hook.remove()
    found = {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}
    return found, kept.values


@pytest.mark.parametrize("make", [tiny_vit, sam_vit, sam2])
def test_gradients_are_the_same_to_the_bit_and_less_is_kept(make, generator):
    torch.manual_seed(0)
    encoder = make()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 0.1, generator=generator)
    x = torch.randn(2, 3, 64, 64, generator=generator)
    plain, plain_kept = gradients(encoder, x, on=False)
    again, kept = gradients(encoder, x, on=True)
    assert plain.keys() == again.keys()
    assert all(gradient.any() for gradient in list(plain.values())[-4:])
    assert [name for name in plain if not torch.equal(plain[name], again[name])] == []
    beyond = kept_beyond_blocks(encoder, x)
    assert 0 < kept - beyond < 0.3 * (plain_kept - beyond)


def test_without_gradients_nothing_changes(generator):
    encoder = tiny_vit()
    x = torch.randn(1, 3, 32, 32, generator=generator)
    with torch.no_grad():
        expected = encoder(x)
        set_checkpointing(encoder, True)
        assert torch.equal(encoder(x), expected)
