"""The mean of several networks, and of flipped views, as one network.

Averaged are probabilities, pixel by pixel in the model's frame. What comes out are log-odds of that
mean: they take the way of any network's logits (resize, tiles, argmax), and the mean of a network
with itself gives the very label that the network gives alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from samtune.networks import SamSegmenter
from samtune.preprocessing.model_frame import content_size

HORIZONTAL, VERTICAL = -1, -2
# axes of ``b c h w`` that each view is flipped along; the first view is the image itself
FLIPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "h": ((), (HORIZONTAL,)),
    "v": ((), (VERTICAL,)),
    "hv": ((), (HORIZONTAL,), (VERTICAL,), (HORIZONTAL, VERTICAL)),
}


class _TrainedWeights(nn.Module):
    """Tensors by dotted name that move with the network but are not its parameters."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = list(tensors)
        for number, tensor in enumerate(tensors.values()):
            self.register_buffer(f"tensor_{number}", tensor.detach().clone())

    def by_name(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"tensor_{n}") for n, name in enumerate(self.names)}


class AveragedSegmenter(nn.Module):
    """Mean of the probabilities of prompt-free networks over flipped views.

    A single network without flips is passed through: its logits as they are.

    Args:
        networks: of one frame (``image_size``, ``normalization``), one activation, the same
            classes in the same order.
        trained: for each network, the sets of trained tensors, by parameter name, that it is run
            with: an ensemble over one base, whose frozen part runs once an image. An empty list:
            the network as it is.
        flips: ``none``, ``h`` (left and right of the slice), ``v`` or ``hv`` (both, four views).

    Raises:
        ValueError: no network, networks that don't fit each other, or unknown flips.
    """

    def __init__(
        self,
        networks: Sequence[SamSegmenter],
        *,
        trained: Sequence[Sequence[Mapping[str, Tensor]]] | None = None,
        flips: str | None = "none",
    ) -> None:
        super().__init__()
        self.flips = check_flips(flips)
        if not networks:
            msg = "nothing to average: no network"
            raise ValueError(msg)
        first = networks[0]
        for key in ("image_size", "normalization", "activation", "num_classes"):
            found = [getattr(network, key) for network in networks]
            if len(set(found)) > 1:
                msg = f"networks with different {key} can't be averaged: {found}"
                raise ValueError(msg)
        self.image_size = first.image_size
        self.normalization = first.normalization
        self.activation = first.activation
        self.num_classes = first.num_classes
        self.networks = nn.ModuleList(networks)
        sets = [[] for _ in networks] if trained is None else trained
        self.trained = nn.ModuleList(
            nn.ModuleList(_TrainedWeights(tensors) for tensors in one) for one in sets
        )

    @property
    def num_members(self) -> int:
        """Networks that are averaged, those over one base each for itself."""
        return sum(max(1, len(cast(nn.ModuleList, one))) for one in self.trained)

    def forward(self, image: Tensor, size_hw: Tensor | None = None) -> Tensor:
        """Logits ``b c s s`` of images ``b 1|3 s s`` in the frame.

        Args:
            image: the batch.
            size_hw: ``b 2``, own size of each slice, whose part of the frame is flipped; ``None``:
                it fills the frame.
        """
        views = FLIPS[self.flips]
        if len(views) * self.num_members == 1:
            return next(self._members(image))
        mean = _MeanProbability(self.activation)
        for axes in views:
            for logits in self._members(flip_content(image, axes, size_hw, self.image_size)):
                mean.add(flip_content(logits, axes, size_hw, self.image_size))
        return mean.log_odds()

    def _members(self, image: Tensor) -> Iterator[Tensor]:
        for network, sets in zip(self.networks, self.trained, strict=True):
            weights = [cast(_TrainedWeights, one) for one in cast(nn.ModuleList, sets)]
            if not weights:
                yield network(image)
            elif (start := network.frozen_prefix()) < 0:  # type: ignore[operator]
                for one in weights:
                    yield functional_call(network, one.by_name(), (image,))
            else:
                features = network.prefix(image, start)  # type: ignore[operator]
                options: dict[str, Any] = {"from_block": start}
                for one in weights:
                    logits = functional_call(network, one.by_name(), (features,), options)
                    yield logits[..., : image.shape[-2], : image.shape[-1]]


class _MeanProbability:
    """Sum of probabilities in logarithms: no probability is rounded to 0 or 1 on the way."""

    def __init__(self, activation: str) -> None:
        self.is_softmax = activation == "softmax"
        self._sums: list[Tensor] | None = None
        self._number = 0

    def add(self, logits: Tensor) -> None:
        logits = logits.to(torch.float32)
        terms = (
            [F.log_softmax(logits, 1)]
            if self.is_softmax
            else [F.logsigmoid(logits[:, 1:]), F.logsigmoid(-logits[:, 1:])]
        )
        if self._sums is None:
            self._sums = terms
        else:
            pairs = zip(self._sums, terms, strict=True)
            self._sums = [torch.logaddexp(total, term) for total, term in pairs]
        self._number += 1

    def log_odds(self) -> Tensor:
        """Log-probabilities; of channels that may overlap log(p / (1 - p)), background 0."""
        assert self._sums is not None
        if self.is_softmax:
            return self._sums[0] - math.log(self._number)
        inside, outside = self._sums
        return F.pad(inside - outside, (0, 0, 0, 0, 1, 0))


def check_flips(flips: str | None) -> str:
    """``flips`` if it is one of ``FLIPS``; ``None`` is ``none``.

    Raises:
        ValueError: it isn't.
    """
    flips = "none" if flips is None else str(flips)
    if flips not in FLIPS:
        msg = f"flips must be one of {', '.join(FLIPS)}, got '{flips}'"
        raise ValueError(msg)
    return flips


def flip_content(
    frames: Tensor, axes: Sequence[int], size_hw: Tensor | None, image_size: int
) -> Tensor:
    """``b c s s`` with each slice flipped where it lies: the padding stays below and right."""
    if not axes:
        return frames
    if size_hw is None:
        return frames.flip(tuple(axes))
    out = frames.clone()
    for number, own in enumerate(size_hw.tolist()):
        height, width = content_size((int(own[0]), int(own[1])), image_size)
        out[number, :, :height, :width] = frames[number, :, :height, :width].flip(tuple(axes))
    return out
