"""Case ids as names of files: whatever they come from, no path leaves the output folder."""

import re
from collections.abc import Iterable

# separators of any system, what Windows refuses in names, and control characters
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
MAX_BYTES = 180  # file systems take 255, and slice numbers and endings are added


def safe_case_id(text: str) -> str:
    r"""A case id that is the name of a file on every system; a good one stays as it is.

    Separators, and what Windows refuses, become ``_``; dots at the beginning and dots and spaces
    at the end go: ``../x`` is ``_x``, ``C:\scans\1`` is ``C__scans_1``.

    Raises:
        ValueError: nothing is left, or it is longer than 180 bytes.
    """
    name = _UNSAFE.sub("_", text.strip()).lstrip(".").rstrip(". ")
    if _WINDOWS_DEVICES.fullmatch(name):
        name = f"{name}_"
    if not name:
        raise ValueError(f"case id {text!r}: nothing of it can be the name of a file")
    if len(name.encode()) > MAX_BYTES:
        raise ValueError(
            f"case id {text[:40]!r}...: {len(name.encode())} bytes, expected at most {MAX_BYTES}"
        )
    return name


def safe_case_ids(texts: Iterable[str]) -> dict[str, str]:
    """Each id to its safe form.

    Raises:
        ValueError: two would be written to the same files.
    """
    safe: dict[str, str] = {}
    owners: dict[str, str] = {}
    for text in texts:
        safe[text] = safe_case_id(text)
        other = owners.setdefault(safe[text], text)
        if other != text:
            raise ValueError(
                f"cases {other!r} and {text!r} would both be written as {safe[text]!r}; rename one"
            )
    return safe
