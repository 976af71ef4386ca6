"""Which slices training sees in an epoch, and in which order: by seed and epoch alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Generator
from torch.utils.data import Sampler

from samtune.preprocessing.manifest import Manifest
from samtune.training.joined import JoinedManifest
from samtune.training.slice_data import EpochSampler, Item

KINDS = "all, foreground, balanced or {per_case: k}"

Draw = Callable[[Generator], list[int]]


class DrawnSampler(Sampler[int]):
    """Draws anew each epoch, always the same number, in a random order.

    Args:
        draw: indices of an epoch, by a generator.
        seed: of all epochs.
    """

    def __init__(self, draw: Draw, *, seed: int) -> None:
        self.draw = draw
        self.seed = seed
        self.epoch = 0
        self.number = len(draw(Generator().manual_seed(0)))

    def set_epoch(self, epoch: int) -> None:
        """Choose the draw of ``epoch``."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        drawn = self.draw(generator)
        return iter([drawn[i] for i in torch.randperm(len(drawn), generator=generator).tolist()])

    def __len__(self) -> int:
        return self.number


def make_sampler(
    kind: str | Mapping[str, Any], items: Sequence[Item], manifest: Manifest, *, seed: int
) -> EpochSampler | DrawnSampler:
    """The sampler of a config.

    Args:
        kind: ``all``: every slice once an epoch. ``foreground``: every slice with a label pixel.
            ``balanced``: as many slices of each class as of slices without a label, as many in all
            as there are; a slice of two classes counts for the one it was drawn for.
            ``{per_case: k}``: k slices a case, all of a case that has fewer. In joined folders the
            slices of each are drawn as often as its weight says: 2 is twice, 0.5 every second one.
        items: of the dataset, see :func:`samtune.training.slice_data.slice_items`.
        manifest: of these items.
        seed: of all epochs.

    Raises:
        ValueError: another kind, or no slice with a label pixel where they are drawn.
    """
    labels = {(str(manifest.path(row)), row.position): row.labels or {} for row in manifest.slices}
    values = [labels[str(item["file"]), int(item["position"])] for item in items]
    everything = list(range(len(items)))
    if isinstance(kind, Mapping):
        k = kind.get("per_case")
        if list(kind) != ["per_case"] or not isinstance(k, int) or k < 1:
            msg = f"sampler must be {KINDS} with k >= 1, got {dict(kind)}"
            raise ValueError(msg)
        cases = _groups(everything, [str(item["case"]) for item in items])
        return DrawnSampler(
            _weighted(manifest, items, lambda g: [i for c in cases for i in _some(c, k, g)]),
            seed=seed,
        )
    if kind not in ("all", "foreground", "balanced"):
        msg = f"sampler must be {KINDS}, got {kind!r}"
        raise ValueError(msg)
    labelled = [i for i in everything if values[i]]
    if kind != "all" and not labelled:
        msg = f"sampler {kind}: none of {len(items)} slices has a label pixel"
        raise ValueError(msg)
    if kind == "balanced":
        empty = [i for i in everything if not values[i]]
        classes = sorted({value for labels_of in values for value in labels_of})
        groups = [[i for i in labelled if value in values[i]] for value in classes]
        groups += [empty] if empty else []
        return DrawnSampler(
            _weighted(manifest, items, lambda g: _evenly(groups, len(items), g)), seed=seed
        )
    if kind == "all" and not isinstance(manifest, JoinedManifest):
        return EpochSampler(len(items), seed=seed)
    chosen = everything if kind == "all" else labelled
    return DrawnSampler(_weighted(manifest, items, lambda _: list(chosen)), seed=seed)


def _weighted(manifest: Manifest, items: Sequence[Item], draw: Draw) -> Draw:
    """``draw`` with the slices of each joined folder as often as its weight says."""
    if not isinstance(manifest, JoinedManifest):
        return draw
    parts = [manifest.part(str(item["case"])) for item in items]

    def drawn(generator: Generator) -> list[int]:
        found = draw(generator)
        out = []
        for group in _groups(found, [parts[i].name for i in found]):
            weight = parts[group[0]].weight
            out += group * int(weight)
            out += _some(group, round(len(group) * (weight % 1)), generator)
        return out

    return drawn


def _groups(indices: Sequence[int], keys: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for index, key in zip(indices, keys, strict=True):
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _some(indices: Sequence[int], number: int, generator: Generator) -> list[int]:
    order = torch.randperm(len(indices), generator=generator)[:number].tolist()
    return [indices[i] for i in order]


def _evenly(groups: Sequence[list[int]], number: int, generator: Generator) -> list[int]:
    """``number`` indices, as many of each group; a small group's come again and again."""
    out = []
    for position, group in enumerate(groups):
        wanted = number // len(groups) + (position < number % len(groups))
        whole, rest = divmod(wanted, len(group))
        out += group * whole + _some(group, rest, generator)
    return out
