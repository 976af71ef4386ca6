"""HTML text that is escaped by construction: plain strings are, :class:`Markup` is not again."""

from html import escape
from typing import TypeAlias

VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})
Attribute: TypeAlias = str | int | float | bool | None


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: Attribute) -> Markup:
    """One element: ``tag("a", "x < y", href="#top")`` is ``<a href="#top">x &lt; y</a>``.

    Args:
        name: of the element.
        children: plain text, which is escaped, or Markup.
        attributes: an underscore stands for a hyphen, a last one is dropped (``class_``,
            ``for_``); True is an attribute without value, False and None leave it out.
    """
    parts = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {key}")
        elif value is not False and value is not None:
            parts.append(f' {key}="{escape(str(value), quote=True)}"')
    start = f"<{name}{''.join(parts)}>"
    return Markup(start if name in VOID else f"{start}{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """Several pieces one after the other; plain text is escaped."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    )
