"""Thin SVDs of frozen weights: in float64, signs fixed, kept on disk by the weight's hash.

The sign of a singular pair is arbitrary and differs between machines and precisions. Here the entry
of largest magnitude of each left vector is positive; which entry that was is kept as the
``anchor``, so that a later decomposition can be turned the same way even where two entries are
almost equal.
"""

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from samtune.atomic import whole_file

logger = logging.getLogger(__name__)
_VERSION = "1"


@dataclass(frozen=True)
class Svd:
    """W = u diag(s) vh, singular values descending.

    Attributes:
        u: ``out x m``, m = min(out, in).
        s: ``m``.
        vh: ``m x in``.
        anchor: ``m``, the row in which each column of u is positive.
    """

    u: Tensor
    s: Tensor
    vh: Tensor
    anchor: Tensor


def cache_folder() -> Path | None:
    """Where decompositions are kept; ``SAMTUNE_CACHE=off`` keeps none."""
    setting = os.environ.get("SAMTUNE_CACHE", "")
    if setting == "off":
        return None
    if setting:
        return Path(setting) / "svd"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "samtune" / "svd"


@torch.no_grad()
def thin_svd(weight: Tensor) -> Svd:
    """Decompose a matrix ``out x in``; the result has its dtype and is on its device.

    A weight on the meta device gives tensors without content.
    """
    rows, columns = weight.shape
    m = min(rows, columns)
    if weight.device.type == "meta":
        empty = weight.new_empty
        anchor = torch.empty(m, dtype=torch.int32, device="meta")
        return Svd(empty(rows, m), empty(m), empty(m, columns), anchor)
    plain = weight.detach().cpu().contiguous()
    raw = plain.view(torch.uint8).numpy().tobytes()
    key = f"{_VERSION}/{plain.dtype}/{tuple(plain.shape)}/".encode()
    digest = hashlib.sha256(key + raw).hexdigest()
    folder = cache_folder()
    file = None if folder is None else folder / f"{digest}.safetensors"
    found = None if file is None else _load(file, rows, columns, plain.dtype)
    if found is None:
        u, s, vh = torch.linalg.svd(plain.to(torch.float64), full_matrices=False)
        anchor = u.abs().argmax(0)
        sign = torch.gather(u, 0, anchor[None])[0].sign()
        u, s, vh = (t.to(plain.dtype).contiguous() for t in (u * sign, s, vh * sign[:, None]))
        found = Svd(u, s, vh, anchor.to(torch.int32))
        if file is not None:
            _save(file, found)
    tensors = (found.u, found.s, found.vh, found.anchor)
    return Svd(*(t.to(weight.device) for t in tensors))


def _load(file: Path, rows: int, columns: int, dtype: torch.dtype) -> Svd | None:
    try:
        if not file.is_file():
            return None
        t = load_file(file)
        svd = Svd(t["u"], t["s"], t["vh"], t["anchor"])
    except (SafetensorError, OSError, KeyError) as error:
        logger.warning("decomposing again, '%s' can't be read: %s", file, error)
        return None
    m = min(rows, columns)
    shapes = [(rows, m), (m,), (m, columns), (m,)]
    types = [dtype, dtype, dtype, torch.int32]
    tensors = (svd.u, svd.s, svd.vh, svd.anchor)
    if [(t.shape, t.dtype) for t in tensors] == list(zip(shapes, types, strict=True)):
        return svd
    logger.warning("decomposing again, '%s' doesn't hold what it should", file)
    return None


def _save(file: Path, svd: Svd) -> None:
    """Keep ``svd``; a cache that can't be written costs time later, nothing else."""
    try:
        with whole_file(file, several_writers=True) as partial:
            save_file({"u": svd.u, "s": svd.s, "vh": svd.vh, "anchor": svd.anchor}, partial)
    except (OSError, SafetensorError) as error:
        logger.warning("singular vectors are not kept in '%s': %s", file.parent, error)
