"""What a running ``monai.bundle`` command was given: expressions of a config can't ask MONAI."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from monai.bundle import ConfigWorkflow, create_workflow

_OWN = set(signature(ConfigWorkflow.__init__).parameters) - {"self", "override"}
META = "_meta_"


@dataclass(frozen=True)
class BundleCall:
    """A workflow as it was called.

    Attributes:
        config: merged from all files and overrides, before anything in it is made.
        run_ids: keys that MONAI runs, beside those that refer to each other.
        files: config files, the later over the earlier; ``None``: not known.
        overrides: keys given beside the files; ``None``: not known.
    """

    config: dict[str, Any]
    run_ids: tuple[str, ...]
    files: tuple[str, ...] | None
    overrides: tuple[str, ...] | None


def bundle_call() -> BundleCall | None:
    """The call that this function is called from, by an expression of its config.

    ``None``: there is none. Files and overrides are known from ``monai.bundle.run`` and
    ``create_workflow``, on the command line or in Python.
    """
    workflow: ConfigWorkflow | None = None
    frame = sys._getframe(1)
    caller: Any = frame
    while caller is not None:
        found = caller.f_locals.get("self")
        if workflow is None and isinstance(found, ConfigWorkflow):
            workflow = found
        if workflow is not None and caller.f_code is create_workflow.__code__:
            files, arguments = caller.f_locals["config_file"], caller.f_locals["_args"]
            return _call(workflow, files, [key for key in arguments if key not in _OWN])
        caller = caller.f_back
    return None if workflow is None else _call(workflow, None, None)


def is_command() -> bool:
    """Whether this process is a ``python -m monai.bundle`` command."""
    return sys.argv[0].replace("\\", "/").endswith("monai/bundle/__main__.py")


def merged_config() -> dict[str, Any] | None:
    """The merged config of the call, in plain types; ``None``: there is no call."""
    call = bundle_call()
    if call is None:
        return None
    plain: dict[str, Any] = _plain(call.config)
    return plain


def _call(workflow: ConfigWorkflow, files: Any, overrides: Sequence[str] | None) -> BundleCall:
    config: Any = workflow.parser.get()
    if isinstance(files, str):
        files = (files,)
    return BundleCall(
        config={key: value for key, value in config.items() if key != META},
        run_ids=(workflow.init_id, workflow.run_id, workflow.final_id),
        files=None if files is None else tuple(str(file) for file in files),
        overrides=None if overrides is None else tuple(overrides),
    )


def _plain(value: Any) -> Any:
    """Values of a Python call as text where YAML has no such type."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
