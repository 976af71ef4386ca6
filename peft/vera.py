"""VeRA: vector-based random matrix adaptation (Kopiczko et al. 2024, arXiv:2310.11454, eq. 2).

    y = W x + b + l_b * (B (l_d * (A x)))

A (r x in) and B (out x r) are random, frozen and shared by all adapted layers, which take the first
columns of A and rows of B that fit; only the vectors l_d (r, started at 0.1) and l_b (out, zero)
are trained. At step 0 the layer is the frozen one.

A and B are not saved: they come from a seed through numpy's PCG64, whose bit stream is the same on
every machine and in every version.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.peft.linear import AdaptedLinear, check_scale, wide
from samtune.peft.protocol import Site, replace_module
from samtune.peft.whole_layers import WholeLayers


class VeRAProjection(nn.Module):
    """The shared random matrices.

    Args:
        rank: r.
        in_features, out_features: of the widest layers.
        seed: of both.
        like: their type and device.
    """

    a: Tensor
    b: Tensor

    def __init__(
        self, rank: int, in_features: int, out_features: int, *, seed: int, like: Tensor
    ) -> None:
        super().__init__()
        for name, shape, stream in (
            ("a", (rank, in_features), 0),
            ("b", (out_features, rank), 1),
        ):
            values = like.new_empty(shape)
            if like.device.type != "meta":
                values.copy_(_kaiming_uniform(shape, (seed, stream)))
            self.register_buffer(name, values, persistent=False)


def _kaiming_uniform(shape: tuple[int, int], seed: tuple[int, int]) -> Tensor:
    """Uniform in +- sqrt(6 / columns), from PCG64's raw numbers."""
    raw = np.random.PCG64(seed).random_raw(shape[0] * shape[1])
    unit = (raw >> np.uint64(11)) * 2.0**-53  # [0, 1)
    bound = math.sqrt(6 / shape[1])
    return torch.from_numpy((2 * unit - 1) * bound).view(shape)


class VeRALinear(AdaptedLinear):
    """A frozen linear layer with the update above.

    Args:
        base: layer whose parameters are taken over.
        projection: at least as wide as the layer.
        initial: of l_d.
    """

    def __init__(self, base: nn.Linear, projection: VeRAProjection, initial: float) -> None:
        super().__init__(base)
        self.projection = projection
        self.vera_d = nn.Parameter(base.weight.new_full((len(projection.a),), initial))
        self.vera_b = nn.Parameter(base.weight.new_zeros(base.out_features))

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """The two vectors."""
        return ("vera_d", "vera_b")

    def _own(self) -> tuple[Tensor, Tensor]:  # A r x in, B out x r
        return (
            self.projection.a[:, : self.in_features],
            self.projection.b[: self.out_features],
        )

    def forward(self, x: Tensor) -> Tensor:  # ... in -> ... out
        """The definition in the module's docstring."""
        a, b = self._own()
        low = F.linear(x, a) * self.vera_d
        return F.linear(x, self.weight, self.bias) + F.linear(low, b) * self.vera_b

    def merged_weight(self) -> Tensor:
        """W + diag(l_b) B diag(l_d) A."""
        a, b = (wide(t) for t in self._own())
        return wide(self.weight) + wide(self.vera_b)[:, None] * (
            b @ (wide(self.vera_d)[:, None] * a)
        )


@dataclass(frozen=True, kw_only=True)
class VeRA(WholeLayers):
    """VeRA on linear layers of the chosen blocks.

    Attributes:
        rank: r; it may be larger than the layers, the matrices are not trained.
        initial: of l_d.
        projection_seed: of A and B; part of what an adapter is.
    """

    name = "vera"
    about = "two trained vectors between shared random matrices"
    source = "arXiv:2310.11454"

    rank: int = field(default=256, metadata={"help": "rank r of the random matrices"})
    initial: float = field(default=0.1, metadata={"help": "initial l_d"})
    projection_seed: int = field(default=0, metadata={"help": "of the random matrices"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            msg = f"rank must be at least 1, got {self.rank}"
            raise ValueError(msg)
        check_scale("initial", self.initial)

    def project(self, layers: list[nn.Linear]) -> VeRAProjection:
        """Matrices for all of ``layers``."""
        return VeRAProjection(
            self.rank,
            max(layer.in_features for layer in layers),
            max(layer.out_features for layer in layers),
            seed=self.projection_seed,
            like=layers[0].weight,
        )

    def wrap(self, base: nn.Linear, generator: torch.Generator | None) -> VeRALinear:
        """One layer with matrices of its own."""
        return VeRALinear(base, self.project([base]), self.initial)

    def inject(self, site: Site) -> list[str]:
        """Adapt the targets of the chosen blocks."""
        paths = [path for block in site.blocks for path, _ in block.targets(self.targets)]
        layers = [site.linear(path) for path in paths]
        if layers:
            shared = self.project(layers)
            for path, layer in zip(paths, layers, strict=True):
                replace_module(site.model, path, VeRALinear(layer, shared, self.initial))
        return paths
