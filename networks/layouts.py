"""Key layouts of checkpoint files, and their way to SAM's published names.

A new layout is one more entry in :data:`LAYOUTS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from samtune.networks import reference_files as reference
from samtune.networks import sam2_convert
from samtune.networks.checkpoints import listed
from samtune.networks.convert_huggingface import from_huggingface, is_huggingface
from samtune.networks.convert_mae import from_mae, is_mae
from samtune.networks.tables import resize_pos_embed

State = Mapping[str, Tensor]
ENCODER = "image_encoder."
_OTHER_PARTS = ("prompt_encoder.", "mask_decoder.", "shared_image_embedding.")
# TinyViT's classifier from its pretraining on ImageNet, which MobileSAM's file keeps
_CLASSIFIER = ("norm_head.", "head.")


@dataclass(frozen=True)
class Layout:
    """How a kind of file names its tensors.

    Attributes:
        name: short, for reports.
        about: what the file is, to be read after "is".
        recognise: by the names (and shapes) of its tensors.
        convert: to published names; raises ``ValueError`` with the reason where that can't be.
    """

    name: str
    about: str
    recognise: Callable[[State], bool]
    convert: Callable[[State], dict[str, Tensor]]


def _starts(prefix: str) -> Callable[[State], bool]:
    return lambda state: any(name.startswith(prefix) for name in state)


def _without_classifier(state: State) -> dict[str, Tensor]:
    drop = tuple(ENCODER + name for name in _CLASSIFIER)
    return {name: tensor for name, tensor in state.items() if not name.startswith(drop)}


def _is_bare_encoder(state: State) -> bool:
    return "patch_embed.proj.weight" in state or "patch_embed.seq.0.c.weight" in state


def _from_bare_encoder(state: State) -> dict[str, Tensor]:
    prefixed = {ENCODER + name: tensor for name, tensor in state.items()}
    is_tiny = "patch_embed.seq.0.c.weight" in state
    return _without_classifier(prefixed) if is_tiny else prefixed


# the first that recognises a file is its layout
LAYOUTS: list[Layout] = [
    Layout(
        "lora_adapter",
        "an adapter (LoRA factors of SAMed or SAM-LoRA)",
        reference.is_lora_file,
        reference.refuse_adapter,
    ),
    Layout(
        "sam_adapter",
        "an adapter (SAM-Adapter's trained tensors)",
        reference.is_sam_adapter_file,
        reference.refuse_adapter,
    ),
    Layout("salt", "a network trained by SALT", reference.is_salt, reference.refuse_salt),
    Layout(
        "finetune_sam_adapter",
        "a network trained by finetune-SAM",
        reference.is_finetune_adapter,
        reference.refuse_finetune_adapter,
    ),
    Layout("sam2", "a SAM 2", sam2_convert.recognise, sam2_convert.convert),
    Layout(
        "other_head",
        "a SAM with another mask decoder",
        reference.is_other_head,
        reference.refuse_other_head,
    ),
    Layout(
        "lora_inside",
        "a SAM with LoRA layers inside, of SAM-LoRA or finetune-SAM",
        reference.has_lora_inside,
        reference.fold_lora,
    ),
    Layout("huggingface", "Hugging Face's SamModel", is_huggingface, from_huggingface),
    Layout("mae", "an encoder pretrained as a masked autoencoder", is_mae, from_mae),
    Layout(
        "mobile_sam",
        "a MobileSAM",
        _starts(f"{ENCODER}norm_head."),
        _without_classifier,
    ),
    Layout("sam", "a SAM under its published names", _starts(ENCODER), dict),
    Layout("encoder", "an image encoder alone", _is_bare_encoder, _from_bare_encoder),
]


def layout_of(state: State) -> Layout | None:
    """The layout of a file's tensors, ``None``: unknown."""
    return next((layout for layout in LAYOUTS if layout.recognise(state)), None)


def to_published_names(
    state: State, *, source: str, encoder_only: bool = False
) -> tuple[dict[str, Tensor], str]:
    """Tensors under SAM's published names, and the name of the layout they had.

    An unknown layout is left as it is, for the check at loading to say what it expects.

    Args:
        source: what to call the file in errors.
        encoder_only: leave prompt encoder and mask decoder out.

    Raises:
        ValueError: the layout is known, but not convertible; says why.
    """
    if encoder_only:
        state = {n: t for n, t in state.items() if not n.startswith(_OTHER_PARTS)}
    layout = layout_of(state)
    if layout is None:
        return dict(state), "unknown"
    try:
        return layout.convert(state), layout.name
    except KeyError as error:
        msg = f"{source} is {layout.about}, but lacks {error.args[0]}"
        raise ValueError(msg) from error
    except ValueError as error:
        msg = f"{source} is {layout.about}: {error}"
        raise ValueError(msg) from error


def absent_parts(state: State) -> list[str]:
    """Parts of a SAM of which ``state`` (published names) has nothing."""
    absent = []
    # SAM's ViT alone has these; SAM 2's encoder has windowed positions
    is_vit = f"{ENCODER}blocks.0.attn.qkv.weight" in state
    is_vit = is_vit and f"{ENCODER}pos_embed_window" not in state
    if is_vit and not any(".rel_pos_" in name for name in state):
        absent.append("rel_pos")
    for part in (f"{ENCODER}neck", "prompt_encoder", "mask_decoder"):
        if not any(name.startswith(f"{part}.") for name in state):
            absent.append(part)
    return absent


def part_of(name: str) -> str:
    """The part, as :func:`absent_parts` names them, that a tensor belongs to."""
    if ".rel_pos_" in name:
        return "rel_pos"
    if name.startswith(f"{ENCODER}neck."):
        return f"{ENCODER}neck"
    return name.split(".")[0]


def completed_from(
    state: State, base: State, *, source: str, base_source: str
) -> dict[str, Tensor]:
    """``state`` with the parts that it lacks from ``base``, whole parts only.

    Positions of another grid are interpolated to the base's, bicubically.

    Raises:
        ValueError: nothing is absent, or single tensors of a part are.
    """
    absent = absent_parts(state)
    if not absent:
        msg = f"{source} has all parts of a SAM: nothing to take from base {base_source}"
        raise ValueError(msg)
    missing = [name for name in base if name not in state]
    odd = [name for name in missing if part_of(name) not in absent]
    if odd:
        msg = f"{source} lacks single tensors of parts that it has: {listed(odd)}"
        raise ValueError(msg)
    out = {**state, **{name: base[name] for name in missing}}
    position = f"{ENCODER}pos_embed"
    if position in out and position in base and _is_grid(out[position], base[position]):
        height, width = base[position].shape[1:3]
        out[position] = resize_pos_embed(out[position], (height, width))
    return out


def _is_grid(a: Tensor, b: Tensor) -> bool:
    return a.ndim == b.ndim == 4 and a.shape[-1] == b.shape[-1]


def parameter_count(state: State) -> int:
    """Numbers in all tensors."""
    return sum(tensor.numel() for tensor in state.values())


def dtypes_of(state: State) -> list[torch.dtype]:
    """Kinds of numbers in ``state``, most tensors first."""
    kinds = [tensor.dtype for tensor in state.values()]
    return sorted(set(kinds), key=kinds.count, reverse=True)
