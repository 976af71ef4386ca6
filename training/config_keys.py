"""Misspelt and idle keys of a bundle's call, which MONAI would take without a word."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser, ReferenceResolver
from monai.bundle.config_item import ConfigExpression

from samtune.training.bundle_call import META, BundleCall, bundle_call
from samtune.training.paths import bundle_root

BUNDLE = "sam_finetune"
# a mapping whose entries its reader checks: they depend on the method
_FREE = ("peft",)


def check_config(name: str, call: BundleCall | None = None) -> None:
    """Refuse a call of ``NAME.yaml`` with a key that has no effect; names the nearest that has.

    A key may be new where something refers to it (``@key``).

    Args:
        name: of a config of the bundle.
        call: ``None``: the one that this function is called from.

    Raises:
        ValueError: a key is neither in the bundle's config nor referred to; or it was given but
            nothing here refers to it, e.g. a hyper-parameter that the chosen method lacks.
    """
    call = bundle_call() if call is None else call
    if call is None:
        return
    base = _base(name)
    merged = call.config
    known, used = set(_references(base)), set(_references(merged))
    tops = {key.split("::")[0] for key in used}
    for key, value in merged.items():
        if key in base or key in tops or key in call.run_ids or _is_import(value):
            continue
        candidates = sorted(k for k in merged if k in base or k in tops)
        raise ValueError(_unknown(key, f"{name}.yaml", candidates))
    idle = [
        key
        for key in _given(call, base)
        if key in base and key not in tops and key in {k.split("::")[0] for k in known}
    ]
    if idle:
        raise ValueError(_idle(idle[0], base, merged))
    for key, value in base.items():
        if key not in _FREE and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            _check_section(key, value, merged[key], used)


def _base(name: str) -> dict[str, Any]:
    file = Path(bundle_root(BUNDLE)) / "configs" / f"{name}.yaml"
    parser = ConfigParser()
    parser.read_config(str(file))
    parser.resolve_macro_and_relative_ids()
    config: Any = parser.get()
    return {key: value for key, value in config.items() if key != META}


def _references(config: Any) -> Iterator[str]:
    """Ids that ``config`` refers to."""
    if isinstance(config, Mapping):
        for value in config.values():
            yield from _references(value)
    elif isinstance(config, list):
        for value in config:
            yield from _references(value)
    elif isinstance(config, str):
        yield from ReferenceResolver.match_refs_pattern(config)


def _given(call: BundleCall, base: Mapping[str, Any]) -> list[str]:
    """Top-level keys that the user chose a value for, as far as is known."""
    given: Iterable[str] = [
        key for key, value in call.config.items() if key in base and value != base[key]
    ]
    if call.files is not None and call.overrides is not None:
        overlays = [ConfigParser.load_config_file(file) for file in call.files[1:]]
        given = [*given, *call.overrides, *(key for overlay in overlays for key in overlay)]
    tops = (ReferenceResolver.normalize_id(key).split("::")[0].lstrip("+") for key in given)
    return list(dict.fromkeys(tops))


def _check_section(
    where: str, base: Mapping[str, Any], merged: Mapping[str, Any], used: set[str]
) -> None:
    """Keys below ``where`` that are new: of a component those its class takes, else referred to."""
    target = merged.get("_target_")
    new = [key for key in merged if key not in base and not str(key).startswith("_")]
    if target is not None:
        accepted = _parameters(merged) if new and target == base.get("_target_") else None
        for key in new:
            if accepted is not None and key not in accepted:
                raise ValueError(_unknown(f"{where}::{key}", str(target), accepted, where))
        return
    for key in new:
        path = f"{where}::{key}"
        if not any(one == path or one.startswith(f"{path}::") for one in used):
            raise ValueError(_unknown(path, where, [str(k) for k in base], where))
    for key, value in base.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            _check_section(f"{where}::{key}", value, merged[key], used)


def _parameters(component: Mapping[str, Any]) -> list[str] | None:
    """Arguments that a component takes; ``None``: any, or it can't be told."""
    parser = ConfigParser()
    found: Any = ConfigComponent(
        config={"_target_": component["_target_"]}, locator=parser.locator
    ).resolve_module_name()
    try:
        if isinstance(found, str):
            from pydoc import locate

            found = locate(found)
        parameters = signature(found).parameters.values()
    except (TypeError, ValueError, ImportError):
        return None
    if any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters]


def _is_import(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(
        isinstance(v, str) and ConfigExpression.is_import_statement(v) for v in values
    )


def _unknown(key: str, where: str, known: list[str], parent: str | None = None) -> str:
    close = get_close_matches(key.rsplit("::", 1)[-1], known, n=1, cutoff=0.5)
    prefix = "" if parent is None else f"{parent}::"
    hint = f"nearest is '{prefix}{close[0]}'" if close else "none is near"
    return (
        f"there is no key '{key}' in {where}, {hint}; a key of your own must be referred to by "
        f"@{key}"
    )


def _idle(key: str, base: Mapping[str, Any], merged: Mapping[str, Any]) -> str:
    peft = merged.get("peft")
    if f"@{key}" in str(base.get("peft")) and isinstance(peft, Mapping):
        method, takes = peft.get("name"), [str(k) for k in peft if k != "name"]
        close = get_close_matches(key, takes, n=1, cutoff=0.5)
        hint = f"; nearest is '{close[0]}'" if close else ""
        return f"method {method} has no '{key}': it takes {', '.join(takes) or 'nothing'}{hint}"
    return f"'{key}' has no effect: nothing in the merged config refers to it"
