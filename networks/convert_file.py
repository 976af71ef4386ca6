"""Write a checkpoint of any known layout under SAM's published names."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from samtune.atomic import whole_file
from samtune.networks.architectures import ARCHITECTURES
from samtune.networks.build import arch_of, assemble_sam
from samtune.networks.checkpoints import misfits, read_state_dict
from samtune.networks.layouts import ENCODER, State, to_published_names
from samtune.networks.opening import HEADER, known_normalization, open_weights
from samtune.networks.tables import fits_any_size
from samtune.networks.weights import find_checkpoint, sha256_of


def convert_file(
    path: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    encoder_only: bool = False,
    normalization: str | None = None,
) -> Path:
    """Convert a checkpoint; the file appears whole or not at all.

    Args:
        path: file, or name of a published checkpoint.
        out: ``.pth`` (loads in ``segment_anything`` too) or ``.safetensors`` to write; the latter
            keeps the normalization, so that ``auto`` finds it.
        base: SAM from which the parts come that an encoder lacks.
        encoder_only: write the image encoder alone.
        normalization: what the weights were trained with, ``sam`` or ``medsam``; ``None``: as
            known from the file.

    Raises:
        ValueError: unreadable, not convertible, or of no known architecture.
        FileExistsError: ``out`` is there already.
    """
    out = Path(out)
    if out.suffix not in (".pth", ".safetensors"):
        msg = f"'{out}': the suffix must be .pth or .safetensors, got '{out.suffix}'"
        raise ValueError(msg)
    if out.exists():
        msg = f"'{out}' exists already; choose another name"
        raise FileExistsError(msg)
    if encoder_only:
        source_path = find_checkpoint(path)
        source, digest = f"checkpoint '{source_path}'", sha256_of(source_path)
        normalization = normalization or known_normalization(source_path, digest)
        raw = read_state_dict(source_path)
        state, layout = to_published_names(raw, source=source, encoder_only=True)
        state = {name: tensor for name, tensor in state.items() if name.startswith(ENCODER)}
    else:
        weights = open_weights(path, base=base)
        state, layout, source = weights.state, weights.layout, weights.source
        normalization, digest = normalization or weights.normalization, weights.sha256
    arch = arch_of(state, source)
    _check(state, arch, source, encoder_only=encoder_only)
    header = {
        "arch": arch,
        "layout": layout,
        "normalization": normalization,
        "source_sha256": digest,
    }
    _write(state, out, header)
    return out


def _check(state: State, arch: str, source: str, *, encoder_only: bool) -> None:
    """Raise unless the tensors are those of ``arch``; position tables may be of another size."""
    architecture = ARCHITECTURES[arch]
    size = architecture.native_size
    with torch.device("meta"):
        sam = assemble_sam(
            architecture.encoder(size),
            arch=arch,
            image_size=size,
            normalization=architecture.normalization,
        )
    own = sam.state_dict()
    # of an encoder, parts may be absent
    may_lack = ["prompt_encoder.*", "mask_decoder.*", "*.rel_pos_*", f"{ENCODER}neck.*"]
    allowed = may_lack if encoder_only else []
    problems = misfits(own, state, allow_missing=allowed, same_shape=fits_any_size)
    if problems:
        msg = f"{source} doesn't fit {arch}: {'; '.join(problems)}"
        raise ValueError(msg)


def _write(state: State, out: Path, header: dict[str, str | None]) -> None:
    tensors: dict[str, Tensor] = {n: t.detach().contiguous() for n, t in state.items()}
    with whole_file(out) as partial:
        if out.suffix == ".safetensors":
            # safetensors refuses tensors that share memory
            own = {name: tensor.clone() for name, tensor in tensors.items()}
            save_file(own, partial, {HEADER: json.dumps(header, sort_keys=True)})
        else:
            torch.save(tensors, partial)
