"""Read checkpoint files and load them with every key accounted for."""

import argparse
import difflib
import re
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_WRAPPERS = ("model", "state_dict")
# put before all names by DistributedDataParallel, wrapper classes around a SAM, torch.compile
_PREFIXES = ("module.", "sam.", "_orig_mod.")
# MAE keeps its command line beside the weights. Unpickling a Namespace only sets its attributes.
_HARMLESS = (argparse.Namespace,)
_MAX_LISTED = 8


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.pth``, ``.pt`` or ``.safetensors`` file by parameter name.

    ``{"model": ...}`` and ``{"state_dict": ...}`` wrappers, and ``module.`` and ``sam.`` before all
    names, are removed; what lies beside a wrapped model is dropped. No code in the file is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds something else than tensors by name, or NaN or
            infinite values.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"checkpoint '{path}' does not exist"
        raise FileNotFoundError(msg)
    content = _read(path)
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        msg = f"checkpoint '{path}' holds {type(content).__name__}, expected tensors by name"
        raise ValueError(msg)
    others = [str(k) for k, v in content.items() if not isinstance(v, Tensor)]
    if others:
        msg = f"checkpoint '{path}' holds entries that are not tensors: {listed(others)}"
        raise ValueError(msg)
    state = {str(k): v for k, v in content.items()}
    broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        msg = f"checkpoint '{path}' holds NaN or infinite values in {listed(broken)}"
        raise ValueError(msg)
    return without_prefixes(state)


def _read(path: Path) -> object:
    _refuse_no_checkpoint(path)
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(_HARMLESS)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        msg = (
            f"checkpoint '{path}' can't be read, it may be truncated or altered: {_one_line(error)}"
        )
        raise ValueError(msg) from error
    except Exception as error:  # pickle's own error types, for files that hold more than tensors
        # not torch's own text, which tells the reader to run the file's code
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it refers to {found[1]}" if found else f"{type(error).__name__} in its pickle"
        msg = f"checkpoint '{path}' is refused, expected tensors by name only: {reason}"
        raise ValueError(msg) from error


def _refuse_no_checkpoint(path: Path) -> None:
    """Say of what is often saved in a checkpoint's place what it is."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer, not the file itself: fetch it with git lfs pull"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        what = "a web page, not a checkpoint: download the file itself"
    elif start[8:9] == b"{" and path.suffix.lower() != ".safetensors":
        what = "in safetensors' format: rename it to .safetensors"
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            altered = archive.testzip()  # torch doesn't check the sums
        if altered is None:
            return
        what = f"altered: the checksum of its part '{altered}' is wrong"
    else:
        return
    msg = f"checkpoint '{path}' is {what}"
    raise ValueError(msg)


def without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without the wrappers' prefixes that all its names share, in whatever order."""
    names = list(state)
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in names)), None):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def load_strictly(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    allow_missing: Collection[str] = (),
) -> None:
    """Copy ``state`` into ``module``; nothing is loaded unless all of it fits.

    Args:
        source: what to call the file in errors.
        allow_missing: names that the file may lack, ``*`` standing for any text; they keep the
            values they have.

    Raises:
        ValueError: lists missing, unexpected and mis-shaped names, each with its nearest match.
    """
    problems = misfits(module.state_dict(), state, allow_missing=allow_missing)
    if problems:
        msg = f"{source} doesn't fit {type(module).__name__}: {'; '.join(problems)}"
        raise ValueError(msg)
    module.load_state_dict(dict(state), strict=False)


def misfits(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    *,
    allow_missing: Collection[str] = (),
    same_shape: Callable[[str, Tensor, Tensor], bool] = lambda _, a, b: a.shape == b.shape,
) -> list[str]:
    """What keeps ``state`` from being loaded into a network with the tensors ``own``, in lines.

    Args:
        allow_missing: see :func:`load_strictly`.
        same_shape: whether the tensors (file's, own) of a name may stand for each other.
    """
    missing = [
        k for k in own if k not in state and not any(fnmatchcase(k, p) for p in allow_missing)
    ]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} is {tuple(state[k].shape)}, the model expects {tuple(v.shape)}"
        for k, v in own.items()
        if k in state and not same_shape(k, state[k], v)
    ]
    shapes += [
        f"{k} holds {state[k].dtype}, the model expects {v.dtype}"
        for k, v in own.items()
        if k in state and state[k].is_floating_point() != v.is_floating_point()
    ]
    lines = []
    if missing:
        near = _nearest(missing, unexpected, "in the file")
        lines.append(f"{len(missing)} missing: {listed(near)}")
    if unexpected:
        near = _nearest(unexpected, [k for k in own if k not in state], "in the model")
        lines.append(f"{len(unexpected)} unexpected: {listed(near)}")
    if shapes:
        lines.append(f"{len(shapes)} of another shape or kind: {listed(shapes)}")
    return lines


def _nearest(names: list[str], candidates: list[str], where: str) -> list[str]:
    out = []
    for name in names[:_MAX_LISTED]:
        match = difflib.get_close_matches(name, candidates, n=1, cutoff=0.7)
        out.append(f"{name} (nearest {where}: {match[0]})" if match else name)
    return out + names[_MAX_LISTED:]


def listed(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
