"""Files that appear whole or not at all; a leaf that every folder may import."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL_SUFFIX = ".part"


def partial_path(path: Path) -> Path:
    """Hidden neighbour of ``path`` that holds its bytes until they are complete.

    The name is fixed, so what a killed run left is overwritten by the next one.
    """
    return path.with_name(f".{path.name}{PARTIAL_SUFFIX}")


@contextmanager
def whole_file(path: Path, *, several_writers: bool = False) -> Iterator[Path]:
    """A path to write to that becomes ``path`` in one step when the block ends well.

    The folder is made when it is missing; after an error the old file is as it was.

    Args:
        several_writers: processes may write the same file at once; the last one's stays.

    Raises:
        OSError: it can't be written; names the file.
    """
    partial = partial_path(path)
    if several_writers:
        # the number alone may be another machine's, or another container's, on a shared folder
        partial = partial.with_name(f".{os.getpid()}-{secrets.token_hex(4)}{partial.name}")
    with _error_names(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            if partial.is_file():
                # some writers make files for the owner alone
                os.chmod(partial, 0o666 & ~_umask())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``; a reader, or a kill, sees the old file or the new one."""
    with whole_file(path) as partial:
        partial.write_bytes(data)


def append(path: Path, data: bytes) -> None:
    """Add ``data`` to the end of ``path`` in one write.

    Raises:
        OSError: it can't be written; a part of ``data`` may be there.
    """
    with _error_names(path), path.open("ab") as file:
        file.write(data)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


@contextmanager
def _error_names(path: Path) -> Iterator[None]:
    """Give an OSError the file it is about: that of a full disk names none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
