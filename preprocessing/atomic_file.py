"""Writing a file so that it is either complete or absent."""

import os
from pathlib import Path

PARTIAL_SUFFIX = ".part"


def partial_path(path: Path) -> Path:
    """Hidden neighbour of ``path`` that holds its bytes until they are complete.

    The name is fixed, so what a killed run left is overwritten by the next one.
    """
    return path.with_name(f".{path.name}{PARTIAL_SUFFIX}")


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and move it there in one step; makes the folder.

    Raises:
        OSError: the folder is not writable or the disk is full; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
