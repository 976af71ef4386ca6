"""What all methods on a linear layer share: the frozen layer's tensors, and merging."""

import math

import torch
from torch import Tensor, nn


class AdaptedLinear(nn.Linear):
    """A linear layer that takes over a frozen one's ``weight`` and ``bias``, names included.

    Subclasses add parameters, list them in ``adapter_parameter_names`` and say in
    :meth:`merged_weight` (and :meth:`merged_bias`) what they amount to.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(
            base.in_features, base.out_features, bias=base.bias is not None, device="meta"
        )
        self.weight, self.bias = base.weight, base.bias  # taken over, not copied
        self.requires_grad_(False)

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """Local names of the added parameters."""
        raise NotImplementedError

    def adapter_buffer_names(self) -> tuple[str, ...]:
        """Local names of buffers that the added parameters refer to: saved with them."""
        return ()

    def merged_weight(self) -> Tensor:
        """Weight ``out x in`` of the merged layer, float32 or finer."""
        raise NotImplementedError

    def merged_bias(self) -> Tensor | None:
        """Bias of the merged layer."""
        return self.bias

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A plain layer; its weight is made in float32 or finer, then rounded to the base's."""
        bias = self.merged_bias()
        merged = nn.Linear(
            self.in_features, self.out_features, bias=bias is not None, device="meta"
        )
        weight = self.merged_weight().to(self.weight.dtype)
        merged.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            merged.bias = nn.Parameter(bias.to(self.weight.dtype).clone(), requires_grad=False)
        return merged


def wide(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or finer if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def scatter_index(rows: list[Tensor], rank: int, out_features: int) -> Tensor:
    """Flat positions, in a ``(groups * rank) x out`` matrix, of the groups' blocks ``|g| x rank``.

    The blocks come one below the other in a ``sum |g| x rank`` matrix; block g goes, transposed, to
    the matrix's rows g * rank to (g + 1) * rank and its own columns.
    """
    parts = [
        r[:, None] + out_features * torch.arange(g * rank, (g + 1) * rank, device=r.device)
        for g, r in enumerate(rows)
    ]
    return torch.cat(parts).flatten()


def check_scale(name: str, value: float | None) -> None:
    """Refuse a factor with which an update never moves, or isn't a number.

    Raises:
        ValueError: says which.
    """
    if value is not None and not (math.isfinite(value) and value > 0):
        msg = f"{name} must be a number above 0, got {value}"
        raise ValueError(msg)


def check_rank(rank: int, base: nn.Linear, rows: list[Tensor]) -> None:
    """Refuse a rank that the layer can't have.

    Raises:
        ValueError: says the limit.
    """
    limit = min(base.in_features, *(len(r) for r in rows))
    if not 1 <= rank <= limit:
        msg = (
            f"rank must be in [1, {limit}] for a {base.in_features}->{base.out_features} "
            f"layer, got {rank}"
        )
        raise ValueError(msg)
