"""Build a SAM by architecture name and load its published weights."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from samtune.networks.checkpoints import listed, load_strictly
from samtune.networks.opening import Weights, choose_normalization, open_weights
from samtune.networks.packaged import PACKAGED
from samtune.networks.recognise import hint, recognise
from samtune.networks.registry import Normalization
from samtune.networks.sam_vit import SamViT
from samtune.networks.tiny_vit import TinyViT
from samtune.networks.weights import find_weights

EMBED_DIM = 256


@dataclass(frozen=True)
class Architecture:
    """How one architecture is built.

    Attributes:
        encoder: builds the image encoder for an image size.
        native_size: side of the square input it was trained at, pixels.
        image_sizes: sides that are supported.
        normalization: ``sam`` (ImageNet mean and deviation) or ``medsam`` (each image to [0, 1]).
    """

    encoder: Callable[[int], nn.Module]
    native_size: int
    image_sizes: tuple[int, ...]
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

    return Architecture(encoder, 1024, (1024,), "sam")


ARCHITECTURES: dict[str, Architecture] = {
    "lite_medsam": Architecture(lambda _: TinyViT(patch_stride=1), 256, (128, 256, 512), "medsam"),
    "vit_b": _vit(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": _vit(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": _vit(1280, 32, 16, (7, 15, 23, 31)),
    # MobileSAM
    "vit_t": Architecture(lambda _: TinyViT(patch_stride=4), 1024, (1024,), "sam"),
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
    """An untrained SAM around ``encoder``: SAM's prompt encoder and mask decoder for its grid."""
    stride = encoder.embedding_stride
    assert isinstance(stride, int)
    grid = (image_size // stride, image_size // stride)
    prompt_encoder = PromptEncoder(
        embed_dim=EMBED_DIM,
        image_embedding_size=grid,
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
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


def build_sam(
    arch: str = "auto",
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
    *,
    base: str | Path | None = None,
    normalization: str = "auto",
    allow_missing: Collection[str] = (),
) -> Sam:
    """Build a SAM in evaluation mode.

    Args:
        arch: one of :data:`ARCHITECTURES`, or ``auto``: recognised from the checkpoint's names and
            shapes, ``lite_medsam`` without one.
        checkpoint: file in one of the known layouts (:data:`samtune.networks.layouts.LAYOUTS`), or
            name of a published one that lies in the weights folder
            (:func:`samtune.networks.weights.find_checkpoint`); ``None``: the packaged weights
            (``lite_medsam`` only); ``"random"``: untrained.
        image_size: side of the square input in pixels; ``None``: the size it was trained at.
        base: SAM from which the parts come that ``checkpoint``, an encoder, has nothing of.
        normalization: ``sam``, ``medsam`` or ``auto``: what the checkpoint is known to have been
            trained with, otherwise the architecture's own, with a warning.
        allow_missing: names of tensors that the checkpoint may lack, ``*`` standing for any text;
            they stay untrained.

    Raises:
        ValueError: unknown architecture or size, or a checkpoint that doesn't fit.
        FileNotFoundError: no such checkpoint, or the packaged weights aren't installed.
    """
    weights: Weights | None = None
    if checkpoint is not None and str(checkpoint) != "random":
        weights = open_weights(checkpoint, base=base, allow_missing=allow_missing)
    elif base is not None:
        msg = f"base goes with a checkpoint that is an encoder, got checkpoint={checkpoint!r}"
        raise ValueError(msg)
    if arch == "auto":
        arch = "lite_medsam" if weights is None else arch_of(weights.state, weights.source)
    if arch not in ARCHITECTURES:
        msg = f"unknown architecture '{arch}', expected one of: auto, {', '.join(ARCHITECTURES)}"
        raise ValueError(msg)
    architecture = ARCHITECTURES[arch]
    size = architecture.native_size if image_size is None else int(image_size)
    if size not in architecture.image_sizes:
        accepted = ", ".join(map(str, architecture.image_sizes))
        msg = f"image_size {size} is not supported by {arch}, expected one of: {accepted}"
        raise ValueError(msg)
    if checkpoint is None:
        if arch not in PACKAGED:
            msg = (
                f"{arch} has no packaged weights: pass checkpoint=FILE "
                "(--checkpoint FILE) with its published weights, or checkpoint='random'"
            )
            raise ValueError(msg)
        weights = open_weights(find_weights(arch))
    sam = assemble_sam(
        architecture.encoder(size),
        arch=arch,
        image_size=size,
        normalization=architecture.normalization,
    )
    if weights is not None:
        try:
            load_strictly(sam, weights.state, source=weights.source, allow_missing=allow_missing)
        except ValueError as error:
            other = recognise(weights.state, _encoders())
            if other in (None, arch):
                raise
            msg = f"{weights.source} is a {other}, not a {arch}: {error}"
            raise ValueError(msg) from error
        sam.base_sha256 = weights.sha256
    sam.normalization = choose_normalization(normalization, architecture.normalization, weights)
    return sam.eval()


def arch_of(state: Mapping[str, Tensor], source: str) -> str:
    """Architecture whose encoder has the names and shapes of ``state``.

    Raises:
        ValueError: none; says what the file looks like.
    """
    arch = recognise(state, _encoders())
    if arch is None:
        msg = (
            f"{source} has the shapes of no known architecture ({', '.join(ARCHITECTURES)}); "
            f"{hint(state)}its first names: {listed(list(state)[:3])}"
        )
        raise ValueError(msg)
    return arch


def _encoders() -> list[tuple[str, Callable[[int], nn.Module], int]]:
    return [(name, a.encoder, a.native_size) for name, a in ARCHITECTURES.items()]
