"""Read checkpoint files and load them with every key accounted for."""

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_WRAPPERS = ("model", "state_dict")
_MAX_LISTED = 8


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.pth``, ``.pt`` or ``.safetensors`` file by parameter name.

    ``{"model": ...}`` and ``{"state_dict": ...}`` wrappers and a ``module.`` prefix on all names
    are removed. No code in the file is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds something else than tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"checkpoint '{path}' does not exist"
        raise FileNotFoundError(msg)
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
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
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        msg = f"checkpoint '{path}' holds {type(content).__name__}, expected tensors by name"
        raise ValueError(msg)
    others = [str(k) for k, v in content.items() if not isinstance(v, Tensor)]
    if others:
        msg = f"checkpoint '{path}' holds entries that are not tensors: {_listed(others)}"
        raise ValueError(msg)
    if all(str(k).startswith("module.") for k in content):  # saved from DistributedDataParallel
        return {str(k)[len("module.") :]: v for k, v in content.items()}
    return {str(k): v for k, v in content.items()}


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
        allow_missing: names that the file may lack.

    Raises:
        ValueError: lists missing, unexpected and mis-shaped names, each with its nearest match.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state and k not in allow_missing]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} is {tuple(state[k].shape)}, the model expects {tuple(v.shape)}"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing: {_listed(_nearest(missing, unexpected))}")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected: {_listed(unexpected)}")
    if shapes:
        problems.append(f"{len(shapes)} of another shape: {_listed(shapes)}")
    if problems:
        msg = f"{source} doesn't fit {type(module).__name__}: {'; '.join(problems)}"
        raise ValueError(msg)
    module.load_state_dict(dict(state), strict=False)


def _nearest(names: list[str], candidates: list[str]) -> list[str]:
    out = []
    for name in names[:_MAX_LISTED]:
        match = difflib.get_close_matches(name, candidates, n=1, cutoff=0.7)
        out.append(f"{name} (nearest in the file: {match[0]})" if match else name)
    return out + names[_MAX_LISTED:]


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
