"""What of a segmenter is exported: modules of plain tensors in, plain tensors out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.networks.segmenter import SamSegmenter

PARTS = ("model", "encoder", "decoder")
BATCH = "batch"
POINTS = "points"


class PromptFree(nn.Module):
    """Images ``b 3 s s`` to logits ``b c s s``: the forward without prompts."""

    def __init__(self, segmenter: SamSegmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.end = len(segmenter.image_encoder.adapter_sites()) + 1  # type: ignore[operator]

    def forward(self, image: Tensor) -> Tensor:
        """Segment."""
        features = self.segmenter.image_encoder.forward_prefix(image, self.end)  # type: ignore[operator]
        logits: Tensor = self.segmenter(features, from_block=self.end)
        return logits


class Encoder(nn.Module):
    """Images ``b 3 s s`` to embedding ``b c h w``; SAM 2's holds its finer maps too."""

    def __init__(self, segmenter: SamSegmenter) -> None:
        super().__init__()
        self.image_encoder = segmenter.image_encoder

    def forward(self, image: Tensor) -> Tensor:
        """Encode."""
        embedding: Tensor = self.image_encoder(image)
        return embedding


class PromptedDecoder(nn.Module):
    """One mask of each image for its points, which may hold a box.

    The inputs are those of ``segment_anything.utils.onnx.SamOnnxModel``, but for a batch of images:
    a box is two points with labels 2 (its upper left corner) and 3 (its lower right one); points
    without a box end with one at (0, 0), label -1; with SAM 2 a box does too.
    """

    def __init__(self, segmenter: SamSegmenter) -> None:
        super().__init__()
        self.prompt_encoder: Any = segmenter.prompt_encoder
        self.mask_decoder: Any = segmenter.mask_decoder
        self.image_size = segmenter.image_size

    def forward(
        self,
        embedding: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor | None = None,
        has_mask_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            embedding: ``b c h w``.
            point_coords: ``b n 2`` (x, y) in pixels of the network's input.
            point_labels: ``b n`` float: 1 inside, 0 outside, 2 and 3 corners of a box, -1 none.
            mask_input: ``b 1 4h 4w`` logits of a mask to start from.
            has_mask_input: ``b`` float: 1 where it counts, 0 where there is none.

        Returns:
            Logits ``b 1 s s`` (mask = logits > 0), and their IoU as SAM estimates it, ``b 1``.
        """
        sparse = self._embed_points(point_coords, point_labels)
        dense = self.prompt_encoder.no_mask_embed.weight[:, :, None, None]
        if mask_input is not None and has_mask_input is not None:
            share = has_mask_input[:, None, None, None]
            dense = share * self.prompt_encoder.mask_downscaling(mask_input) + (1 - share) * dense
        decoder = self.mask_decoder
        masks, iou_token = decoder.decode(
            embedding,
            self.prompt_encoder.get_dense_pe(),
            sparse,
            dense,
            decoder.mask_tokens.weight,
            list(decoder.output_hypernetworks_mlps)[:1],
        )
        size = (self.image_size, self.image_size)
        masks = F.interpolate(masks, size, mode="bilinear", align_corners=False)
        return masks, decoder.iou_prediction_head(iou_token)[:, :1]

    def _embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:  # b n 2, b n -> b n c
        encoder = self.prompt_encoder
        centred = (coords + 0.5) / self.image_size  # SAM adds 0.5: pixel centre
        label = labels[..., None]
        out: Tensor = encoder.pe_layer._pe_encoding(centred) * (label != -1)
        out = out + encoder.not_a_point_embed.weight * (label == -1)
        for value, embedding in enumerate(encoder.point_embeddings):
            out = out + embedding.weight * (label == value)
        return out


@dataclass(frozen=True)
class Tensors:
    """An input or output: its name, and its shape with free axes by name."""

    name: str
    shape: tuple[int | str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"name": self.name, "dtype": "float32", "shape": list(self.shape)}


@dataclass(frozen=True)
class Part:
    """A module to export, with what goes in and out of it."""

    name: str
    module: nn.Module
    inputs: tuple[Tensors, ...]
    outputs: tuple[Tensors, ...]

    def example(self, batch: int, points: int = 5, seed: int = 0) -> tuple[Tensor, ...]:
        """Arguments of the module on the CPU, random."""
        generator = torch.Generator().manual_seed(seed)
        sizes = {BATCH: batch, POINTS: points}
        out = []
        for tensors in self.inputs:
            shape = [axis if isinstance(axis, int) else sizes[axis] for axis in tensors.shape]
            if tensors.name == "point_labels":
                value = torch.randint(-1, 4, shape, generator=generator).float()
            else:
                value = torch.rand(shape, generator=generator)
            out.append(value)
        return tuple(out)


def make_part(segmenter: SamSegmenter, name: str, *, mask_input: bool = False) -> Part:
    """One of :data:`PARTS`.

    Args:
        mask_input: the decoder takes a mask to start from too.

    Raises:
        ValueError: no such part, or the segmenter doesn't have it.
    """
    size = segmenter.image_size
    height, width = segmenter.prompt_encoder.image_embedding_size  # type: ignore[misc]
    image = Tensors("image", (BATCH, 3, size, size))
    channels = int(segmenter.mask_decoder.embedding_channels)  # type: ignore[arg-type]
    embedding = Tensors("embedding", (BATCH, channels, int(height), int(width)))
    if name == "model":
        logits = Tensors("logits", (BATCH, segmenter.num_classes + 1, size, size))
        return Part(name, PromptFree(segmenter), (image,), (logits,))
    if name == "encoder":
        return Part(name, Encoder(segmenter), (image,), (embedding,))
    if name != "decoder":
        msg = f"unknown part '{name}', expected one of: {', '.join(PARTS)}"
        raise ValueError(msg)
    inputs = [
        embedding,
        Tensors("point_coords", (BATCH, POINTS, 2)),
        Tensors("point_labels", (BATCH, POINTS)),
    ]
    if mask_input:
        inputs.append(Tensors("mask_input", (BATCH, 1, 4 * int(height), 4 * int(width))))
        inputs.append(Tensors("has_mask_input", (BATCH,)))
    outputs = (Tensors("masks", (BATCH, 1, size, size)), Tensors("iou", (BATCH, 1)))
    return Part(name, PromptedDecoder(segmenter), tuple(inputs), outputs)


def describe(
    segmenter: SamSegmenter, part: Part, class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """What a user of the file has to know, JSON-able.

    Raises:
        ValueError: another number of names than of classes.
    """
    if class_names and len(class_names) != segmenter.num_classes:
        msg = f"{len(class_names)} class names for a network of {segmenter.num_classes} classes"
        raise ValueError(msg)
    return {
        "part": part.name,
        "arch": segmenter.arch,
        "base_sha256": segmenter.base_sha256,
        "image_size": segmenter.image_size,
        "normalization": segmenter.normalization,
        "activation": segmenter.activation,
        "classes": list(class_names) or [f"class {i + 1}" for i in range(segmenter.num_classes)],
        "inputs": [tensors.to_dict() for tensors in part.inputs],
        "outputs": [tensors.to_dict() for tensors in part.outputs],
    }
