"""Build a SAM by architecture name and load its published weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from segment_anything.modeling import PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from samtune.networks.checkpoints import load_strictly, read_state_dict
from samtune.networks.mask_decoder import SamMaskDecoder
from samtune.networks.sam2_decoder import Sam2MaskDecoder, Sam2PromptEncoder
from samtune.networks.sam2_encoder import MULTIPLE, Hiera
from samtune.networks.sam_vit import SamViT
from samtune.networks.tables import fit_tables, sizeless_shape
from samtune.networks.tiny_vit import TinyViT
from samtune.networks.weights import PACKAGED, find_weights, sha256_of

Normalization = Literal["sam", "medsam"]
EMBED_DIM = 256


@dataclass(frozen=True)
class Architecture:
    """How one architecture is built.

    Attributes:
        encoder: builds the image encoder for an image size.
        native_size: side of the square input it was trained at, pixels.
        size_multiple: the side must be a multiple of it, pixels.
        normalization: ``sam`` (ImageNet mean and deviation) or ``medsam`` (each image to [0, 1]).
    """

    encoder: Callable[[int], nn.Module]
    native_size: int
    size_multiple: int
    normalization: Normalization


def _vit(dim: int, depth: int, num_heads: int, global_blocks: tuple[int, ...]) -> Architecture:
    def encoder(image_size: int) -> nn.Module:
        return SamViT(
            image_size=image_size,
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            global_blocks=global_blocks,
        )

    return Architecture(encoder, 1024, 16, "sam")


def _hiera(**settings: Any) -> Architecture:
    def encoder(image_size: int) -> nn.Module:
        return Hiera(image_size=image_size, **settings)

    return Architecture(encoder, 1024, MULTIPLE, "sam")


# of an image SAM 2.1 makes the same as SAM 2 with other weights: its new layers are for video
_SAM2 = {
    "tiny": _hiera(dim=96, num_heads=1, depths=(1, 2, 7, 2), global_blocks=(5, 7, 9)),
    "small": _hiera(dim=96, num_heads=1, depths=(1, 2, 11, 2), global_blocks=(7, 10, 13)),
    "base_plus": _hiera(
        dim=112,
        num_heads=2,
        depths=(2, 3, 16, 3),
        global_blocks=(12, 16, 20),
        background_size=14,
    ),
    "large": _hiera(
        dim=144,
        num_heads=2,
        depths=(2, 6, 36, 4),
        global_blocks=(23, 33, 43),
        windows=(8, 4, 16, 8),
    ),
}

ARCHITECTURES: dict[str, Architecture] = {
    "lite_medsam": Architecture(lambda _: TinyViT(patch_stride=1), 256, 4, "medsam"),
    "vit_b": _vit(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": _vit(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": _vit(1280, 32, 16, (7, 15, 23, 31)),
    **{f"sam2_{name}": architecture for name, architecture in _SAM2.items()},
    **{f"sam2.1_{name}": architecture for name, architecture in _SAM2.items()},
}


class Sam(nn.Module):
    """The three parts of a SAM under their published names, and how images have to enter.

    Attributes:
        arch: architecture name.
        image_size: side of the square input, pixels.
        normalization: ``sam`` or ``medsam``.
        base_sha256: hash of the checkpoint file, ``random`` for untrained weights.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: nn.Module,
        mask_decoder: nn.Module,
        *,
        arch: str,
        image_size: int,
        normalization: Normalization,
        base_sha256: str = "random",
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.arch = arch
        self.image_size = image_size
        self.normalization: Normalization = normalization
        self.base_sha256 = base_sha256


def assemble_sam(
    encoder: nn.Module, *, arch: str, image_size: int, normalization: Normalization
) -> Sam:
    """An untrained SAM around ``encoder``: prompt encoder and mask decoder for its grid."""
    stride = encoder.embedding_stride
    assert isinstance(stride, int)
    grid = (image_size // stride, image_size // stride)
    is_sam2 = isinstance(encoder, Hiera)
    prompt_encoder = (Sam2PromptEncoder if is_sam2 else PromptEncoder)(
        embed_dim=EMBED_DIM,
        image_embedding_size=grid,
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )
    mask_decoder = (Sam2MaskDecoder if is_sam2 else SamMaskDecoder)(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, mlp_dim=2048, num_heads=8),
        transformer_dim=EMBED_DIM,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    return Sam(
        encoder,
        prompt_encoder,
        mask_decoder,
        arch=arch,
        image_size=image_size,
        normalization=normalization,
    )


def check_size(arch: str, image_size: int) -> None:
    """Raise ``ValueError`` unless ``arch`` takes images of this side."""
    step = ARCHITECTURES[arch].size_multiple
    if image_size < 1 or image_size % step != 0:
        lower = max(image_size // step, 1) * step
        msg = (
            f"image_size {image_size} does not suit {arch}, expected a multiple of {step} pixels, "
            f"e.g. {lower} or {lower + step}"
        )
        raise ValueError(msg)


def build_sam(
    arch: str = "lite_medsam",
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
) -> Sam:
    """Build a SAM in evaluation mode.

    Args:
        arch: one of :data:`ARCHITECTURES`, or ``auto``: recognised from the checkpoint's shapes.
        checkpoint: file with the published names; ``None``: the packaged weights (``lite_medsam``
            only); ``"random"``: untrained.
        image_size: side of the square input in pixels; ``None``: the size it was trained at.

    Raises:
        ValueError: unknown architecture or size, or a checkpoint that doesn't fit.
        FileNotFoundError: no such checkpoint, or the packaged weights aren't installed.
    """
    state: Mapping[str, Tensor] | None = None
    if checkpoint is not None and str(checkpoint) != "random":
        state = read_state_dict(checkpoint)
    if arch == "auto":
        arch = "lite_medsam" if state is None else _recognise(state, str(checkpoint))
    if arch not in ARCHITECTURES:
        msg = f"unknown architecture '{arch}', expected one of: auto, {', '.join(ARCHITECTURES)}"
        raise ValueError(msg)
    architecture = ARCHITECTURES[arch]
    size = architecture.native_size if image_size is None else int(image_size)
    check_size(arch, size)
    source = Path(checkpoint) if checkpoint is not None else None
    if checkpoint is None:
        if arch not in PACKAGED:
            msg = (
                f"{arch} has no packaged weights: pass checkpoint=FILE "
                "(--checkpoint FILE) with its published weights, or checkpoint='random'"
            )
            raise ValueError(msg)
        source = find_weights(arch)
        state = read_state_dict(source)
    sam = assemble_sam(
        architecture.encoder(size),
        arch=arch,
        image_size=size,
        normalization=architecture.normalization,
    )
    if state is not None and source is not None:
        load_strictly(sam, fit_tables(state, sam), source=f"checkpoint '{source}'")
        sam.base_sha256 = sha256_of(source)
    return sam.eval()


def _recognise(state: Mapping[str, Tensor], source: str) -> str:
    """Architecture whose encoder has the shapes of ``state``."""
    for name, architecture in ARCHITECTURES.items():
        if name.startswith("sam2") and "image_encoder.pos_embed_window" not in state:
            continue  # building it would ask for transformers
        with torch.device("meta"):
            own = architecture.encoder(architecture.native_size).state_dict()
        if all(
            f"image_encoder.{k}" in state
            and sizeless_shape(k, state[f"image_encoder.{k}"]) == sizeless_shape(k, v)
            for k, v in own.items()
        ):
            return name
    msg = (
        f"checkpoint '{source}' has the shapes of no known architecture"
        f" ({', '.join(ARCHITECTURES)}); its first names: {', '.join(list(state)[:3])}"
    )
    raise ValueError(msg)
