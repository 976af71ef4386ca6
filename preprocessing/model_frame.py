"""The model's input frame: a square with the slice in its upper left corner.

The long side is resized to ``image_size`` (bilinear, antialiased), the rest is zero, below and
right, as SAM and LiteMedSAM were trained. One definition for training, evaluation and inference.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Normalization = Literal["sam", "medsam"]
SizeHW = tuple[int, int]

# ImageNet mean and deviation on 0..255 (segment_anything/build_sam.py)
_SAM_MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
_SAM_STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)


def content_size(size_hw: SizeHW, image_size: int) -> SizeHW:
    """Size of a slice within the frame: the long side becomes ``image_size``."""
    scale = image_size / max(size_hw)
    # half up, as ResizeLongestSide of SAM and MedSAM
    return int(size_hw[0] * scale + 0.5) or 1, int(size_hw[1] * scale + 0.5) or 1


def image_to_frame(image: Tensor, image_size: int, normalization: Normalization) -> Tensor:
    """Resize, normalise and pad a slice.

    Args:
        image: ``c h w`` with c 1 or 3, values 0..255 (any float range for ``medsam``).
        image_size: side of the frame, pixels.
        normalization: ``medsam``: each image min-max to [0, 1], c as given; ``sam``: ImageNet mean
            and deviation, which makes 3 channels of a grey image.

    Returns:
        ``c image_size image_size`` float32.
    """
    image = image.to(torch.float32)
    size = content_size((image.shape[-2], image.shape[-1]), image_size)
    image = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[
        0
    ]
    if normalization == "medsam":
        low, high = image.min(), image.max()
        image = (image - low) / (high - low).clamp_min(1e-8)
    elif normalization == "sam":
        image = (image - _SAM_MEAN) / _SAM_STD
    else:
        msg = f"normalization must be 'sam' or 'medsam', got '{normalization}'"
        raise ValueError(msg)
    return _pad(image, image_size)


def frame_to_unit(image: Tensor, normalization: Normalization) -> Tensor:
    """Values of a frame's content to [0, 1], 0 black and 1 white."""
    return image if normalization == "medsam" else (image * _SAM_STD + _SAM_MEAN) / 255


def unit_to_frame(image: Tensor, normalization: Normalization) -> Tensor:
    """The inverse of :func:`frame_to_unit`."""
    return image if normalization == "medsam" else (image * 255 - _SAM_MEAN) / _SAM_STD


def label_to_frame(label: Tensor, image_size: int) -> Tensor:
    """Resize a label ``1 h w`` by nearest neighbour and pad it with 0."""
    size = content_size((label.shape[-2], label.shape[-1]), image_size)
    resized = F.interpolate(label[None].to(torch.float32), size, mode="nearest-exact")[0]
    return _pad(resized, image_size).to(label.dtype)


def box_to_frame(box_xyxy: Tensor, size_hw: SizeHW, image_size: int) -> Tensor:
    """Boxes ``... 4`` (x0, y0, x1, y1) in pixels of a slice to pixels of the frame."""
    height, width = content_size(size_hw, image_size)
    scale = box_xyxy.new_tensor([width / size_hw[1], height / size_hw[0]])
    return box_xyxy * scale.repeat(2)


def points_to_frame(points_xy: Tensor, size_hw: SizeHW, image_size: int) -> Tensor:
    """Pixel indices ``... 2`` (x, y) of a slice to those of the frame: centres go to centres.

    SAM adds half a pixel to a point. Scaling the index alone, as ``segment_anything`` does, would
    put it into a neighbour when the slice is made smaller.
    """
    height, width = content_size(size_hw, image_size)
    scale = points_xy.new_tensor([width / size_hw[1], height / size_hw[0]])
    return (points_xy + 0.5) * scale - 0.5


def logits_to_slice(logits: Tensor, size_hw: SizeHW) -> Tensor:
    """Logits ``c s s`` of the frame to the slice's own pixels ``c h w``: crop, bilinear resize."""
    height, width = content_size(size_hw, logits.shape[-1])
    return F.interpolate(
        logits[None, :, :height, :width], size_hw, mode="bilinear", align_corners=False
    )[0]


def _pad(image: Tensor, image_size: int) -> Tensor:
    return F.pad(image, (0, image_size - image.shape[-1], 0, image_size - image.shape[-2]))
