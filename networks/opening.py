"""Open a checkpoint: find it, read it, bring it to published names, complete it from another."""

import hashlib
import json
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from samtune.networks.checkpoints import read_state_dict
from samtune.networks.layouts import absent_parts, completed_from, to_published_names
from samtune.networks.registry import REGISTRY, Normalization, by_sha256
from samtune.networks.weights import find_checkpoint, sha256_of

HEADER = "samtune"
# beside a merged run's checkpoint, after its stem: with a class head, or of a run with prompts
CLASS_HEAD_FILE = "_class_head.safetensors"
PROMPTED_FILE = "_prompted.safetensors"


@dataclass(frozen=True)
class Weights:
    """An opened checkpoint.

    Attributes:
        state: tensors by published name.
        path: the file.
        source: what to call it in errors.
        layout: how its tensors were named.
        sha256: of the file; with a base, of both hashes.
        normalization: what the weights were trained with, where that is known.
    """

    state: dict[str, Tensor]
    path: Path
    source: str
    layout: str
    sha256: str
    normalization: Normalization | None


def open_weights(
    checkpoint: str | Path,
    *,
    base: str | Path | None = None,
    allow_missing: Collection[str] = (),
) -> Weights:
    """Open a checkpoint, and complete it from ``base`` where asked.

    Args:
        checkpoint, base, allow_missing: see :func:`samtune.networks.build_sam`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable, not convertible, or parts are absent and no base is given.
    """
    path = find_checkpoint(checkpoint)
    source = f"checkpoint '{path}'"
    digest = sha256_of(path)
    check_published(checkpoint, path, digest)
    state, layout = to_published_names(read_state_dict(path), source=source)
    known = known_normalization(path, digest)
    if base is not None:
        other = open_weights(base)
        state = completed_from(state, other.state, source=source, base_source=f"'{other.path}'")
        digest = hashlib.sha256(f"{digest} {other.sha256}".encode()).hexdigest()
        if known is not None and other.normalization not in (None, known):
            warnings.warn(
                f"{source} was trained with normalization '{known}', '{other.path}' with "
                f"'{other.normalization}': '{known}' is taken",
                UserWarning,
                stacklevel=3,
            )
        known = known or other.normalization
    elif layout != "unknown" and not allow_missing and (absent := absent_parts(state)):
        msg = (
            f"{source} ({layout}) has nothing of {', '.join(absent)}: name with base=FILE "
            "(samtune weights convert FILE OUT --base SAM) the SAM that gives these parts"
        )
        raise ValueError(msg)
    return Weights(state, path, source, layout, digest, known)


def check_published(checkpoint: str | Path, path: Path, sha256: str) -> None:
    """Raise ``ValueError`` if ``checkpoint`` is a published name and ``path`` another file.

    A path that exists is what it is; a name promises the published bytes.
    """
    if Path(checkpoint).is_file():
        return
    for published in REGISTRY.values():
        if str(checkpoint) not in (published.name, published.file):
            continue
        if published.sha256 is not None and published.sha256 != sha256:
            msg = (
                f"'{path}' is not the published {published.name}: its sha256 is {sha256}, "
                f"published is {published.sha256}; pass its path to load it all the same"
            )
            raise ValueError(msg)


def known_normalization(path: Path, sha256: str) -> Normalization | None:
    """Of a published file by its hash, of a file that this package wrote by its header.

    ``convert`` keeps it in the file's own header, ``merge`` in that of the file beside it.
    """
    published = by_sha256(sha256)
    if published is not None:
        return published.normalization
    header = header_of(path)
    for ending in (CLASS_HEAD_FILE, PROMPTED_FILE):
        beside = path.with_name(path.stem + ending)
        if not header and beside.is_file():
            said = header_of(beside)
            header = said if said.get("checkpoint_sha256") == sha256 else {}
    found = header.get("normalization")
    return found if found in ("sam", "medsam") else None


def header_of(path: Path) -> dict[str, Any]:
    """What this package wrote into a safetensors file's header; empty for all others."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def choose_normalization(
    choice: str, default: Normalization, weights: Weights | None
) -> Normalization:
    """How images have to enter.

    Args:
        choice: ``sam``, ``medsam``, or ``auto``: as the weights are known to want it, otherwise
            the architecture's ``default``, with a warning: SAM's and MedSAM's files look alike.

    Raises:
        ValueError: another choice.
    """
    if choice == "sam":
        return "sam"
    if choice == "medsam":
        return "medsam"
    if choice != "auto":
        msg = f"normalization must be auto, sam or medsam, got '{choice}'"
        raise ValueError(msg)
    if weights is None:
        return default
    if weights.normalization is not None:
        return weights.normalization
    text = {"sam": "ImageNet's mean and deviation", "medsam": "each image scaled to [0, 1]"}
    warnings.warn(
        f"{weights.source} is no published file by its hash: normalization '{default}' "
        f"({text[default]}) is assumed; set normalization to 'sam' or 'medsam' to say so yourself",
        UserWarning,
        stacklevel=3,
    )
    return default
