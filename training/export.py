"""A trained run as an ordinary SAM checkpoint, with the class head beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from samtune.atomic import whole_file
from samtune.networks import SamSegmenter
from samtune.networks.opening import CLASS_HEAD_FILE, PROMPTED_FILE
from samtune.networks.weights import sha256_of
from samtune.peft.adapt import merge_adapters
from samtune.training.run_folder import load_run

_HEADER = "samtune"
_PREFIX = "class_head."


def merge_run(
    run: str | Path,
    out: str | Path,
    *,
    adapter: str = "best",
    checkpoint: str | Path | None = None,
) -> tuple[Path, Path]:
    """Fold a run's adapter into its base weights and write them under the published names.

    A file of ``vit_b``, ``vit_l`` or ``vit_h`` loads in ``segment_anything`` (strict), the others
    in :func:`samtune.networks.build_sam`. The four mask tokens are the base's own; what tells the
    classes apart is in the second file, for :func:`load_class_head`. A run with prompts trains
    SAM's own mask tokens and no class head: its second file says how images enter, nothing else.

    Args:
        run: folder of the run.
        out: ``.pth`` file to write; the head goes to ``STEM_class_head.safetensors`` beside it,
            what is said of a run with prompts to ``STEM_prompted.safetensors``.
        adapter: ``best`` or ``last``.
        checkpoint: base weights; ``None``: those it was trained with.

    Returns:
        Paths of both.

    Raises:
        NotMergeableError: the run's method adds layers that SAM doesn't have.
        FileExistsError: a file is there already.
    """
    trained = load_run(run)
    return export_merged(trained.network(adapter, checkpoint), out, task=trained.task.to_dict())


def export_merged(
    network: SamSegmenter, out: str | Path, *, task: Mapping[str, Any] | None = None
) -> tuple[Path, Path]:
    """Merge ``network`` in place and write it; see :func:`merge_run`."""
    out = Path(out)
    prompts = getattr(network, "prompts", "none")
    prompted = prompts != "none"
    head = out.with_name(out.stem + (PROMPTED_FILE if prompted else CLASS_HEAD_FILE))
    for path in (out, head):
        if path.exists():
            msg = f"'{path}' exists already; choose another --out"
            raise FileExistsError(msg)
    merge_adapters(network)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    tensors = {n: t.contiguous() for n, t in network.class_head.plain_state().items()}
    if prompted:
        tensors = {}  # as it was made at random: it was not trained
    with whole_file(out) as partial:
        torch.save({n: t for n, t in state.items() if not n.startswith(_PREFIX)}, partial)
    header = {
        "task": task,
        "arch": network.arch,
        "image_size": network.image_size,
        "class_names": network.class_names,
        "activation": network.activation,
        # a .pth of tensors has no place for it; read by networks.opening
        "normalization": network.normalization,
        **({"prompts": prompts} if prompted else {}),
        "checkpoint_sha256": sha256_of(out),
    }
    with whole_file(head) as partial:
        save_file(tensors, partial, {_HEADER: json.dumps(header, sort_keys=True)})
    return out, head


def load_class_head(network: SamSegmenter, path: str | Path) -> None:
    """Load the class head that :func:`merge_run` wrote.

    Raises:
        ValueError: not such a file, or for another number of classes.
    """
    try:
        opened = safe_open(path, framework="pt")
    except SafetensorError as error:
        msg = f"class head '{path}' can't be read as safetensors: {error}"
        raise ValueError(msg) from error
    with opened as file:
        if _HEADER not in (file.metadata() or {}):
            msg = f"'{path}' is not a class head written by samtune"
            raise ValueError(msg)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if not tensors:
        msg = f"'{path}' is of a run with prompts, which has no class head"
        raise ValueError(msg)
    found, expected = len(tensors.get("tokens", ())), network.num_classes
    if found != expected:
        msg = f"class head '{path}' has {found} classes, the network {expected}"
        raise ValueError(msg)
    if network.class_head.text_projection is not None:
        msg = f"class head '{path}' is one without text: build the network without text embeddings"
        raise ValueError(msg)
    network.class_head.load_state_dict(tensors)
