"""Training that starts from another run's adapter, whose classes may be others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samtune.networks.class_head import JoinReport, join_class_head
from samtune.networks.segmenter import SamSegmenter
from samtune.peft.adapt import load_trained_state
from samtune.peft.adapter_file import HEAD_PREFIX, AdapterFile, fitting_tensors, read_adapter


def warm_start(network: SamSegmenter, path: str | Path, *, peft: Mapping[str, Any]) -> JoinReport:
    """Load a trained adapter of the same method and base; join the class head by class name.

    Classes that both have take token, hypernetwork and bias of the trained one; the others keep
    their start, and all do where the file names no classes. What is read from the file is loaded
    whole or not at all.

    Args:
        network: adapted, with ``class_names``.
        peft: how, from :func:`samtune.peft.adapt.method_configs`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another base or method, or no class name that is shared.
    """
    adapter = read_adapter(path)
    body = fitting_tensors(adapter, network, peft=peft, head=False)
    if getattr(network, "prompts", "none") != "none":  # no class head is trained, none is joined
        load_trained_state(network, body)
        return JoinReport(joined=(), new=(), left=())
    if network.class_names is None:
        msg = f"adapter '{path}' is joined by class name: the network needs class_names"
        raise ValueError(msg)
    names = class_names_of(adapter)
    if names is None:  # a converted adapter of another tool: nothing to join by
        load_trained_state(network, body)
        return JoinReport(joined=(), new=tuple(network.class_names), left=())
    head = {
        name.removeprefix(HEAD_PREFIX): tensor
        for name, tensor in adapter.tensors.items()
        if name.startswith(HEAD_PREFIX)
    }
    try:
        report = join_class_head(network.class_head, network.class_names, head, names)
    except ValueError as error:
        msg = f"adapter '{path}' can't be joined: {error}"
        raise ValueError(msg) from error
    load_trained_state(network, body)
    return report


def class_names_of(adapter: AdapterFile) -> list[str] | None:
    """Class names of an adapter file in channel order; older ones have them in their task.

    ``None``: the file says nothing of its classes.
    """
    names = adapter.base.get("class_names")
    if names is None:
        classes = adapter.extra.get("task", {}).get("classes", {})
        names = [classes[key] for key in sorted(classes, key=int)]
    return [str(name) for name in names] if names else None
