"""Training and validation data that pass the frozen part of the network once, not once an epoch."""

import hashlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from tqdm import tqdm

from samtune.networks import SamSegmenter
from samtune.networks.feature_cache import FeatureCache, FeatureSource, feature_source, to_storage
from samtune.training.distributed import is_main
from samtune.training.packed import pack, unpack

logger = logging.getLogger(__name__)
Item = dict[Any, Any]
FROM_BLOCK = "from_block"
GIB = 2**30
ENTRY_HEADER = 1024  # bytes of a cached entry beside its values, at most


class SliceDataset(Dataset[Item]):
    """Slices through deterministic and random transforms; optionally as cached features.

    With ``cache`` each slice's ``image`` is replaced by the features before the first trained
    block, made once, when the first item is asked for or by :meth:`fill`, and held in memory, or
    with ``cache_dir`` in files that other runs find again. Random transforms can't act on features,
    so they act before: ``views`` versions of each slice are cached, the first as it is, the others
    each with one draw of the random transforms; every epoch picks one. All draws depend on seed,
    slice and epoch alone.

    Worker processes have no network: they can read a cache on disk after :meth:`fill`, not one in
    memory.

    Args:
        data: items, see :func:`samtune.training.slice_data.slice_items`.
        transform: deterministic, up to and including the model's frame.
        network: whose frozen prefix is cached, on the device it is on then.
        random_transforms: MONAI dictionary transforms on ``image`` and ``label`` in the frame.
        cache: replace images by features.
        views: versions a slice; 1 without random transforms.
        dtype: of the cached features; float32 is exact, float16 half the memory.
        seed: of all draws.
        progress: what the progress bar says; ``None``: no bar.
        cache_dir: folder of the features, see :class:`FeatureCache`; ``None``: in memory.
            Unused without ``cache``.
        cache_max_gib: what that folder may hold, all runs together.

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
        cache_dir: str | Path | None = None,
        cache_max_gib: float = 20.0,
    ) -> None:
        if cache and len(random_transforms) > 0 and views < 2:
            msg = (
                f"views is {views}: with the feature cache, random transforms need views > 1; give "
                "--views 4, --augmentation none or --cache false"
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
        self.disk: FeatureCache | None = None
        self._source: FeatureSource | None = None
        self._cached: dict[int, list[Item]] = {}
        if cache and cache_dir is not None:
            self.disk = FeatureCache(cache_dir, int(float(cache_max_gib) * GIB), self.dtype)
        if cache:
            self.from_block = network.frozen_prefix()
            if self.from_block < 0:
                msg = (
                    "nothing to cache: parameters before the first block are trained; set "
                    "cache: false"
                )
                raise ValueError(msg)
        self._network: SamSegmenter | None = network
        self._progress = progress
        self._made_again = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of ``epoch``."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Item:
        if self.from_block is None:
            item = self.transform(self.data[index])
            return item if self.random is None else self._draw(item, index, self.epoch)
        self.fill()
        view = self._view(index)
        item = dict(self._cached[index][view])
        if self.disk is not None:
            item = {name: unpack(value) for name, value in item.items()}
            features = self.disk.get(item["image"])
            item["image"] = self._make_again(index, view) if features is None else features
        item["image"] = item["image"].to(torch.float32)
        return item

    def __getstate__(self) -> dict[str, Any]:
        # a copy for a worker process that is not forked
        return {**self.__dict__, "_network": None} if self.disk is not None else self.__dict__

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
        drawn = {k: v.as_tensor() if hasattr(v, "as_tensor") else v for k, v in out.items()}
        # a label that was sampled comes back as float, and batches want one type of all views
        return {
            k: v.to(item[k].dtype)
            if isinstance(v, Tensor) and isinstance(item.get(k), Tensor) and k != "image"
            else v
            for k, v in drawn.items()
        }

    def fill(self, indices: Iterable[int] | None = None) -> None:
        """Make the features of all slices and views, unless that was done.

        Args:
            indices: slices to make them of; ``None``: of all.

        Raises:
            ValueError: called in a worker process, or ``cache_max_gib`` is too small for them.
        """
        if len(self._cached) == len(self.data) or self.from_block is None:
            return
        if get_worker_info() is not None:
            msg = (
                "the feature cache lives in the main process: set num_workers to 0, or cache: false"
                if self.disk is None
                else "the feature cache is filled by the main process: call fill() before "
                "worker processes start"
            )
            raise ValueError(msg)
        wanted = range(len(self.data)) if indices is None else indices
        missing = [index for index in wanted if index not in self._cached]
        off = self._progress is None or not sys.stderr.isatty() or not is_main()
        if self._progress is not None:
            logger.info("%s: %d, %d versions each", self._progress, len(missing), self.views)
        cached = {}
        with self._frozen() as network:
            if self.disk is not None:
                assert self.from_block is not None
                self._source = feature_source(network, self.from_block, self.dtype)
            for index in tqdm(missing, desc=self._progress, disable=off, unit="slice"):
                first = self.transform(self.data[index])
                views = [first]
                views += [self._draw(dict(first), index, view) for view in range(1, self.views)]
                keep = self._in_memory if self.disk is None else self._on_disk
                cached[index] = [keep(view, network) for view in views]
        self._cached |= cached
        if self.disk is not None and self._progress is not None:
            counts = self.disk.counts
            logger.info(
                "%s: found %d, encoded %d in '%s'%s",
                self._progress,
                counts.found,
                counts.missing,
                self.disk.folder,
                f"; {counts.kept_float32} kept as float32" if counts.kept_float32 else "",
            )

    @contextmanager
    def _frozen(self) -> Iterator[SamSegmenter]:
        """The network as the features are made with it."""
        network = self._network
        assert network is not None
        training = network.training
        network.eval()
        try:
            with torch.no_grad():
                yield network
        finally:
            network.train(training)

    def _encode(self, image: Tensor, network: SamSegmenter) -> Tensor:  # c h w -> h w c
        assert self.from_block is not None
        device = next(network.parameters()).device
        return network.prefix(image[None].to(device), self.from_block)[0]

    def _in_memory(self, item: Item, network: SamSegmenter) -> Item:
        return {**item, "image": to_storage(self._encode(item["image"], network), self.dtype)}

    def _on_disk(self, item: Item, network: SamSegmenter) -> Item:
        """``item`` with its features' key as ``image``, and the label small."""
        assert self.disk is not None
        assert self._source is not None
        key = self._source.key(item["image"])
        features = self.disk.get(key)
        if features is None:
            encoded = self._encode(item["image"], network)
            self._check_room(encoded.numel() * self.dtype.itemsize)
            features = self.disk.put(key, encoded)
        return {**{name: pack(value) for name, value in item.items()}, "image": key}

    def _check_room(self, size: int) -> None:
        assert self.disk is not None
        needed = (size + ENTRY_HEADER) * len(self.data) * self.views
        if needed > self.disk.max_bytes:
            msg = (
                f"the features of {len(self.data)} slices in {self.views} versions need "
                f"{needed / GIB:.3g} GiB, cache_max_gib is {self.disk.max_bytes / GIB:.3g}: raise "
                "it, lower views, or set cache_dtype: float16 if it is not"
            )
            raise ValueError(msg)

    def _make_again(self, index: int, view: int) -> Tensor:
        """Features that were there after :meth:`fill` and were removed since."""
        assert self.disk is not None
        lost = f"'{self.disk.folder}' has lost features of this run"
        why = "there was no room for all that use it: raise cache_max_gib"
        if get_worker_info() is not None or self._network is None:
            msg = f"{lost}; {why}, or set num_workers to 0 to have them made again"
            raise RuntimeError(msg)
        if self._made_again == 0:
            logger.warning("%s, which are made again; %s", lost, why)
        self._made_again += 1
        item = self.transform(self.data[index])
        if view > 0:
            item = self._draw(item, index, view)
        with self._frozen() as network:
            return self.disk.put(
                self._cached[index][view]["image"], self._encode(item["image"], network)
            )


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
    ) -> tuple[Tensor, Tensor | dict[str, Tensor] | None, tuple[()], dict[str, Any]]:
        """Image, label and keywords on the device; of joined folders what is annotated, too."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, non_blocking=non_blocking, **kwargs)

        keywords: dict[str, Any] = {key: move(batch[key]) for key in self.keys}
        if self.from_block is not None:
            keywords[FROM_BLOCK] = self.from_block
        label = batch.get("label")
        target = None if label is None else move(label)
        if target is not None and "annotated" in batch:
            annotated = batch["annotated"].to(device=device, non_blocking=non_blocking)
            return move(batch["image"]), {"label": target, "annotated": annotated}, (), keywords
        return move(batch["image"]), target, (), keywords
