"""SAM as one network: automatic multi-class and prompted segmentation by the same weights."""

import copy
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.networks.build import Sam

# Logit of a foreground class where the image says nothing: a probability of 5 % against background.
PRIOR_LOGIT = -3.0


class ClassHead(nn.Module):
    """One output token, hypernetwork and bias a foreground class.

    Token and hypernetwork start from SAM's single-mask pair, the bias at 0.
    LiteMedSAM trained mask token 0 alone; tokens 1 to 3 are no starting point there.
    """

    def __init__(self, mask_decoder: nn.Module, num_classes: int) -> None:
        super().__init__()
        token = cast(Tensor, mask_decoder.mask_tokens.weight)[:1].detach()  # type: ignore[union-attr]
        hypernetwork: nn.Module = mask_decoder.get_submodule("output_hypernetworks_mlps.0")
        self.tokens = nn.Parameter(token.repeat(num_classes, 1))
        self.hypernetworks = nn.ModuleList(copy.deepcopy(hypernetwork) for _ in range(num_classes))
        self.bias = nn.Parameter(torch.zeros(num_classes))


class SamSegmenter(nn.Module):
    """SAM with a class head.

    Without prompts: ``forward(image)`` gives logits ``(B, C, H, W)`` at the input's size, C =
        classes + 1, channel 0 the background, a constant zero. With prompts: one mask a prompt, see
        :meth:`forward`. The parts keep the published parameter names; the head's start with
        ``class_head``.

    Args:
        sam: from :func:`samtune.networks.build_sam`; its parts are used, not copied.
        num_classes: foreground classes, >= 1.
    """

    def __init__(self, sam: Sam, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            msg = f"num_classes must be at least 1 (foreground classes), got {num_classes}"
            raise ValueError(msg)
        self.image_encoder = sam.image_encoder
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        self.class_head = ClassHead(sam.mask_decoder, num_classes)
        self.num_classes = num_classes
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

    def decoder_attention_paths(self) -> list[str]:
        """The decoder's attention modules (``q_proj`` and so on), in forward order."""
        names = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
        base = "mask_decoder.transformer"
        layers = range(len(self.mask_decoder.transformer.layers))  # type: ignore[arg-type,union-attr]
        paths = [f"{base}.layers.{i}.{name}" for i in layers for name in names]
        return [*paths, f"{base}.final_attn_token_to_image"]

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
        out: Tensor = self.image_encoder.forward_prefix(_to_rgb(image), from_block)  # type: ignore[operator]
        return out

    def encode(self, image: Tensor, from_block: int | None = None) -> Tensor:
        """Embedding ``b c h w`` of images ``b 1|3 H W``, or of features with ``from_block``."""
        if from_block is not None:
            embedding: Tensor = self.image_encoder.forward_suffix(image, from_block)  # type: ignore[operator]
            return embedding
        image = _to_rgb(image)
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
            image: ``(B, 1|3, S, S)`` float, S = ``image_size``, normalised and padded as the
                backbone wants it; with ``from_block`` the features of :meth:`prefix` instead.
            boxes: ``(B, P, 4)`` XYXY in pixels of the padded input; a row of NaN is no prompt.
            points: ``(B, P, N, 2)`` (x, y) in the same frame.
            point_labels: ``(B, P, N)``: 1 inside, 0 outside, -1 padding.
            masks: ``(B, P, 4h, 4w)`` coarse mask logits on four times the embedding's grid.
            from_block: see :meth:`prefix`.

        Returns:
            Without prompts: logits ``(B, C, S, S)``. With prompts: logits ``(B, P, S, S)`` (mask =
            logits > 0) and ``valid (B, P)``, false where a prompt was padding.
        """
        embedding = self.encode(image, from_block)
        if boxes is None and points is None and masks is None:
            return self._segment_classes(embedding)
        return self._segment_prompts(embedding, boxes, points, point_labels, masks)

    def _segment_classes(self, embedding: Tensor) -> Tensor:
        sparse, dense = self.prompt_encoder(points=None, boxes=None, masks=None)
        batch = embedding.shape[0]
        sparse = sparse.expand(batch, -1, -1)
        head = self.class_head
        foreground = self._decode(embedding, sparse, dense, head.tokens, list(head.hypernetworks))
        foreground = foreground + head.bias[:, None, None]
        return F.pad(foreground, (0, 0, 0, 0, 1, 0))  # channel 0: background, zero

    def _segment_prompts(
        self,
        embedding: Tensor,
        boxes: Tensor | None,
        points: Tensor | None,
        point_labels: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        given = [t for t in (boxes, points, masks) if t is not None]
        batch, num_prompts = given[0].shape[:2]
        if any(t.shape[:2] != (batch, num_prompts) for t in given) or batch != embedding.shape[0]:
            shapes = ", ".join(str(tuple(t.shape)) for t in given)
            msg = (
                "prompts must share (batch, prompts) and the image's batch "
                f"{embedding.shape[0]}, got {shapes}"
            )
            raise ValueError(msg)
        if (points is None) != (point_labels is None):
            msg = "points and point_labels go together, got one of them"
            raise ValueError(msg)
        valid = torch.zeros(batch, num_prompts, dtype=torch.bool, device=embedding.device)
        flat_boxes = flat_points = flat_masks = None
        if boxes is not None:
            box_valid = ~boxes.isnan().any(-1)
            valid |= box_valid
            flat_boxes = boxes.nan_to_num().flatten(0, 1)
        if points is not None and point_labels is not None:
            valid |= (point_labels >= 0).any(-1)
            flat_points = (points.flatten(0, 1), point_labels.flatten(0, 1))
        if masks is not None:
            valid |= True
            flat_masks = masks.flatten(0, 1)[:, None]
        sparse, dense = self.prompt_encoder(points=flat_points, boxes=flat_boxes, masks=flat_masks)
        decoder = self.mask_decoder
        logits = self._decode(
            embedding.repeat_interleave(num_prompts, 0),
            sparse,
            dense,
            decoder.mask_tokens.weight,  # type: ignore[union-attr,arg-type]
            list(decoder.output_hypernetworks_mlps)[:1],  # type: ignore[arg-type]
        )
        return logits.view(batch, num_prompts, *logits.shape[-2:]), valid

    def _decode(
        self,
        embedding: Tensor,  # b e h w
        sparse: Tensor,  # b n c
        dense: Tensor,  # 1|b c h w
        mask_tokens: Tensor,  # k c
        hypernetworks: Sequence[nn.Module],
    ) -> Tensor:
        """SAM's mask decoder over a real batch, one mask for each hypernetwork."""
        decoder = self.mask_decoder
        batch, _, height, width = embedding.shape
        source, high_res = decoder.split(embedding)  # type: ignore[operator]
        leading = decoder.leading_tokens()  # type: ignore[operator]
        own = torch.cat([leading, mask_tokens])
        tokens = torch.cat([own.expand(batch, -1, -1), sparse.to(own.dtype)], dim=1)
        image_pe = self.prompt_encoder.get_dense_pe()  # type: ignore[operator]
        out_tokens, keys = decoder.transformer(source + dense, image_pe, tokens)  # type: ignore[operator]
        grid = keys.transpose(1, 2).reshape(batch, -1, height, width)
        upscaled = decoder.upscale(grid, high_res)  # type: ignore[operator]  # b c/8 4h 4w
        first = len(leading)
        weights = torch.stack([f(out_tokens[:, first + i]) for i, f in enumerate(hypernetworks)], 1)
        logits = torch.einsum("bkc,bchw->bkhw", weights, upscaled)
        size = (self.image_size, self.image_size)
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits


def _to_rgb(image: Tensor) -> Tensor:
    return image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
