"""MONAI's datasets over the slices of one or several manifests."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.transforms import Compose

from samtune.preprocessing.slice_transforms import Item

CACHES = ("none", "memory", "disk")


def monai_dataset(
    data: Sequence[Mapping[str, Any]],
    transforms: Sequence[Callable[[Any], Any]],
    *,
    cache: str = "none",
    cache_dir: str | Path | None = None,
    num_workers: int = 0,
) -> Dataset:
    """Slices through MONAI dictionary transforms, with MONAI's caches of the deterministic ones.

    For a network with a frozen encoder :class:`samtune.training.features.SliceDataset` caches what
    comes later and costs more; this is for all other uses.

    Args:
        data: items, see :func:`samtune.training.slice_data.slice_items`.
        transforms: beginning with :class:`samtune.preprocessing.slice_transforms.LoadSliced`.
        cache: ``none``; ``memory``: MONAI's ``CacheDataset``; ``disk``: its ``PersistentDataset``.
            The transforms before the first random one are done once.
        cache_dir: folder of ``disk``. Its files go by items and by the transforms' names, not by
            their settings: one folder for one pipeline.
        num_workers: threads that fill the cache in memory.

    Raises:
        ValueError: another cache, or a folder without ``disk`` or the reverse.
    """
    if cache not in CACHES or (cache == "disk") != (cache_dir is not None):
        msg = f"cache must be none, memory or disk with cache_dir, got {cache!r} and {cache_dir!r}"
        raise ValueError(msg)
    pipeline = Compose([transforms[0], _plain_size, *transforms[1:]])
    if cache == "memory":
        workers = num_workers or None
        return CacheDataset(list(data), pipeline, num_workers=workers, progress=False)
    if cache == "disk":
        return PersistentDataset(list(data), pipeline, cache_dir=cache_dir)
    return Dataset(list(data), pipeline)


def _plain_size(item: Item) -> Item:
    """``size_hw`` as a tensor: PersistentDataset reads back tensors and plain values alone."""
    return {**item, "size_hw": torch.from_numpy(np.asarray(item["size_hw"]))}
