"""Adapter files: the trained tensors as safetensors, with what they belong to in the header.

The header's key ``samtune`` holds JSON: ``format_version``; ``peft`` (method, hyper-parameters,
decoder policy); ``base`` (architecture, image size, number of classes, sha256 of the base
checkpoint, class names, activation, ...); ``extra`` (anything else the writer adds, e.g. the
epoch); ``versions`` of the libraries.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from samtune.atomic import whole_file
from samtune.peft.adapt import load_trained_state, trained_state
from samtune.peft.protocol import adapted_modules
from samtune.peft.registry import build_methods

FORMAT_VERSION = 1
HEAD_PREFIX = "class_head."
_HEADER = "samtune"
# entries of ``base`` that older files lack, with what they meant by that
BASE_DEFAULTS: dict[str, Any] = {
    "class_names": None,
    "activation": "softmax",
    "prompts": "none",
}
_LIBRARIES = ("torch", "monai", "safetensors", "segment-anything")


@dataclass(frozen=True)
class AdapterFile:
    """Content of an adapter file."""

    path: Path
    tensors: dict[str, Tensor]
    peft: dict[str, Any]
    base: dict[str, Any]
    extra: dict[str, Any]


def save_adapter(
    path: str | Path,
    model: nn.Module,
    *,
    peft: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the trained tensors of ``model``; the file appears whole or not at all.

    Args:
        peft: from :func:`samtune.peft.adapt.method_configs`.
        extra: further JSON-able facts.

    Raises:
        ValueError: ``model`` is no ``SamSegmenter``, or what was trained has its ``requires_grad``
            flags off (in a copy for averaging, for instance).
    """
    path = Path(path)
    frozen = [
        f"{place}.{name}"
        for place, module in adapted_modules(model)
        for name in module.adapter_parameter_names()
        if not module.get_parameter(name).requires_grad
    ]
    if frozen or not any(p.requires_grad for p in model.parameters()):
        what = frozen[0] if frozen else "every parameter"
        msg = (
            f"nothing written to '{path}': {what} has requires_grad off, so isn't known as trained"
        )
        raise ValueError(msg)
    header = {
        "format_version": FORMAT_VERSION,
        "peft": dict(peft),
        "base": base_config(model),
        "extra": dict(extra or {}),
        "versions": {name: _version(name) for name in _LIBRARIES},
    }
    tensors = {n: t.cpu().contiguous() for n, t in trained_state(model).items()}
    header["tensors_sha256"] = _sha256_of(tensors)
    with whole_file(path) as partial:
        save_file(tensors, partial, {_HEADER: json.dumps(header, sort_keys=True)})


def read_adapter(path: str | Path) -> AdapterFile:
    """Read an adapter file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an adapter file of this format.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"adapter '{path}' does not exist"
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, framework="pt") as file:
            raw = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        msg = f"adapter '{path}' can't be read as safetensors: {error}"
        raise ValueError(msg) from error
    if raw is None:
        msg = f"'{path}' is a safetensors file without samtune's header: not an adapter file"
        raise ValueError(msg)
    try:
        header = json.loads(raw)
    except json.JSONDecodeError as error:
        msg = f"adapter '{path}' has a header that is not JSON: {error}"
        raise ValueError(msg) from error
    if not isinstance(header, dict) or "format_version" not in header:
        msg = f"adapter '{path}' has a header without format_version: not an adapter file"
        raise ValueError(msg)
    if header["format_version"] != FORMAT_VERSION:
        found = header["format_version"]
        msg = f"adapter '{path}' has format_version {found}, this version reads {FORMAT_VERSION}"
        raise ValueError(msg)
    lacking = [key for key in ("peft", "base", "extra") if key not in header]
    if lacking:
        msg = f"adapter '{path}' has a header without {', '.join(lacking)}"
        raise ValueError(msg)
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        msg = f"adapter '{path}' holds NaN or infinite values in {', '.join(bad[:4])}"
        raise ValueError(msg)
    if header.get("tensors_sha256", digest := _sha256_of(tensors)) != digest:  # older: none
        msg = f"adapter '{path}' was altered: its tensors are not those that were saved"
        raise ValueError(msg)
    return AdapterFile(path, tensors, header["peft"], header["base"], header["extra"])


def adapter_holds(path: Path, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> bool:
    """Whether a file is there, whole, and has these tensors and facts."""
    try:
        adapter = read_adapter(path)
    except (FileNotFoundError, ValueError):
        return False
    same = json.dumps(adapter.extra, sort_keys=True) == json.dumps(extra, sort_keys=True)
    return same and all(
        torch.equal(adapter.tensors[name], tensor) for name, tensor in tensors.items()
    )


def load_adapter(
    model: nn.Module, adapter: AdapterFile | str | Path, *, peft: Mapping[str, Any]
) -> None:
    """Copy an adapter's tensors into ``model``, which must be adapted the same way.

    Args:
        peft: how ``model`` was adapted, from :func:`samtune.peft.adapt.method_configs`.

    Raises:
        ValueError: says what differs: base, method, hyper-parameters or tensors.
    """
    if not isinstance(adapter, AdapterFile):
        adapter = read_adapter(adapter)
    load_trained_state(model, fitting_tensors(adapter, model, peft=peft))


def fitting_tensors(
    adapter: AdapterFile, model: nn.Module, *, peft: Mapping[str, Any], head: bool = True
) -> dict[str, Tensor]:
    """The tensors of ``adapter``, after checking that ``model`` is the network they are of.

    Args:
        peft: how ``model`` was adapted.
        head: ``False``: the class head and its classes may differ, and its tensors are left out.

    Raises:
        ValueError: says what differs.
    """
    found, expected = {**BASE_DEFAULTS, **adapter.base}, base_config(model)
    named = found["class_names"] is not None and expected["class_names"] is not None
    for key in ("num_classes", "class_names", "activation"):
        if not head or (key == "class_names" and not named):
            found.pop(key, None)
            expected.pop(key, None)
    differences = _differences("", found, expected)
    differences += _differences("peft.", completed(adapter.peft), completed(peft))
    if differences:
        msg = f"adapter '{adapter.path}' is for another network: {'; '.join(differences)}"
        raise ValueError(msg)
    own, tensors = trained_state(model), adapter.tensors
    if not head:
        own = {name: t for name, t in own.items() if not name.startswith(HEAD_PREFIX)}
        tensors = {name: t for name, t in tensors.items() if not name.startswith(HEAD_PREFIX)}
    missing = sorted(set(own) - set(tensors))
    unexpected = sorted(set(tensors) - set(own))
    shapes = [
        f"{n} is {tuple(tensors[n].shape)}, expected {tuple(own[n].shape)}"
        for n in sorted(set(own) & set(tensors))
        if own[n].shape != tensors[n].shape
    ]
    if missing or unexpected or shapes:
        msg = (
            f"adapter '{adapter.path}' doesn't fit: missing {missing[:4]}, unexpected "
            f"{unexpected[:4]}, shapes {shapes[:4]}"
        )
        raise ValueError(msg)
    return dict(tensors)


def completed(peft: Mapping[str, Any]) -> dict[str, Any]:
    """``peft`` with the default of every hyper-parameter that it doesn't name (an older file)."""
    configs = peft.get("method")
    if configs is None:
        return dict(peft)
    methods = [method.config() for method in build_methods(configs)]
    return {**peft, "method": methods[0] if isinstance(configs, Mapping) else methods}


def base_config(model: nn.Module) -> dict[str, Any]:
    """What an adapter of ``model`` belongs to."""
    keys = ("arch", "image_size", "normalization", "num_classes", "base_sha256")
    lacking = [key for key in keys if not hasattr(model, key)]
    if lacking:
        msg = (
            f"adapter files need a SamSegmenter; {type(model).__name__} has no {lacking[0]}: save "
            "trained_state(model) yourself"
        )
        raise ValueError(msg)
    base = {key: getattr(model, key) for key in keys}
    return base | {key: getattr(model, key, value) for key, value in BASE_DEFAULTS.items()}


def _differences(prefix: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    out = []
    for key in sorted(set(found) | set(expected)):
        a, b = found.get(key), expected.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out += _differences(f"{prefix}{key}.", a, b)
        elif a != b:
            out.append(f"{prefix}{key} is {a} in the file, {b} here")
    return out


def _sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
