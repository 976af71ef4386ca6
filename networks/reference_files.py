"""Files that other projects' training code leaves: what of them is a SAM, and why the rest isn't.

SAMed (hitachinsk/SAMed) and SAM-LoRA save LoRA factors ``w_a_000`` ...; SAM-Adapter (Kyyle2114)
saves its trained tensors by name; all three become adapters through ``samtune weights
convert-adapter``. SAM-LoRA and finetune-SAM (mazurowski-lab) also save whole networks with LoRA
layers inside, which are folded here into the weights they belong to. SALT (BioMedIA-MBZUAI) and
finetune-SAM's adapters have no such form.
"""

import re
from collections.abc import Mapping

from torch import Tensor

SAM_MASK_TOKENS = 4
_LORA_FILE = re.compile(r"w_[ab]_\d{3}")
_FINETUNE_ADAPTER = re.compile(r"(^|\.)(\w+_)?Adapter(_\w+)?(\.|$)")
_QKV = ".attn.qkv.qkv.weight"
_PROJ = re.compile(r"(mask_decoder\.transformer\..+\.[qv]_proj)\.proj\.weight")


def is_lora_file(state: Mapping[str, Tensor]) -> bool:
    """SAMed's or SAM-LoRA's factors (SAMed: with prompt encoder and mask decoder)."""
    return any(_LORA_FILE.fullmatch(name) for name in state)


def is_sam_adapter_file(state: Mapping[str, Tensor]) -> bool:
    """SAM-Adapter's trained tensors, without the encoder they adapt."""
    has_adapter = any(name.endswith("task_adapter_up.weight") for name in state)
    return has_adapter and not any(name.endswith("blocks.0.norm1.weight") for name in state)


def refuse_adapter(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adapters are no checkpoints."""
    msg = (
        "it needs the SAM it was trained on; make an adapter of it with: "
        "samtune weights convert-adapter FILE OUT --checkpoint SAM"
    )
    raise ValueError(msg)


def is_salt(state: Mapping[str, Tensor]) -> bool:
    """SALT's whole network (its released code also trains S-SAM under these names)."""
    return any("trainable_" in name for name in state)


def refuse_salt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Says what a SAM can't hold."""
    reasons = []
    if any(name.endswith("trainable_X") for name in state):
        reasons.append(
            "its factors X and Y refer to singular vectors that the file doesn't hold and whose "
            "signs differ between machines"
        )
    if any(name.startswith(("clip_model.", "Text_Embedding_Affine.")) for name in state):
        reasons.append("its masks come from CLIP's text features, which no SAM takes")
    reasons.append("its SVD layers replace the weights, with a ReLU on the singular values")
    msg = f"not convertible: {'; '.join(reasons)}; train again with the method salt"
    raise ValueError(msg)


def is_finetune_adapter(state: Mapping[str, Tensor]) -> bool:
    """finetune-SAM's (Medical SAM Adapter's) bottleneck adapters inside the blocks."""
    return any(_FINETUNE_ADAPTER.search(name) for name in state)


def refuse_finetune_adapter(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Says what a SAM can't hold."""
    name = next(n for n in state if _FINETUNE_ADAPTER.search(n))
    msg = (
        f"not convertible: its adapters ({name}, ...) are layers that no SAM has, with a residual "
        "of their own that no method here has; train again, for instance with adaptformer or "
        "houlsby"
    )
    raise ValueError(msg)


def is_other_head(state: Mapping[str, Tensor]) -> bool:
    """A mask decoder with another number of mask tokens than SAM's four."""
    tokens = state.get("mask_decoder.mask_tokens.weight")
    return tokens is not None and len(tokens) != SAM_MASK_TOKENS


def refuse_other_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Says what differs, and how to use the encoder all the same."""
    count = len(state["mask_decoder.mask_tokens.weight"])
    msg = (
        f"not convertible as a whole: its mask decoder has {count} mask tokens and hypernetworks, "
        f"as finetune-SAM with num_cls={count - 1} and SAMed with {count - 1} classes have; "
        f"SAM has {SAM_MASK_TOKENS}, of which the first makes single masks. Its encoder is usable: "
        "samtune weights convert FILE OUT --encoder-only, then OUT as checkpoint with base=SAM"
    )
    raise ValueError(msg)


def has_lora_inside(state: Mapping[str, Tensor]) -> bool:
    """A whole network with LoRA layers around ``qkv`` or the decoder's projections."""
    return any(name.endswith(_QKV) or _PROJ.fullmatch(name) for name in state)


def fold_lora(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W + B A under SAM's names; scale 1, q in the first and v in the last D rows of ``qkv``.

    (In a TinyViT these rows are not q and v; it is what the reference computes.)
    """
    left = dict(state)
    out: dict[str, Tensor] = {}
    for name in state:
        if name.endswith(_QKV):
            root = name.removesuffix("qkv.weight")
            weight = left.pop(name).clone()
            width = weight.shape[1]
            for part, rows in (("q", slice(None, width)), ("v", slice(-width, None))):
                a = left.pop(f"{root}linear_a_{part}.weight")
                weight[rows] += left.pop(f"{root}linear_b_{part}.weight") @ a
            out[f"{root}weight"] = weight
            out[f"{root}bias"] = left.pop(f"{root}qkv.bias")
        elif found := _PROJ.fullmatch(name):
            root = found[1]
            update = left.pop(f"{root}.w_b.weight") @ left.pop(f"{root}.w_a.weight")
            out[f"{root}.weight"] = left.pop(name) + update
            out[f"{root}.bias"] = left.pop(f"{root}.proj.bias")
    return {**left, **out}
