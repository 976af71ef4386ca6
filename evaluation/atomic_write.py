"""Write a file whole or not at all, and append to one; errors name the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``; a reader, or a kill, sees the old file or the new one.

    The temporary file lies in the same folder, which is made when it is missing.

    Raises:
        OSError: it can't be written; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _error_names(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def append(path: Path, data: bytes) -> None:
    """Add ``data`` to the end of ``path`` in one write.

    Raises:
        OSError: it can't be written; a part of ``data`` may be there.
    """
    with _error_names(path), path.open("ab") as file:
        file.write(data)


@contextmanager
def _error_names(path: Path) -> Iterator[None]:
    """Give an OSError the file it is about: that of a full disk names none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
