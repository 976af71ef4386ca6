"""Random transforms of what a frame holds, not of its padding, on values that mean the same."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Compose, Randomizable, Transform
from torch import Tensor

from samtune.preprocessing.model_frame import (
    Normalization,
    content_size,
    frame_to_unit,
    unit_to_frame,
)

Item = dict[Hashable, Any]


class OnContentd(Randomizable, Transform):
    """Apply dictionary transforms to ``image`` and ``label`` within the slice, without the padding.

    They see the image with values in [0, 1] whatever the normalization, a grey one with one
    channel; after them it is clipped to [0, 1], normalised and padded again, so that the padding is
    what it is at inference: zero, right and below. A transform may exchange height and width;
    ``size_hw`` follows.

    Args:
        transforms: MONAI dictionary transforms, nearest on ``label``.
        normalization: of the frame.
    """

    def __init__(
        self, transforms: Sequence[Callable[[Item], Item]], normalization: Normalization
    ) -> None:
        self.transforms = Compose(list(transforms))
        self.normalization: Normalization = normalization

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> "OnContentd":
        """Fix all draws."""
        self.transforms.set_random_state(seed=seed, state=state)
        return self

    def randomize(self, data: Any = None) -> None:
        """Unused: the transforms draw for themselves."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Transform, of the keys that are there, ``image`` and ``label``."""
        item = dict(data)
        size = (int(item["size_hw"][0]), int(item["size_hw"][1]))
        frame, label = item["image"], item.get("label")
        side = int(frame.shape[-1])
        height, width = content_size(size, side)
        image = frame_to_unit(frame[:, :height, :width], self.normalization)
        is_grey = len(image) == 3 and _alike(image)
        inside: Item = {**item, "image": image[:1] if is_grey else image}
        if label is not None:
            inside["label"] = label[:, :height, :width]
        out = self.transforms(inside)
        image = _plain(out["image"]).clamp(0, 1)
        image = image.expand(3, -1, -1) if is_grey else image
        item["image"] = _padded(unit_to_frame(image, self.normalization), side).to(frame.dtype)
        if label is not None:
            item["label"] = _padded(_plain(out["label"]), side).to(label.dtype)
        if height != width and image.shape[-2:] == (width, height):
            item["size_hw"] = np.array(size[::-1], dtype=np.int64)
        return item


def _alike(image: Tensor) -> bool:
    return bool(torch.allclose(image[0], image[1], atol=1e-4)) and bool(
        torch.allclose(image[0], image[2], atol=1e-4)
    )


def _plain(tensor: Tensor) -> Tensor:
    as_tensor = getattr(tensor, "as_tensor", None)
    plain: Tensor = tensor if as_tensor is None else as_tensor()
    return plain


def _padded(tensor: Tensor, side: int) -> Tensor:
    return F.pad(tensor, (0, side - tensor.shape[-1], 0, side - tensor.shape[-2]))
