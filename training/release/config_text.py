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
        old, new = _block(lines, key), f"{key}: {flow(value)}"
        comment = ""
        if len(lines[old]) == 1 and " #" in lines[old.start]:
            comment = " #" + lines[old.start].split(" #", 1)[1]
        lines[old] = [new + comment]
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
        del lines[_block(lines, key)]
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


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=2**20, allow_unicode=True
    )
    return text.removesuffix("...\n").strip()  # dots end a plain value


def _block(lines: list[str], key: str) -> slice:
    """The lines of a top-level key; none, at the end, where it isn't there."""
    start = next((i for i, line in enumerate(lines) if line.startswith(f"{key}:")), len(lines))
    end = start + 1
    while end < len(lines) and lines[end].startswith((" ", "-")):
        end += 1
    return slice(start, end)


def _parsed(text: str, name: str) -> dict[str, Any]:
    content = yaml.safe_load(text)
    if not isinstance(content, dict):
        msg = f"{name}: expected a mapping of keys, found {type(content).__name__}"
        raise ValueError(msg)
    return content
