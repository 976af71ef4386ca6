"""Training and validation data that pass the frozen part of the network once, not once an epoch."""

import hashlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from tqdm import tqdm

from samtune.networks import SamSegmenter

logger = logging.getLogger(__name__)
Item = dict[Any, Any]
FROM_BLOCK = "from_block"


class SliceDataset(Dataset[Item]):
    """Slices through deterministic and random transforms; optionally as cached features.

    With ``cache`` each slice's ``image`` is replaced by the features before the first trained
    block, made once, when the first item is asked for, and held in memory. Random transforms can't
    act on features, so they act before: ``views`` versions of each slice are cached, the first as
    it is, the others each with one draw of the random transforms; every epoch picks one. All draws
    depend on seed, slice and epoch alone.

    Args:
        data: items, see :func:`samtune.training.slice_data.slice_items`.
        transform: deterministic, up to and including the model's frame.
        network: whose frozen prefix is cached, on the device it is on then.
        random_transforms: MONAI dictionary transforms on ``image`` and ``label`` in the frame.
        cache: hold features in memory.
        views: versions a slice; 1 without random transforms.
        dtype: of the cached features; float32 is exact, float16 half the memory.
        seed: of all draws.
        progress: what the progress bar says; ``None``: no bar.

    Raises:
        ValueError: random transforms over a cache of one view, or nothing to cache because
            parameters before the first block are trained.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Item],
        *,
        network: SamSegmenter,
        random_transforms: Sequence[Callable[[Item], Item]] = (),
        cache: bool = True,
        views: int = 1,
        dtype: str = "float32",
        seed: int = 0,
        progress: str | None = None,
    ) -> None:
        if cache and len(random_transforms) > 0 and views < 2:
            msg = (
                "random transforms need views > 1 with the feature cache (views: 4), or cache: "
                "false"
            )
            raise ValueError(msg)
        if dtype not in ("float32", "float16"):
            msg = f"dtype must be float32 or float16, got '{dtype}'"
            raise ValueError(msg)
        self.data = list(data)
        self.transform = transform
        self.random = Compose(list(random_transforms)) if len(random_transforms) > 0 else None
        self.views = views if self.random is not None else 1
        self.seed = seed
        self.epoch = 0
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.from_block: int | None = None
        self._cached: list[list[Item]] = []
        if cache:
            self.from_block = network.frozen_prefix()
            if self.from_block < 0:
                msg = (
                    "nothing to cache: parameters before the first block are trained; set "
                    "cache: false"
                )
                raise ValueError(msg)
        self._network = network
        self._progress = progress

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of ``epoch``."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Item:
        if self.from_block is None:
            item = self.transform(self.data[index])
            return item if self.random is None else self._draw(item, index, self.epoch)
        if not self._cached:
            self._fill()
        views = self._cached[index]
        item = dict(views[self._view(index)])
        item["image"] = item["image"].to(torch.float32)
        return item

    def _view(self, index: int) -> int:
        if self.views == 1:
            return 0
        return int(np.random.default_rng([self.seed, self.epoch, index]).integers(self.views))

    def _draw(self, item: Item, index: int, draw: int) -> Item:
        assert self.random is not None
        digest = hashlib.sha256(f"{self.seed}/{index}/{draw}".encode()).digest()
        self.random.set_random_state(seed=int.from_bytes(digest[:4], "little"))
        out = self.random(item)
        # plain tensors: MetaTensor costs time in collation and has no use here
        return {k: v.as_tensor() if hasattr(v, "as_tensor") else v for k, v in out.items()}

    @torch.no_grad()
    def _fill(self) -> None:
        if get_worker_info() is not None:
            msg = (
                "the feature cache lives in the main process: set num_workers to 0, or cache: false"
            )
            raise ValueError(msg)
        network = self._network
        training = network.training
        network.eval()
        off = self._progress is None or not sys.stderr.isatty()
        cached = []
        if self._progress is not None:
            logger.info("%s: %d, %d versions each", self._progress, len(self.data), self.views)
        for index in tqdm(range(len(self.data)), desc=self._progress, disable=off, unit="slice"):
            first = self.transform(self.data[index])
            views = [first]
            views += [self._draw(dict(first), index, view) for view in range(1, self.views)]
            cached.append([self._encode(view) for view in views])
        self._cached = cached
        network.train(training)

    def _encode(self, item: Item) -> Item:
        assert self.from_block is not None
        device = next(self._network.parameters()).device
        image: Tensor = item["image"][None].to(device)
        features = self._network.prefix(image, self.from_block)[0]
        return {**item, "image": features.to("cpu", self.dtype)}


class PrepareSlices:
    """``prepare_batch`` for MONAI's engines: hands the network what the dataset made of the images.

    Args:
        dataset: whose ``from_block`` applies; ``None``: images.
        keys: further entries of the batch that the network takes as keywords, e.g. ``boxes``.
    """

    def __init__(self, dataset: SliceDataset | None = None, keys: Sequence[str] = ()) -> None:
        self.from_block = None if dataset is None else dataset.from_block
        self.keys = tuple(keys)

    def __call__(
        self,
        batch: Mapping[str, Any],
        device: torch.device | str | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, tuple[()], dict[str, Any]]:
        """Image, label and keywords on the device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, non_blocking=non_blocking, **kwargs)

        keywords: dict[str, Any] = {key: move(batch[key]) for key in self.keys}
        if self.from_block is not None:
            keywords[FROM_BLOCK] = self.from_block
        label = batch.get("label")
        return move(batch["image"]), None if label is None else move(label), (), keywords
