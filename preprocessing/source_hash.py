"""One hash for all files of a case: a file, several, or a folder of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path


def source_sha256(paths: Sequence[Path]) -> str:
    """SHA-256 of a single file's bytes; of several, of their names and hashes in order.

    A folder counts as its files, at any depth, sorted by name; hidden files are left out.

    Returns:
        64 hex digits.
    """
    if len(paths) == 1 and paths[0].is_file():
        return _of_file(paths[0])
    digest = hashlib.sha256()
    for path in paths:
        for file in _files(path):
            name = file.relative_to(path.parent).as_posix()
            digest.update(f"{_of_file(file)} {name}\n".encode())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    inside = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in inside if not file.name.startswith("."))


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
