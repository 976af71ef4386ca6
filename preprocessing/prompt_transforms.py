"""Prompts in a MONAI pipeline: the transform that adds them to an item, and how items are batched.

Keys added: ``boxes`` (``P 4``), ``points`` (``P N 2``), ``point_labels`` (``P N``), as
:class:`samtune.networks.SamSegmenter` takes them, and ``owners`` (``P``), the region of each.
"""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from torch import Tensor
from torch.utils.data import default_collate

from samtune.preprocessing.model_frame import content_size
from samtune.preprocessing.prompt_schemes import PromptScheme, make_prompts, scheme_of

Item = dict[Hashable, Any]
# what fills the place of a prompt or point that isn't there
PADDING = {"boxes": torch.nan, "points": 0.0, "point_labels": -1, "targets": 0, "owners": -1}
PROMPT_KEYS = ("boxes", "points", "point_labels")


class PromptsFromLabeld(Transform):
    """Add prompts made from an item's ``label``.

    Before :class:`~samtune.preprocessing.slice_transforms.ToFramed` they are in pixels of the
    slice, and that transform brings them into the frame. After it, and after random transforms on
    the frame, they are in pixels of the frame at once; the frame's padding is left out.

    Args:
        regions: channel indices of each class or union that is prompted for.
        scheme: a preset's name or a :class:`~samtune.preprocessing.prompt_schemes.PromptScheme`.
        seed: with ``case``, ``index`` and the epoch it fixes the item's prompts.
        targets: add ``targets`` (``P 1 h w`` bool) too, for training.
    """

    def __init__(
        self,
        regions: Sequence[Sequence[int]],
        scheme: str | PromptScheme,
        *,
        seed: int = 0,
        targets: bool = False,
    ) -> None:
        self.regions = [tuple(region) for region in regions]
        self.scheme = scheme_of(scheme)
        self.seed = seed
        self.targets = targets
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of ``epoch``."""
        self.epoch = epoch

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Needs ``label`` (``1 h w``) and, in the frame, ``size_hw``.

        With ``annotated`` (``c`` bool) a region of which a class is not annotated has no prompt.
        """
        item = dict(data)
        label = np.asarray(torch.as_tensor(item["label"])[0].cpu())
        shape = label.shape
        if "size_hw" in item:
            own = (int(item["size_hw"][0]), int(item["size_hw"][1]))
            if shape != own:  # in the frame
                height, width = content_size(own, shape[0])
                label = label[:height, :width]
        prompts = make_prompts(label, self.regions, self.scheme, self.generator(item))
        for owner, region in enumerate(self.regions):
            if "annotated" in item and not all(item["annotated"][i - 1] for i in region):
                prompts.boxes[prompts.owners == owner] = np.nan
                prompts.point_labels[prompts.owners == owner] = -1
        item["boxes"] = torch.from_numpy(prompts.boxes)
        item["points"] = torch.from_numpy(prompts.points)
        item["point_labels"] = torch.from_numpy(prompts.point_labels)
        item["owners"] = torch.from_numpy(prompts.owners)
        if self.targets:
            right, below = shape[1] - label.shape[1], shape[0] - label.shape[0]
            masks = np.pad(prompts.targets, ((0, 0), (0, below), (0, right)))
            item["targets"] = torch.from_numpy(masks)[:, None]
        return item

    def generator(self, item: Mapping[Hashable, Any]) -> np.random.Generator:
        """The source of an item's chance in this epoch."""
        name = f"{item.get('case', '')}/{item.get('index', 0)}"
        digest = hashlib.sha256(name.encode()).digest()
        return np.random.default_rng([self.seed, self.epoch, int.from_bytes(digest[:8], "little")])


def collate_prompts(items: Sequence[Mapping[Hashable, Any]]) -> dict[Hashable, Any]:
    """Batch items whose numbers of prompts or points differ.

    Prompt keys are padded to the batch's largest number (box NaN, point label -1), which changes no
    mask; all other keys are collated as ever.
    """
    padded = [dict(item) for item in items]
    for key, fill in PADDING.items():
        if not any(key in item for item in items):
            continue
        tensors = [torch.as_tensor(item[key]) for item in items]
        shape = [max(sizes) for sizes in zip(*(t.shape for t in tensors), strict=True)]
        for item, tensor in zip(padded, tensors, strict=True):
            item[key] = _pad_to(tensor, shape, fill)
    batch: dict[Hashable, Any] = default_collate(padded)
    return batch


def _pad_to(tensor: Tensor, shape: Sequence[int], fill: float) -> Tensor:
    out = tensor.new_full(tuple(shape), fill)
    out[tuple(slice(size) for size in tensor.shape)] = tensor
    return out
