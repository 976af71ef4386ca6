"""Files of a bundle: hashes in a stable order, a folder that appears whole, archives."""

import gzip
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samtune.atomic import partial_path, whole_file, write_atomically
from samtune.networks.weights import sha256_of

HASHES = "SHA256SUMS"
METADATA = "configs/metadata.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip file can hold
_MODE = 0o644


def write_json(path: Path, content: Any, *, sort_keys: bool = True) -> None:
    """Write indented JSON."""
    text = json.dumps(content, indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def files_of(bundle: Path) -> list[str]:
    """Files below a bundle, relative, with forward slashes, sorted; without those of Python."""
    found = (p.relative_to(bundle) for p in bundle.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in found if "__pycache__" not in p.parts)


def write_hashes(bundle: Path) -> None:
    """Write ``SHA256SUMS``, as ``sha256sum -c`` reads it, of all files but itself."""
    names = [name for name in files_of(bundle) if name != HASHES]
    text = "".join(f"{sha256_of(bundle / name)}  {name}\n" for name in names)
    write_atomically(bundle / HASHES, text.encode())


def hashes_file(bundle: Path) -> Path:
    """The list of a bundle's hashes.

    Raises:
        FileNotFoundError: the bundle has none.
    """
    path = bundle / HASHES
    if not path.is_file():
        msg = f"'{bundle}' has no {HASHES}: it was not made by 'samtune release'"
        raise FileNotFoundError(msg)
    return path


def read_hashes(bundle: Path) -> dict[str, str]:
    """File to its recorded SHA-256.

    Raises:
        FileNotFoundError: the bundle has no list.
        ValueError: a line is not one of it, or names a file outside the bundle.
    """
    path = hashes_file(bundle)
    hashes = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        digest, _, name = line.partition("  ")
        inside = bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts
        if len(digest) != 64 or not inside:
            msg = f"'{path}', line {number}: expected 'SHA256  FILE', found '{line[:80]}'"
            raise ValueError(msg)
        hashes[name] = digest
    return hashes


def altered_files(bundle: Path) -> dict[str, str]:
    """Listed files that are not as they were released, each with what is wrong with it.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_hashes`.
    """
    found = {}
    for name, digest in read_hashes(bundle).items():
        if not (bundle / name).is_file():
            found[name] = f"missing; {HASHES} lists it"
        elif (now := sha256_of(bundle / name)) != digest:
            found[name] = f"altered: SHA-256 {now[:12]}, not {digest[:12]}"
    return found


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``path`` when the block ends well, in place of an older one.

    After an error the old folder is as it was.
    """
    path = path.resolve()
    partial, old = partial_path(path), path.with_name(f".{path.name}.old")
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in (partial, old):  # of a killed run
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(old, ignore_errors=True)


def write_archive(bundle: Path, path: Path) -> Path:
    """Pack a bundle below a folder of its name; the same files give the same bytes.

    Args:
        path: ``.zip`` or ``.tar.gz``.

    Raises:
        FileExistsError: ``path`` is there.
        ValueError: another suffix.
    """
    if path.exists():
        msg = f"'{path}' exists already: a released archive is not overwritten"
        raise FileExistsError(msg)
    names = files_of(bundle)
    with whole_file(path) as partial:
        if path.name.endswith(".zip"):
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as packed:
                for name in names:
                    info = zipfile.ZipInfo(f"{bundle.name}/{name}", _EPOCH)
                    info.compress_type = zipfile.ZIP_DEFLATED
                    info.create_system = 3  # Unix, on every machine
                    info.external_attr = _MODE << 16
                    packed.writestr(info, (bundle / name).read_bytes())
        elif path.name.endswith(".tar.gz"):
            with (
                partial.open("wb") as file,
                gzip.GzipFile("", "wb", 6, file, mtime=0) as compressed,
                tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as packed,
            ):
                for name in names:
                    data = (bundle / name).read_bytes()
                    entry = tarfile.TarInfo(f"{bundle.name}/{name}")
                    entry.size, entry.mode, entry.mtime = len(data), _MODE, 0
                    packed.addfile(entry, io.BytesIO(data))
        else:
            msg = f"archive '{path}': expected a name ending in .zip or .tar.gz"
            raise ValueError(msg)
    return path
