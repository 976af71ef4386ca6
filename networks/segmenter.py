"""SAM as one network: automatic multi-class and prompted segmentation by the same weights."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.networks.build import Sam
from samtune.networks.class_head import ClassHead
from samtune.networks.prompting import INVALID_LOGIT, PromptBatch, embed_uniform, group_prompts

Activation = Literal["softmax", "sigmoid"]

# Logit of a foreground class where the image says nothing: a probability of 5 % against background.
PRIOR_LOGIT = -3.0


class SamSegmenter(nn.Module):
    """SAM with a class head.

    Without prompts: ``forward(image)`` gives logits ``(B, C, H, W)`` at the input's size, C =
        classes + 1, channel 0 the background, a constant zero. With prompts: one mask a prompt, see
        :meth:`forward`. The parts keep the published parameter names; the head's start with
        ``class_head``.

    Args:
        sam: from :func:`samtune.networks.build_sam`; its parts are used, not copied.
        num_classes: foreground classes, >= 1.
        class_names: their names in channel order, where known; no name twice.
        activation: what the class logits are made for. ``softmax``: one class a pixel, channel 0
            among them. ``sigmoid``: each foreground channel by itself, they may overlap. The
            forward is the same; the loss and the reading of the logits differ.
        text: embeddings of the class names, see :class:`~samtune.networks.class_head.ClassHead`.

    Raises:
        ValueError: no class, names that don't fit, or an unknown activation.
    """

    def __init__(
        self,
        sam: Sam,
        num_classes: int,
        *,
        class_names: Sequence[str] | None = None,
        activation: Activation = "softmax",
        text: Tensor | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            msg = f"num_classes must be at least 1 (foreground classes), got {num_classes}"
            raise ValueError(msg)
        names = None if class_names is None else [str(name) for name in class_names]
        if names is not None and (len(names) != num_classes or len(set(names)) != len(names)):
            msg = f"class_names must be {num_classes} different names, got {names}"
            raise ValueError(msg)
        if activation not in get_args(Activation):
            msg = f"activation must be 'softmax' or 'sigmoid', got '{activation}'"
            raise ValueError(msg)
        self.image_encoder = sam.image_encoder
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        self.class_head = ClassHead(sam.mask_decoder, num_classes, text=text)
        self.num_classes = num_classes
        self.class_names = names
        self.activation: Activation = activation
        self.arch = sam.arch
        self.image_size = sam.image_size
        self.normalization = sam.normalization
        self.base_sha256 = sam.base_sha256
        self._centre_bias()

    @torch.no_grad()
    def _centre_bias(self) -> None:
        """Let an empty embedding give :data:`PRIOR_LOGIT` in every class.

        Without a prompt SAM's mask logits are far below 0 everywhere (LiteMedSAM: -14): its softmax
        against the background would be saturated, and training would begin on a plateau.
        """
        grid = cast(tuple[int, int], self.prompt_encoder.image_embedding_size)
        channels = cast(int, self.mask_decoder.embedding_channels)
        empty = self.class_head.tokens.new_zeros(1, channels, *grid)
        level = self._segment_classes(empty)[0, 1:].mean((1, 2))
        self.class_head.bias.copy_(PRIOR_LOGIT - level)

    def decoder_paths(self) -> list[str]:
        """Modules of the mask decoder that the prompt-free forward uses."""
        used = cast(tuple[str, ...], self.mask_decoder.used_paths)
        return ["mask_decoder.transformer", "mask_decoder.output_upscaling", *used]

    def frozen_prefix(self) -> int:
        """How far the encoder is frozen: the argument ``from_block`` that skips all of it.

        0..n-1: everything before that attention block; n: all but the neck; n + 1: the whole
        encoder; -1: parameters before the first block are trained, nothing can be skipped.
        """
        encoder = self.image_encoder
        units = [
            encoder.unit_of(name)  # type: ignore[operator]
            for name, p in encoder.named_parameters()
            if p.requires_grad
        ]
        end = len(encoder.adapter_sites()) + 1  # type: ignore[operator]
        return int(min(units, default=end))

    @torch.no_grad()
    def prefix(self, image: Tensor, from_block: int) -> Tensor:
        """Frozen features ``b h w c`` of images ``b 1|3 H W``, to be passed with ``from_block``."""
        out: Tensor = self.image_encoder.forward_prefix(self._to_input(image), from_block)  # type: ignore[operator]
        return out

    def encode(self, image: Tensor, from_block: int | None = None) -> Tensor:
        """Embedding ``b c h w`` of images ``b 1|3 H W``, or of features with ``from_block``."""
        if from_block is not None:
            embedding: Tensor = self.image_encoder.forward_suffix(image, from_block)  # type: ignore[operator]
            return embedding
        image = self._to_input(image)
        start = self.frozen_prefix()
        if start < 0 or not torch.is_grad_enabled():
            embedding = self.image_encoder(image)
            return embedding
        # no graph before the first adapted block
        return self.encode(self.prefix(image, start), start)

    def forward(
        self,
        image: Tensor,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        from_block: int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Segment.

        Args:
            image: ``(B, 1|3, H, W)`` float, normalised as the backbone wants it; H, W at most S =
                ``image_size``, a smaller image is padded with zeros on the right and below. With
                ``from_block`` the features of :meth:`prefix` instead.
            boxes: ``(B, P, 4)`` XYXY in pixels of the padded input; a row with NaN is no box.
            points: ``(B, P, N, 2)`` (x, y) in the same frame.
            point_labels: ``(B, P, N)``: 1 inside, 0 outside, -1 padding.
            masks: ``(B, P, 4h, 4w)`` coarse mask logits on four times the embedding's grid; one
                with NaN is none.
            from_block: see :meth:`prefix`.

        Returns:
            Without prompts: logits ``(B, C, H, W)``. With prompts: logits ``(B, P, H, W)`` (mask =
            logits > 0) and ``valid (B, P)``, false where a prompt held neither box, point nor
            mask; its logits are :data:`~samtune.networks.prompting.INVALID_LOGIT`. Padding changes
            no result: each prompt gives what it gives alone. So a point labelled -1 is left out,
            where ``segment_anything`` makes a token of it; :meth:`forward_uniform` does as it does.
        """
        embedding = self.encode(image, from_block)
        size = (self.image_size, self.image_size) if from_block is not None else image.shape[-2:]
        if all(given is None for given in (boxes, points, point_labels, masks)):
            return _cropped(self._segment_classes(embedding), size)
        prompts = PromptBatch(boxes, points, point_labels, masks)
        logits, valid = self._segment_prompts(embedding, prompts)
        return _cropped(logits, size), valid

    def forward_uniform(
        self,
        image: Tensor,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Prompted segmentation for export: no step depends on the prompts' values.

        Arguments as in :meth:`forward`, but every prompt holds all that is given and there is no
        padding: a point labelled -1 is a token, as in ``segment_anything``, and NaN gives NaN.

        Returns:
            Logits ``(B, P, H, W)``. Without any prompt SAM's own mask of the image, P = 1.
        """
        logits = self.decode_uniform(self.encode(image), boxes, points, point_labels, masks)
        return _cropped(logits, image.shape[-2:])

    def decode_uniform(
        self,
        embedding: Tensor,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Tensor:
        """The half of :meth:`forward_uniform` that starts at the embedding of :meth:`encode`."""
        prompts, number = None, 1
        if any(given is not None for given in (boxes, points, point_labels, masks)):
            prompts = PromptBatch(boxes, points, point_labels, masks)
            _, number = prompts.check_batch(embedding.shape[0])
        sparse, dense = embed_uniform(self.prompt_encoder, prompts, embedding.shape[0])
        # expand, not repeat_interleave: that has no ONNX form for a number of prompts left open
        repeated = embedding[:, None].expand(-1, number, -1, -1, -1).flatten(0, 1)
        logits = self._decode_single(repeated, sparse, dense)
        return logits.view(embedding.shape[0], number, *logits.shape[-2:])

    def _to_input(self, image: Tensor) -> Tensor:
        """Grey to three channels, on the device; zeros to the right and below up to the input."""
        if image.ndim != 4 or image.shape[1] not in (1, 3) or not image.is_floating_point():
            msg = (
                "images must be (batch, 1 or 3, height, width) of a floating type, got "
                f"{tuple(image.shape)} {image.dtype}"
            )
            raise ValueError(msg)
        if image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1)
        size = self.image_size
        height, width = image.shape[-2:]
        if height == size and width == size:
            return image
        if height > size or width > size:
            msg = (
                f"images of {height}x{width} pixels are larger than the network's input, {size}: "
                "resize the long side to it, or build the network with another image_size"
            )
            raise ValueError(msg)
        return F.pad(image, (0, size - width, 0, size - height))

    def _segment_classes(self, embedding: Tensor) -> Tensor:
        sparse, dense = self.prompt_encoder(points=None, boxes=None, masks=None)
        batch = embedding.shape[0]
        sparse = sparse.expand(batch, -1, -1)
        head = self.class_head
        tokens = head.class_tokens()
        foreground = self._decode(embedding, sparse, dense, tokens, list(head.hypernetworks))
        foreground = foreground + head.bias[:, None, None]
        return F.pad(foreground, (0, 0, 0, 0, 1, 0))  # channel 0: background, zero

    def _segment_prompts(self, embedding: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        batch, number = prompts.check_batch(embedding.shape[0])
        groups, valid = group_prompts(prompts)
        logits = embedding.new_full(
            (batch * number, self.image_size, self.image_size), INVALID_LOGIT
        )
        if not groups:  # a loss over padding alone still has a gradient, of zero
            logits = logits + 0 * embedding.sum()
        for group in groups:
            sparse, dense = self.prompt_encoder(
                points=group.points, boxes=group.boxes, masks=group.masks
            )
            images = group.rows.div(number, rounding_mode="floor")
            found = self._decode_single(embedding[images], sparse, dense)
            logits = logits.to(found.dtype).index_copy(0, group.rows, found)
        return logits.view(batch, number, *logits.shape[-2:]), valid

    def _decode_single(self, embedding: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """SAM's single mask ``b h w`` of each prompt."""
        decoder = self.mask_decoder
        logits = self._decode(
            embedding,
            sparse,
            dense,
            decoder.mask_tokens.weight,  # type: ignore[union-attr,arg-type]
            list(decoder.output_hypernetworks_mlps)[:1],  # type: ignore[arg-type]
        )
        return logits[:, 0]

    def _decode(
        self,
        embedding: Tensor,  # b e h w
        sparse: Tensor,  # b n c
        dense: Tensor,  # 1|b c h w
        mask_tokens: Tensor,  # k c
        hypernetworks: Sequence[nn.Module],
    ) -> Tensor:
        """SAM's mask decoder, one mask for each hypernetwork, at the input's size."""
        image_pe = self.prompt_encoder.get_dense_pe()  # type: ignore[operator]
        logits: Tensor
        logits, _ = self.mask_decoder.decode(  # type: ignore[operator]
            embedding, image_pe, sparse, dense, mask_tokens, hypernetworks
        )
        size = (self.image_size, self.image_size)
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits


def _cropped(logits: Tensor, size_hw: Sequence[int]) -> Tensor:
    """``... s s`` without what was padded."""
    height, width = size_hw
    if logits.shape[-2:] == (height, width):
        return logits
    return logits[..., :height, :width]
