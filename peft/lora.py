"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685, sec. 4.1).

For each adapted group of output rows g (the queries, the values, ...):

    y[g] = W[g] x + b[g] + (alpha / r) B_g A_g x,   A_g: r x in, B_g: |g| x r

A is Kaiming-uniform, B zero: at step 0 the layer is the frozen one. The groups of a fused qkv
weight lie differently in SAM's ViT ([q | k | v]) and in TinyViT ([q_h, k_h, v_h] a head); the
encoder says which.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.peft.blocks import BlockSpec, select_blocks
from samtune.peft.protocol import replace_module

QKV = ("q", "k", "v")


class LoRALinear(nn.Linear):
    """A frozen linear layer with low-rank updates of groups of its output rows.

    The base keeps its names ``weight`` and ``bias``, so plain checkpoints still fit. All groups
    share
    one thin product: A of the groups stacked, then one product with the block-structured B.

    Args:
        base: layer whose parameters are taken over (not copied) and frozen.
        rank, alpha: r and alpha above; the update is scaled by ``alpha / rank``.
        groups: disjoint index tensors of output rows; ``None``: one group, all rows.
        dropout: probability on the update's input, training only.
        generator: for the initial A.
    """

    row_index: Tensor

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        alpha: float,
        groups: Sequence[Tensor] | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        rows = [torch.arange(base.out_features)] if groups is None else list(groups)
        limit = min(base.in_features, *(len(r) for r in rows))
        if not 1 <= rank <= limit:
            msg = (
                f"rank must be in [1, {limit}] for a {base.in_features}->{base.out_features} "
                f"layer, got {rank}"
            )
            raise ValueError(msg)
        super().__init__(
            base.in_features, base.out_features, bias=base.bias is not None, device="meta"
        )
        self.weight, self.bias = base.weight, base.bias
        self.requires_grad_(False)  # before the factors exist: the base only
        self.rank, self.alpha = rank, float(alpha)
        self.dropout = nn.Dropout(dropout)
        device, dtype = base.weight.device, base.weight.dtype
        a = torch.empty(len(rows) * rank, base.in_features)
        if device.type != "meta":
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        self.lora_a = nn.Parameter(a.to(device, dtype))
        self.lora_b = nn.Parameter(
            torch.zeros(sum(len(r) for r in rows), rank, device=device, dtype=dtype)
        )
        # flat position of every entry of lora_b in the out x (groups * rank) matrix
        columns = len(rows) * rank
        index = [
            r[:, None] * columns + torch.arange(g * rank, (g + 1) * rank)
            for g, r in enumerate(rows)
        ]
        self.register_buffer("row_index", torch.cat(index).flatten().to(device), persistent=False)

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """The factors."""
        return ("lora_a", "lora_b")

    def _scaled_b(self) -> Tensor:  # out x (groups * r)
        flat = self.lora_b.new_zeros(self.out_features * self.lora_a.shape[0])
        flat = flat.index_copy(0, self.row_index, self.lora_b.flatten() * (self.alpha / self.rank))
        return flat.view(self.out_features, -1)

    def forward(self, x: Tensor) -> Tensor:  # ... in -> ... out
        """The definition in the module's docstring."""
        low = F.linear(self.dropout(x), self.lora_a)
        return F.linear(x, self.weight, self.bias) + F.linear(low, self._scaled_b())

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A plain layer with W + (alpha / r) B A; the product is made in float32 or finer."""
        merged = nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device="meta"
        )
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        update = self._scaled_b().to(wide) @ self.lora_a.to(wide)
        weight = (self.weight.to(wide) + update).to(self.weight.dtype)
        merged.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias is not None:
            merged.bias = nn.Parameter(self.bias.clone(), requires_grad=False)
        return merged


@dataclass(frozen=True)
class LoRA:
    """LoRA on the attention of an encoder, and on the decoder's attention where asked.

    Attributes:
        rank: r, >= 1.
        alpha: scale of the update times r; ``None``: r, so that the scale is 1.
        targets: which of ``q``, ``k``, ``v``.
        blocks: ``all``, ``last:N`` or indices of the encoder's attention blocks.
        dropout: on the update's input.
    """

    rank: int = 8
    alpha: float | None = None
    targets: tuple[str, ...] = ("q", "v")
    blocks: BlockSpec = "all"
    dropout: float = 0.0

    name = "lora"

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if not self.targets or not set(self.targets) <= set(QKV):
            msg = f"targets must be among q, k, v, got {self.targets}"
            raise ValueError(msg)
        if len(set(self.targets)) != len(self.targets):
            msg = f"targets: each of q, k, v at most once, got {self.targets}"
            raise ValueError(msg)

    def config(self) -> dict[str, Any]:
        """Hyper-parameters as they stand in an adapter file."""
        blocks = self.blocks if isinstance(self.blocks, str) else list(self.blocks)
        return {
            "name": self.name,
            "rank": self.rank,
            "alpha": self.rank if self.alpha is None else self.alpha,
            "targets": list(self.targets),
            "blocks": blocks,
            "dropout": self.dropout,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "LoRA":
        """The inverse of :meth:`config`."""
        return cls(**{k: v for k, v in config.items() if k != "name"})

    def _wrap(
        self, base: nn.Linear, groups: Sequence[Tensor] | None, generator: torch.Generator | None
    ) -> LoRALinear:
        return LoRALinear(
            base,
            rank=self.rank,
            alpha=self.rank if self.alpha is None else self.alpha,
            groups=groups,
            dropout=self.dropout,
            generator=generator,
        )

    def inject_encoder(self, encoder: nn.Module, generator: torch.Generator | None) -> list[str]:
        """Adapt the chosen blocks of ``encoder``; returns the paths of the adapted layers."""
        sites = encoder.adapter_sites()  # type: ignore[operator]
        paths = []
        for index in select_blocks(self.blocks, len(sites)):
            site = sites[index]
            base = encoder.get_submodule(site.qkv)
            assert isinstance(base, nn.Linear)
            rows = qkv_rows(base.out_features, site.num_heads, site.layout)
            groups = [rows[target] for target in self.targets]
            replace_module(encoder, site.qkv, self._wrap(base, groups, generator))
            paths.append(site.qkv)
        return paths

    def inject_attention(
        self, attention: nn.Module, generator: torch.Generator | None
    ) -> list[str]:
        """Adapt separate projections (``q_proj`` ...) of one attention module."""
        paths = []
        for target in self.targets:
            path = f"{target}_proj"
            base = attention.get_submodule(path)
            assert isinstance(base, nn.Linear)
            replace_module(attention, path, self._wrap(base, None, generator))
            paths.append(path)
        return paths


def qkv_rows(out_features: int, num_heads: int, layout: str) -> dict[str, Tensor]:
    """Output rows of queries, keys and values of a fused weight, a third of them each.

    Args:
        layout: ``qkv``: [q | k | v]; ``heads``: [q_h, k_h, v_h] for each head (equal widths).
    """
    index = torch.arange(out_features)
    if layout == "qkv":
        parts = index.view(3, -1)
    elif layout == "heads":
        parts = index.view(num_heads, 3, -1).transpose(0, 1).flatten(1)
    else:
        msg = f"qkv layout must be 'qkv' or 'heads', got '{layout}'"
        raise ValueError(msg)
    return dict(zip(QKV, parts, strict=True))
