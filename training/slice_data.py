"""Slices of a manifest as items of a MONAI dataset, and the order in which training sees them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler

from samtune.preprocessing.manifest import Manifest

Item = dict[str, Any]


def slice_items(manifest: Manifest, split: str, *, labelled_only: bool = False) -> list[Item]:
    """Items ``file, position, case, index`` of a split, sorted by case and index.

    Where slices are tiled or resampled there is ``tile`` too: what is predicted on them has to be
    put together first. Where pixels were not judged there is ``ignore_label``, their value.

    Args:
        labelled_only: leave out slices without a label pixel.

    Raises:
        ValueError: the split is empty, or has no labels where they are needed.
    """
    records = manifest.select(split)
    if not records:
        splits = {record.split for record in manifest.slices}
        msg = (
            f"'{manifest.root}' has no slices in split '{split}', it has: "
            f"{', '.join(sorted(splits))}"
        )
        raise ValueError(msg)
    unlabelled = [record.case for record in records if record.labels is None]
    if unlabelled:
        msg = (
            f"'{manifest.root}': case '{unlabelled[0]}' of split '{split}' has no label; run "
            "'samtune slice' with --labels"
        )
        raise ValueError(msg)
    slicing = manifest.settings.get("slicing", {})
    blended = "tile_size" in slicing or "spacing_mm" in slicing
    return [
        {
            "file": str(Path(manifest.root) / record.file),
            "position": record.position,
            "case": record.case,
            "index": record.index,
            **({"tile": record.tile} if blended else {}),
            **_values(manifest, record.case),
        }
        for record in records
        if record.labels or not labelled_only
    ]


def _values(manifest: Manifest, case: str) -> Item:
    joint, ignored = manifest.joint_values(case), manifest.ignore_label(case)
    values = {} if joint is None else {"values": joint}
    return values if ignored is None else {**values, "ignore_label": ignored}


class EpochSampler(Sampler[int]):
    """A permutation an epoch, by seed and epoch alone: a resumed run sees the same."""

    def __init__(self, num_items: int, *, seed: int) -> None:
        self.num_items = num_items
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of ``epoch``."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.num_items, generator=generator).tolist())

    def __len__(self) -> int:
        return self.num_items
