"""Write an adapter of ours from one of SAMed, SAM-LoRA or SAM-Adapter."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from samtune.atomic import whole_file
from samtune.networks import build_sam
from samtune.networks.checkpoints import listed
from samtune.networks.reference_files import SAM_MASK_TOKENS
from samtune.peft.adapt import trained_state
from samtune.peft.adapter_file import save_adapter
from samtune.training.foreign_adapters import ForeignAdapter, read_foreign_adapter
from samtune.training.network import AdaptedSegmenter, build_network

_DECODER = "mask_decoder."


def convert_adapter(
    path: str | Path,
    out: str | Path,
    *,
    checkpoint: str | Path,
    arch: str = "auto",
    image_size: int | None = None,
    normalization: str = "auto",
    num_classes: int | None = None,
    blocks: Sequence[int] | None = None,
    base_out: str | Path | None = None,
) -> list[str]:
    """Convert an adapter; the encoder then computes what the reference's did.

    The references' heads are others than ours: SAMed has a mask token a class and one for the
    background, whose logit here is a constant zero; SAM-Adapter and SAM-LoRA make single masks from
    prompts. What of a trained mask decoder the prompt-free forward uses (transformer, upscaling,
    IoU token) goes into the adapter; the class head starts from its mask tokens and is to be
    trained further. With ``base_out`` a decoder of SAM's own shape goes into a new base checkpoint
    instead, and prompts give the reference's masks.

    Args:
        path: file of the reference.
        out: adapter file to write.
        checkpoint, arch, image_size, normalization: the SAM it was trained on; see
            :func:`samtune.networks.build_sam`. SAMed's own images are in [0, 1] (``medsam``).
        num_classes: foreground classes; ``None``: SAMed's own number, 1 for the others.
        blocks: adapted blocks of a LoRA file; ``None``: all.
        base_out: ``.pth`` to write the base with the file's mask decoder to.

    Returns:
        What was carried over and what wasn't, a line each.

    Raises:
        ValueError: the file doesn't fit the SAM.
        FileExistsError: ``out`` or ``base_out`` is there already.
    """
    for target in (out, base_out):
        if target is not None and Path(target).exists():
            msg = f"'{target}' exists already; choose another"
            raise FileExistsError(msg)
    sam = build_sam(arch, checkpoint, image_size, normalization=normalization)
    depth = len(sam.image_encoder.adapter_sites())  # type: ignore[operator]
    foreign = read_foreign_adapter(path, depth=depth, blocks=blocks)
    tokens = foreign.parts.get(f"{_DECODER}mask_tokens.weight")
    if num_classes is None:
        is_samed = foreign.kind == "lora" and tokens is not None
        num_classes = len(tokens) - 1 if is_samed and tokens is not None else 1
    report = []
    if base_out is not None:
        report.append(_write_base(sam.state_dict(), foreign, base_out, path))
        checkpoint = base_out
    has_decoder = any(name.startswith(f"{_DECODER}transformer.") for name in foreign.parts)
    decoder = "full" if has_decoder and base_out is None else "frozen"
    network = build_network(
        arch=sam.arch,
        checkpoint=checkpoint,
        image_size=sam.image_size,
        num_classes=num_classes,
        peft=foreign.peft,
        decoder=foreign.peft["name"] if foreign.decoder_method else decoder,
        normalization=sam.normalization,
    )
    own = trained_state(network)
    wanted = _wanted(network, foreign, own)
    _fill(own, wanted, source=f"adapter '{path}'")
    save_adapter(out, network, peft=network.peft, extra={"converted_from": Path(path).name})
    return report + _report(foreign, wanted, num_classes, with_base=base_out is not None)


def _write_base(
    base: Mapping[str, Tensor], foreign: ForeignAdapter, out: str | Path, path: str | Path
) -> str:
    tokens = foreign.parts.get(f"{_DECODER}mask_tokens.weight")
    if tokens is None or len(tokens) != SAM_MASK_TOKENS or foreign.decoder_method:
        found = "no mask decoder" if tokens is None else f"one with {len(tokens)} mask tokens"
        msg = f"adapter '{path}' has {found}, a base needs SAM's whole one with {SAM_MASK_TOKENS}"
        raise ValueError(msg)
    state = {name: tensor.detach() for name, tensor in base.items()}
    parts = {name: tensor for name, tensor in foreign.parts.items() if name in state}
    _check({name: state[name] for name in parts}, parts, f"adapter '{path}'")
    with whole_file(Path(out)) as partial:
        torch.save({**state, **parts}, partial)
    return f"'{out}': the base with {len(parts)} tensors of the file's decoder; prompts use them"


def _wanted(
    network: AdaptedSegmenter, foreign: ForeignAdapter, own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors of the file by the names of the network's trained tensors."""
    wanted = {**foreign.tensors, **{n: t for n, t in foreign.parts.items() if n in own}}
    tokens = foreign.parts.get(f"{_DECODER}mask_tokens.weight")
    if tokens is None:
        return wanted
    # SAMed: token 0 is the background's; SAM-Adapter: token 0 makes the single mask
    several = foreign.kind == "lora" and len(tokens) == network.num_classes + 1
    if not several and (foreign.kind == "lora" or network.num_classes != 1):
        return wanted
    first = 1 if several else 0
    wanted["class_head.tokens"] = tokens[first : first + network.num_classes]
    for index in range(network.num_classes):
        theirs = f"{_DECODER}output_hypernetworks_mlps.{first + index}."
        wanted |= {
            f"class_head.hypernetworks.{index}.{name.removeprefix(theirs)}": tensor
            for name, tensor in foreign.parts.items()
            if name.startswith(theirs)
        }
    return wanted


def _check(own: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in wanted.items():
        if name not in own:
            msg = f"{source} doesn't fit: the network trains no {name}"
            raise ValueError(msg)
        if tensor.shape != own[name].shape:
            shapes = f"{tuple(tensor.shape)}, the network expects {tuple(own[name].shape)}"
            msg = f"{source} doesn't fit: {name} is {shapes}"
            raise ValueError(msg)


@torch.no_grad()
def _fill(own: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: str) -> None:
    _check(own, wanted, source)
    missing = [n for n in own if n not in wanted and (n.startswith("image_enc") or ".lora_" in n)]
    if missing:
        msg = f"{source} doesn't fit: it lacks what belongs to {listed(missing)}"
        raise ValueError(msg)
    for name, tensor in wanted.items():
        own[name].copy_(tensor)


def _report(
    foreign: ForeignAdapter, wanted: Mapping[str, Tensor], num_classes: int, *, with_base: bool
) -> list[str]:
    method = foreign.peft["name"]
    encoder = [name for name in foreign.tensors if name.startswith("image_encoder.")]
    lines = [f"encoder: {len(encoder)} tensors of {method}, exact"]
    if foreign.decoder_method:
        lines.append(f"mask decoder: {len(foreign.tensors) - len(encoder)} tensors of {method}")
    decoder = [name for name in wanted if name.startswith(_DECODER) and name in foreign.parts]
    if decoder:
        lines.append(f"mask decoder: {len(decoder)} tensors")
    if "class_head.tokens" in wanted:
        lines.append(f"class head: {num_classes} classes start from the file's mask tokens")
    else:
        lines.append(f"class head: {num_classes} classes, untrained: use prompts, or train it")
    heads = ("mask_tokens.", "output_hypernetworks_mlps.", "iou_prediction_head.")
    left = [
        name
        for name in foreign.parts
        if name not in wanted and not (with_base and name.startswith(_DECODER))
    ]
    if any(name.startswith(tuple(_DECODER + head for head in heads)) for name in left):
        lines.append(
            "not carried over: mask tokens, hypernetworks and IoU head; masks differ from the "
            "reference's"
        )
    if any(name.startswith("prompt_encoder.") for name in left) and not with_base:
        lines.append("not carried over: the prompt encoder; the base's is used")
    return lines
