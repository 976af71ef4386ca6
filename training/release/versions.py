"""Versions of the packages that a bundle was made with."""

import logging
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from samtune import __version__

logger = logging.getLogger(__name__)
OURS = "samtune"
NAMED = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}


def installed(package: str) -> str | None:
    """Version without a build's tag (``+cpu``); None: not installed."""
    if package == OURS:
        return __version__  # a source checkout may not be installed
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return None


def required(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Package to version, of a bundle's ``metadata.json``."""
    packages = metadata.get("required_packages_version")
    packages = packages or metadata.get("optional_packages_version") or {}
    named = {package: metadata[key] for package, key in NAMED.items() if key in metadata}
    return {**named, **packages}


def check_samtune(wanted: str) -> None:
    """Log a warning where this is another samtune than the bundle was made with."""
    if wanted != __version__ and int(os.environ.get("LOCAL_RANK", "0")) == 0:
        logger.warning("made with samtune %s, this is %s", wanted, __version__)
