"""MONAI dictionary transforms between slice files, the model's frame and the slice's own pixels.

Keys of an item: ``file``, ``position`` (within the file), ``case``, ``index`` (within the case),
where slices are tiled or resampled ``tile``, then ``image``, ``label``, ``size_hw``, of joined
folders ``annotated``, and, where asked, the prompts and ``pred``. Pixels that nobody judged are
:data:`IGNORED` in a label and :data:`IGNORED_REGION` in a target of regions.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform

from samtune.preprocessing.model_frame import (
    Normalization,
    box_to_frame,
    image_to_frame,
    label_to_frame,
    logits_to_slice,
    points_to_frame,
)
from samtune.preprocessing.slice_file import read_slice_file

Item = dict[Hashable, Any]
NO_VALUE = -1  # of a class that is not in a file's folder
IGNORED = -1  # a channel index that is none; kept by whatever takes the nearest pixel
IGNORED_REGION = 255  # the same in a target of 0 and 1


@dataclass(frozen=True)
class StoredLogits:
    """Logits of a stored slice or tile, not yet read: that is done on the case's native pixels.

    Attributes:
        logits: ``c h w`` float32 on the stored pixels.
        read: turns logits ``c h w`` into the prediction, a class map or masks.
    """

    logits: np.ndarray[Any, Any]
    read: Callable[[torch.Tensor], np.ndarray[Any, Any]]


class LoadSliced(Transform):
    """Read a slice and its label from their file.

    Args:
        class_values: label values in the order of the network's foreground channels; the label
            becomes channel indices 0 (background), 1, 2, ...
    """

    def __init__(self, class_values: Sequence[int]) -> None:
        self.class_values = tuple(class_values)

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Add ``image`` (``1|3 h w`` uint8), ``label`` (``1 h w`` int64, if any), ``size_hw``.

        Of items with ``values``, label values in the file to those of several joined folders, also
        ``annotated`` (``c`` bool): which of the network's classes the item's folder annotates. Of
        items with ``ignore_label``, pixels of that value become :data:`IGNORED`.
        """
        item = dict(data)
        images, labels = read_slice_file(Path(item["file"]))
        position = int(item.get("position", 0))
        item["image"] = image_tensor(images[position])
        item["size_hw"] = np.array(images.shape[1:3], dtype=np.int64)
        joint, ignored = item.pop("values", None), item.pop("ignore_label", None)
        if labels is not None and joint is None:
            item["label"] = channel_label(
                labels[position], self.class_values, item["file"], ignored
            )
        elif labels is not None:
            own = {value: key for key, value in joint.items()}
            values = [own.get(value, NO_VALUE) for value in self.class_values]
            item["label"] = channel_label(labels[position], values, item["file"], ignored)
            item["annotated"] = torch.tensor([value != NO_VALUE for value in values])
        return item


class ToFramed(Transform):
    """Bring ``image``, ``label`` and prompts, as far as they are there, into the model's frame."""

    def __init__(self, image_size: int, normalization: Normalization) -> None:
        self.image_size = image_size
        self.normalization: Normalization = normalization

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """See :mod:`samtune.preprocessing.model_frame`."""
        item = dict(data)
        size = (int(item["size_hw"][0]), int(item["size_hw"][1]))
        image = item["image"]
        if self.normalization == "sam" and torch.is_floating_point(image):
            image = image / 257  # of 16 bits: 65535 is white, as 255 is
        item["image"] = image_to_frame(image, self.image_size, self.normalization)
        if "label" in item:
            item["label"] = label_to_frame(item["label"], self.image_size)
        if "boxes" in item:
            item["boxes"] = box_to_frame(item["boxes"], size, self.image_size)
        if "points" in item:
            item["points"] = points_to_frame(item["points"], size, self.image_size)
        if "targets" in item:
            item["targets"] = torch.stack(
                [label_to_frame(target, self.image_size) for target in item["targets"]]
            )
        return item


class ToTargetd(Transform):
    """Turn ``label`` (``1 h w`` channel indices) into the target of channels that may overlap.

    Args:
        channels: channel indices that belong to each region; ``None``: ``label`` stays as it is.
    """

    def __init__(self, channels: Sequence[Sequence[int]] | None) -> None:
        self.channels = None if channels is None else [torch.tensor(list(c)) for c in channels]

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Replace ``label`` by ``r h w`` uint8: 1 in each region, 0, or :data:`IGNORED_REGION`."""
        item = dict(data)
        if self.channels is not None and "label" in item:
            label = item["label"][0]
            target = torch.stack([torch.isin(label, c) for c in self.channels]).byte()
            item["label"] = target.masked_fill(label == IGNORED, IGNORED_REGION)
            if "annotated" in item:  # a region is when all its classes are
                item["annotated"] = torch.stack(
                    [item["annotated"][c - 1].all() for c in self.channels]
                )
        return item


class ToClassMapd(Transform):
    """Turn ``pred`` logits of the frame into a class map ``h w`` of label values, own pixels.

    The logits are resized first, then read.

    Args:
        class_values: label value of each foreground channel; the largest logit is taken.
        paint: for channels that may overlap, instead: label value of each foreground channel,
            painted in this order where its logit is above 0, later ones over earlier ones.
    """

    def __init__(self, class_values: Sequence[int], paint: Sequence[int] | None = None) -> None:
        self.values = torch.tensor([0, *class_values])
        self.paint = None if paint is None else tuple(paint)

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Replace ``pred``; of a tiled or resampled slice by :class:`StoredLogits`.

        Raises:
            ValueError: ``pred`` has another number of channels than are painted.
        """
        item = dict(data)
        item["pred"] = read_logits(item, self.read)
        return item

    def read(self, logits: torch.Tensor) -> np.ndarray[Any, Any]:
        """Logits ``c h w`` as a class map ``h w``."""
        if self.paint is None:
            return np.asarray(self.values[logits.argmax(0).cpu()].numpy())
        if len(logits) != len(self.paint) + 1:
            msg = f"pred has {len(logits) - 1} foreground channels, to paint are {len(self.paint)}"
            raise ValueError(msg)
        painted = np.zeros(logits.shape[1:], self.values.numpy().dtype)
        for value, mask in zip(self.paint, (logits[1:] > 0).cpu().numpy(), strict=True):
            painted[mask] = value
        return painted


class ToMasksd(Transform):
    """Turn ``pred`` logits ``p s s`` of the frame, one a prompt, into bool masks ``p h w``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Replace ``pred``; of a tiled or resampled slice by :class:`StoredLogits`."""
        item = dict(data)
        item["pred"] = read_logits(item, self.read)
        return item

    def read(self, logits: torch.Tensor) -> np.ndarray[Any, Any]:
        """Logits ``p h w`` as masks."""
        return np.asarray((logits > 0).cpu().numpy())


def image_tensor(image: np.ndarray[Any, Any]) -> torch.Tensor:
    """Slice ``h w`` or ``h w 3`` to ``1|3 h w``; 16-bit values become float32."""
    if image.dtype != np.uint8:
        image = image.astype(np.float32)
    tensor = torch.from_numpy(np.ascontiguousarray(image))
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)


def channel_label(
    label: np.ndarray[Any, Any],
    class_values: Sequence[int],
    source: object,
    ignore_label: int | None = None,
) -> torch.Tensor:
    """Label values ``h w`` to channel indices ``1 h w`` int64; ``ignore_label`` to :data:`IGNORED`.

    Raises:
        ValueError: a value is not among the classes, or is one and ignored too.
    """
    if ignore_label is not None and ignore_label in class_values:
        msg = f"'{source}': {ignore_label} is the ignore label and among the classes"
        raise ValueError(msg)
    counts = np.bincount(label.ravel())  # np.unique would sort every pixel of every slice
    unlisted = sorted(set(np.flatnonzero(counts).tolist()) - {0, ignore_label, *class_values})
    if unlisted:
        msg = f"'{source}': label values {unlisted} are not among the classes {list(class_values)}"
        raise ValueError(msg)
    channel_of = np.zeros(len(counts), np.int64)
    for channel, value in enumerate(class_values, start=1):
        if 0 <= value < len(counts):
            channel_of[value] = channel
    if ignore_label is not None and ignore_label < len(counts):
        channel_of[ignore_label] = IGNORED
    out = channel_of[label]
    return torch.from_numpy(out)[None]


def read_logits(
    item: Mapping[Hashable, Any], read: Callable[[torch.Tensor], np.ndarray[Any, Any]]
) -> np.ndarray[Any, Any] | StoredLogits:
    """``pred`` of the frame on the slice's own pixels; read now, or later where it is stored."""
    logits = logits_to_slice(_plain(item["pred"]), _size(item))
    return StoredLogits(logits.cpu().numpy(), read) if "tile" in item else read(logits)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(tensor).detach().to(torch.float32)


def _size(item: Mapping[Hashable, Any]) -> tuple[int, int]:
    return int(item["size_hw"][0]), int(item["size_hw"][1])
