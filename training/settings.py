"""Values from a config or a command line, where they come as text now and then."""

from typing import Any

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def flag(name: str, value: Any) -> bool:
    """``value`` as true or false; ``--amp false`` on a command line arrives as the text 'false'.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    msg = f"{name} must be true or false, got {value!r}"
    raise ValueError(msg)
