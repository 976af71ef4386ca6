"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685, sec. 4.1).

For each adapted group of output rows g (the queries, the values, ..., or all):

    y[g] = W[g] x + b[g] + s B_g A_g x,   A_g: r x in, B_g: |g| x r

with s = alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732). A is
Kaiming-uniform, B zero: at step 0 the layer is the frozen one. The groups of a fused qkv weight lie
differently in SAM's ViT ([q | k | v]) and in TinyViT ([q_h, k_h, v_h] a head); the encoder says
which.

PiSSA (Meng et al. 2024, arXiv:2404.02948) starts the factors at the r largest singular triples,

    A_0 = diag(S_r / s)^(1/2) V_r^T,   B_0 = U_r diag(S_r / s)^(1/2),   W' = W + s (B A - B_0 A_0)

which trains what of W matters most. W itself stays as it is; the update is of rank 2 r.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.peft.conv import adapt_convs, check_convs
from samtune.peft.linear import AdaptedLinear, check_rank, check_scale, scatter_index, wide
from samtune.peft.low_rank import low_rank_linear
from samtune.peft.places import check_targets
from samtune.peft.protocol import Method, Site
from samtune.peft.svd import thin_svd


class LoRALinear(AdaptedLinear):
    """A frozen linear layer with low-rank updates of groups of its output rows.

    All groups share one thin product: A of the groups stacked, then one product with the
    block-structured B.

    Args:
        base: layer whose parameters are taken over (not copied) and frozen.
        rank: r above.
        scale: s above.
        groups: disjoint index tensors of output rows; ``None``: one group, all rows.
        dropout: probability on the update's input, training only.
        start: ``kaiming`` or ``pissa``.
        generator: for the initial A.
    """

    row_index: Tensor
    start_a: Tensor
    start_b: Tensor

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        scale: float = 1.0,
        groups: Sequence[Tensor] | None = None,
        dropout: float = 0.0,
        start: str = "kaiming",
        generator: torch.Generator | None = None,
    ) -> None:
        rows = [torch.arange(base.out_features)] if groups is None else list(groups)
        check_rank(rank, base, rows)
        super().__init__(base)
        self.rank, self.scale = rank, float(scale)
        self.dropout = nn.Dropout(dropout)
        device, dtype = base.weight.device, base.weight.dtype
        a = torch.empty(len(rows) * rank, base.in_features)
        if device.type != "meta":
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        self.lora_a = nn.Parameter(a.to(device, dtype))
        self.lora_b = nn.Parameter(
            torch.zeros(sum(len(r) for r in rows), rank, device=device, dtype=dtype)
        )
        # the whole layer as one group: B is used as it is
        self.whole = groups is None
        index = torch.empty(0, dtype=torch.long) if self.whole else None
        if index is None:
            index = scatter_index(rows, rank, base.out_features)
        self.register_buffer("row_index", index.to(device), persistent=False)
        self.pissa = start == "pissa"
        if self.pissa:
            self._start_at_singular_vectors(rows)

    @torch.no_grad()
    def _start_at_singular_vectors(self, rows: list[Tensor]) -> None:
        for g, index in enumerate(rows):
            svd, own = (
                thin_svd(self.weight[index.to(self.weight.device)]),
                slice(g * self.rank, None),
            )
            root = (svd.s[: self.rank] / self.scale).sqrt()
            first = sum(len(r) for r in rows[:g])
            self.lora_a[own][: self.rank] = root[:, None] * svd.vh[: self.rank]
            self.lora_b[first : first + len(index)] = svd.u[:, : self.rank] * root
        self.register_buffer("start_a", self.lora_a.detach().clone())
        self.register_buffer("start_b", self.lora_b.detach().clone())

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """The factors."""
        return ("lora_a", "lora_b")

    def adapter_buffer_names(self) -> tuple[str, ...]:
        """Where PiSSA's factors started: kept, so that no file depends on an SVD made elsewhere."""
        return ("start_a", "start_b") if self.pissa else ()

    def factors(self) -> tuple[Tensor, Tensor]:
        """A ``r' x in`` and s B^T ``r' x out``; r' is r for each group, twice that with PiSSA."""
        b = self._placed(self.lora_b)
        if not self.pissa:
            return self.lora_a, b
        return torch.cat([self.lora_a, self.start_a]), torch.cat([b, -self._placed(self.start_b)])

    def _placed(self, b: Tensor) -> Tensor:  # (groups * r) x out: scaled, each group in its columns
        scaled = b * self.scale
        if self.whole:
            return scaled.T.contiguous()
        flat = scaled.new_zeros(self.lora_a.shape[0] * self.out_features)
        return flat.index_copy(0, self.row_index, scaled.flatten()).view(-1, self.out_features)

    def forward(self, x: Tensor) -> Tensor:  # ... in -> ... out
        """The definition in the module's docstring."""
        a, b = self.factors()
        if self.training and self.dropout.p > 0:
            return F.linear(x, self.weight, self.bias) + F.linear(self.dropout(x), a) @ b
        return low_rank_linear(x, self.weight, self.bias, a, b)

    def merged_weight(self) -> Tensor:
        """W + s B A."""
        a, b = self.factors()
        return wide(self.weight) + wide(b).T @ wide(a)


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """LoRA on linear layers of the chosen blocks.

    Attributes:
        rank: r, >= 1.
        alpha: of the scale; ``None``: such that the scale is 1.
        targets: among ``q``, ``k``, ``v`` (each with factors of its own), ``qkv`` (the fused layer
            with one pair), ``proj``, ``lin1``, ``lin2``, ``mlp``.
        dropout: on the update's input.
        rslora: scale by alpha / sqrt(r) in place of alpha / r.
        start: ``kaiming`` (A random, B zero) or ``pissa`` (largest singular triples).
        convs: convolutions of the encoder too: ``neck``, ``mbconv``.
    """

    name = "lora"
    about = "low-rank update of weights"
    source = "arXiv:2106.09685; rsLoRA arXiv:2312.03732"
    layer: ClassVar[type[LoRALinear]] = LoRALinear

    rank: int = field(default=8, metadata={"help": "rank r"})
    alpha: float | None = field(default=None, metadata={"help": "scale times r; none: scale 1"})
    targets: tuple[str, ...] = field(default=("q", "v"), metadata={"help": "layers"})
    dropout: float = field(default=0.0, metadata={"help": "on the update's input"})
    rslora: bool = field(default=False, metadata={"help": "scale by alpha / sqrt(r)"})
    start: str = field(default="kaiming", metadata={"help": "kaiming or pissa"})
    convs: tuple[str, ...] = field(default=(), metadata={"help": "of neck, mbconv"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", check_targets(self.targets))
        object.__setattr__(self, "convs", check_convs(self.convs))
        if self.convs and self.dropout > 0:
            msg = "dropout acts on the input of linear layers: not with convs"
            raise ValueError(msg)
        if self.start not in ("kaiming", "pissa"):
            msg = f"start must be 'kaiming' or 'pissa', got '{self.start}'"
            raise ValueError(msg)
        if self.start == "pissa":
            object.__setattr__(self, "identity", "1e-5")
        if self.rank < 1:
            msg = f"rank must be at least 1, got {self.rank}"
            raise ValueError(msg)
        if self.alpha is None:
            object.__setattr__(self, "alpha", self._divisor)
        check_scale("alpha", self.alpha)

    @property
    def _divisor(self) -> float:
        return math.sqrt(self.rank) if self.rslora else self.rank

    @property
    def scale(self) -> float:
        """Factor of the update."""
        assert self.alpha is not None
        return self.alpha / self._divisor

    def wrap(
        self, base: nn.Linear, groups: Sequence[Tensor] | None, generator: torch.Generator | None
    ) -> LoRALinear:
        """The module that takes the place of ``base``."""
        return self.layer(
            base,
            rank=self.rank,
            scale=self.scale,
            groups=groups,
            dropout=self.dropout,
            start=self.start,
            generator=generator,
        )

    def inject(self, site: Site) -> list[str]:
        """Adapt the targets of the chosen blocks."""
        paths = site.replace(
            self.targets, lambda base, groups, _: self.wrap(base, groups, site.generator)
        )
        wrap = partial(self.wrap, groups=None, generator=site.generator)
        return paths + adapt_convs(site, self.convs, wrap)


def lora_plus_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], lr: float, ratio: float
) -> list[dict[str, Any]]:
    """Optimiser groups of LoRA+ (Hayou et al. 2024, arXiv:2402.12354): B learns ratio times faster.

    Args:
        named_parameters: of the adapted network; frozen ones are left out.
        lr: of all but the B factors.
        ratio: the paper suggests 16.
    """
    trained = [(n, p) for n, p in named_parameters if p.requires_grad]
    b = [p for n, p in trained if n.rsplit(".", 1)[-1] == "lora_b"]
    if not b:
        msg = "LoRA+ needs LoRA's B factors, the network has none"
        raise ValueError(msg)
    rest = [p for n, p in trained if n.rsplit(".", 1)[-1] != "lora_b"]
    return [{"params": rest, "lr": lr}, {"params": b, "lr": lr * ratio}]
