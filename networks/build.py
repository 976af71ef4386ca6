"""Build a SAM by architecture name and load its published weights."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from segment_anything.modeling import PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from samtune.networks.architectures import ARCHITECTURES, check_size
from samtune.networks.attention import Attention, set_attention
from samtune.networks.checkpoints import listed, load_strictly
from samtune.networks.mask_decoder import SamMaskDecoder
from samtune.networks.opening import Weights, choose_normalization, open_weights
from samtune.networks.packaged import PACKAGED
from samtune.networks.recognise import hint, recognise
from samtune.networks.registry import Normalization, by_sha256
from samtune.networks.sam2_decoder import Sam2MaskDecoder, Sam2PromptEncoder
from samtune.networks.sam2_encoder import Hiera
from samtune.networks.tables import fit_tables
from samtune.networks.weights import find_weights

EMBED_DIM = 256


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


def build_sam(
    arch: str = "auto",
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
    *,
    base: str | Path | None = None,
    normalization: str = "auto",
    allow_missing: Collection[str] = (),
    attention: Attention = "auto",
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
        attention: of SAM's ViT: ``auto``, the cheapest exact form, or ``reference``: upstream's
            code, bit for bit.

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
        arch = "lite_medsam" if weights is None else _arch_of_file(weights)
    if arch not in ARCHITECTURES:
        msg = f"unknown architecture '{arch}', expected one of: auto, {', '.join(ARCHITECTURES)}"
        raise ValueError(msg)
    architecture = ARCHITECTURES[arch]
    size = architecture.native_size if image_size is None else int(image_size)
    check_size(arch, size)
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
            fitted = fit_tables(weights.state, sam)
            load_strictly(sam, fitted, source=weights.source, allow_missing=allow_missing)
        except ValueError as error:
            other = recognise(weights.state, _encoders(weights.state))
            if other in (None, arch):
                raise
            msg = f"{weights.source} is a {other}, not a {arch}: {error}"
            raise ValueError(msg) from error
        sam.base_sha256 = weights.sha256
    sam.normalization = choose_normalization(normalization, architecture.normalization, weights)
    set_attention(sam, attention)
    return sam.eval()


def arch_of(state: Mapping[str, Tensor], source: str) -> str:
    """Architecture whose encoder has the names and shapes of ``state``.

    Raises:
        ValueError: none; says what the file looks like.
    """
    arch = recognise(state, _encoders(state))
    if arch is None:
        msg = (
            f"{source} has the shapes of no known architecture ({', '.join(ARCHITECTURES)}); "
            f"{hint(state)}its first names: {listed(list(state)[:3])}"
        )
        raise ValueError(msg)
    return arch


def _arch_of_file(weights: Weights) -> str:
    published = by_sha256(weights.sha256)  # alone tells SAM 2.1 from SAM 2: one network
    return arch_of(weights.state, weights.source) if published is None else published.arch


def _encoders(
    state: Mapping[str, Tensor],
) -> list[tuple[str, Callable[[int], nn.Module], int]]:
    is_sam2 = "image_encoder.pos_embed_window" in state
    return [
        (name, a.encoder, a.native_size)
        for name, a in ARCHITECTURES.items()
        if name.startswith("sam2") == is_sam2  # building a SAM 2 asks for transformers
    ]
