"""Changes of single keys in the text of a YAML config; its comments stay."""

from typing import Any

import yaml


def set_keys(text: str, changes: dict[str, Any], *, name: str = "config") -> str:
    """Give top-level keys other values; a key that isn't there is added at the end.

    Only the blocks of these keys change: that every other key is as it was is checked.

    Args:
        text: of a YAML mapping.
        changes: key to its new value; lists and mappings are written on one line.
        name: of the config, for errors.

    Raises:
        ValueError: the text is no mapping, or would read otherwise than asked afterwards.
    """
    before = _parsed(text, name)
    lines = text.splitlines()
    for key, value in changes.items():
        start = next((i for i, line in enumerate(lines) if line.startswith(f"{key}:")), None)
        new = _line(key, value)
        if start is None:
            lines.append(new)
            continue
        end = start + 1
        while end < len(lines) and lines[end].startswith((" ", "-")):
            end += 1
        comment = ""
        if end == start + 1 and " #" in lines[start]:
            comment = " #" + lines[start].split(" #", 1)[1]
        lines[start:end] = [new + comment]
    out = "\n".join(lines) + "\n"
    if _parsed(out, name) != {**before, **changes}:
        msg = f"{name}: setting {', '.join(changes)} would change more than that"
        raise ValueError(msg)
    return out


def drop_keys(text: str, keys: list[str], *, name: str = "config") -> str:
    """Leave top-level keys out, as far as they are there."""
    before = _parsed(text, name)
    lines = text.splitlines()
    for key in keys:
        start = next((i for i, line in enumerate(lines) if line.startswith(f"{key}:")), None)
        if start is None:
            continue
        end = start + 1
        while end < len(lines) and lines[end].startswith((" ", "-")):
            end += 1
        del lines[start:end]
    out = "\n".join(lines) + "\n"
    if _parsed(out, name) != {k: v for k, v in before.items() if k not in keys}:
        msg = f"{name}: leaving out {', '.join(keys)} would change more than that"
        raise ValueError(msg)
    return out


def set_header(text: str, header: list[str]) -> str:
    """Replace the comment at the top."""
    lines = text.splitlines()
    while lines and lines[0].startswith("#"):
        del lines[0]
    return "\n".join([*(f"# {line}".rstrip() for line in header), *lines]) + "\n"


def _line(key: str, value: Any) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=2**20, allow_unicode=True
    )
    return f"{key}: {text.removesuffix('...' + chr(10)).strip()}"  # dots end a plain value


def _parsed(text: str, name: str) -> dict[str, Any]:
    content = yaml.safe_load(text)
    if not isinstance(content, dict):
        msg = f"{name}: expected a mapping of keys, found {type(content).__name__}"
        raise ValueError(msg)
    return content
