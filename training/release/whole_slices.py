"""The network with its frame inside: raw slices of any size in, logits on their pixels out.

So the steps that MONAI lacks (the long side to a size with antialiasing, each slice's own scale,
and the way back) travel with the weights, also in a TorchScript file.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.networks.export_parts import PromptFree
from samtune.networks.segmenter import SamSegmenter
from samtune.training.network import AdaptedSegmenter, build_network

_MEAN = (123.675, 116.28, 103.53)  # of ImageNet, as in preprocessing.model_frame
_STD = (58.395, 57.12, 57.375)


class Frame(nn.Module):
    """:mod:`samtune.preprocessing.model_frame` for a batch of one size, in what can be scripted."""

    mean: Tensor
    std: Tensor

    def __init__(self, image_size: int, normalization: str) -> None:
        super().__init__()
        self.image_size = image_size
        self.is_medsam = normalization == "medsam"
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def content(self, height: int, width: int) -> list[int]:
        """Size of a slice within the frame."""
        scale = self.image_size / max(height, width)
        return [max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)]

    def forward(self, image: Tensor) -> Tensor:
        """Slices ``b 1|3 h w`` of 0..255 to the network's input ``b 3 s s``."""
        size = self.content(image.shape[-2], image.shape[-1])
        image = F.interpolate(
            image.to(torch.float32), size, mode="bilinear", align_corners=False, antialias=True
        )
        if self.is_medsam:
            low, high = image.amin((1, 2, 3), True), image.amax((1, 2, 3), True)
            image = (image - low) / (high - low).clamp_min(1e-8)
        else:
            image = (image - self.mean) / self.std
        image = image.expand(-1, 3, -1, -1)
        return F.pad(image, [0, self.image_size - size[1], 0, self.image_size - size[0]])

    def back(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Logits ``b c s s`` to the slices' own pixels ``b c h w``."""
        size = self.content(height, width)
        inside = logits[:, :, : size[0], : size[1]]
        return F.interpolate(inside, [height, width], mode="bilinear", align_corners=False)


class WholeSlices(nn.Module):
    """Slices ``b 1|3 h w`` of 0..255, any size, to logits ``b c h w``; channel 0 is the background.

    Args:
        segmenter: whose frame is put around it.
    """

    def __init__(self, segmenter: SamSegmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.frame = Frame(segmenter.image_size, segmenter.normalization)

    def forward(self, image: Tensor) -> Tensor:
        """Segment."""
        logits = self.segmenter(self.frame(image))
        assert isinstance(logits, Tensor)
        return self.frame.back(logits, image.shape[-2], image.shape[-1])

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` takes in place of this: the network traced, its frame scripted.

        SAM's code is too lively for a script; MONAI's ``ckpt_export`` scripts.
        """
        core = PromptFree(self.segmenter).eval()
        side = self.segmenter.image_size
        example = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        device = next(self.segmenter.parameters()).device
        flags = [(p, p.requires_grad) for p in core.parameters()]
        core.requires_grad_(False)
        # with gradients off TinyViT takes a batch image by image: a fixed number of them
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.jit; what comes out is compared in tests
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                core, example.to(device), check_trace=False
            )
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        return _Traced(traced, self.frame)


class _Traced(nn.Module):
    def __init__(self, core: Any, frame: Frame) -> None:
        super().__init__()
        self.core = core
        self.frame = frame

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.core(self.frame(image))
        return self.frame.back(logits, image.shape[-2], image.shape[-1])


def build_plain(
    *,
    arch: str,
    image_size: int,
    normalization: str,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    activation: str = "softmax",
    peft: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    decoder: str = "frozen",
) -> AdaptedSegmenter:
    """An untrained network for full weights: no adapters, but where these can't be merged.

    Args:
        peft, decoder: of a method that adds layers; else none.
    """
    network = build_network(
        arch=arch,
        checkpoint="random",
        image_size=image_size,
        normalization=normalization,
        num_classes=num_classes,
        class_names=class_names,
        activation=activation,
        peft=peft,
        decoder=decoder,
    )
    return network.eval()


def build_whole_slices(**config: Any) -> WholeSlices:
    """:func:`build_plain` with its frame inside."""
    return WholeSlices(build_plain(**config)).eval()
