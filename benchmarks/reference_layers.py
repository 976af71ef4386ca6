"""Layers in the form the released codes compute them, to be timed beside ours.

Written from the description of what they do; numerically the same functions as ours (the benchmark
proves it before it times), computed the released way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.peft.lora import LoRALinear
from samtune.peft.salt import SALTLinear
from samtune.peft.spectral import SpectralLinear


class SliceAddLoRA(nn.Module):
    """SAMed's form: separate pairs for q and v, added in place on slices of the fused output."""

    def __init__(self, ours: LoRALinear) -> None:
        super().__init__()
        self.weight, self.bias, self.dim = ours.weight, ours.bias, ours.in_features
        r, d = ours.rank, ours.in_features
        a, b = ours.lora_a.detach(), ours.lora_b.detach()
        self.a_q, self.a_v = nn.Parameter(a[:r].clone()), nn.Parameter(a[r:].clone())
        self.b_q, self.b_v = nn.Parameter(b[:d].clone()), nn.Parameter(b[d:].clone())

    def forward(self, x: Tensor) -> Tensor:
        """Fused layer, then the two slices."""
        qkv = F.linear(x, self.weight, self.bias)
        q, v = F.linear(F.linear(x, self.a_q), self.b_q), F.linear(F.linear(x, self.a_v), self.b_v)
        qkv[..., : self.dim] += q
        qkv[..., -self.dim :] += v
        return qkv


class ReleasedSSAM(nn.Module):
    """S-SAM as released: U relu(diag(scale S + shift)) V^T is rebuilt with a dense diagonal."""

    def __init__(self, ours: SpectralLinear) -> None:
        super().__init__()
        self.bias, self.basis = ours.bias, ours.basis

    def forward(self, x: Tensor) -> Tensor:
        """Rebuild, then multiply."""
        b = self.basis
        middle = torch.diag(F.relu(b.s * b.scale + b.shift))
        return F.linear(x, b.u @ middle @ b.vh, self.bias)


class ReleasedSALT(nn.Module):
    """SALT as released (its ReLU left out, to be the same function): a dense middle matrix."""

    def __init__(self, ours: SALTLinear) -> None:
        super().__init__()
        self.bias, self.basis, self.top = ours.bias, ours.basis, ours.top
        self.salt_x, self.salt_y = ours.salt_x, ours.salt_y

    def forward(self, x: Tensor) -> Tensor:
        """Rebuild, then multiply."""
        b, k = self.basis, self.top
        middle = torch.diag(torch.cat([b.s[:k] * b.scale + b.shift, b.s[k:]]))
        rest = F.pad(self.salt_x @ self.salt_y, (k, 0, k, 0))
        return F.linear(x, b.u @ (middle + rest) @ b.vh, self.bias)
