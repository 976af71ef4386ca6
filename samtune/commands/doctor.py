"""``samtune doctor``: what is installed, which device there is, where the weights lie."""

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

from samtune import __version__

# Distribution name of every core dependency -> module that must import.
REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "monai": "monai",
    "segment-anything": "segment_anything",
    "nibabel": "nibabel",
    "SimpleITK": "SimpleITK",
    "pydicom": "pydicom",
    "tifffile": "tifffile",
    "pytorch-ignite": "ignite.engine",
    "scikit-image": "skimage",
    "pyyaml": "yaml",
    "numpy": "numpy",
    "scipy": "scipy",
    "safetensors": "safetensors",
    "joblib": "joblib",
    "filelock": "filelock",
    "tqdm": "tqdm",
    "fire": "fire",
    "jsonschema": "jsonschema",
    "tensorboard": "tensorboard",
    "surface-distance": "surface_distance",
    "pillow": "PIL",
    "connected-components-3d": "cc3d",
}
PYTHON_FROM, PYTHON_BELOW = (3, 11), (3, 14)
ARCH = "lite_medsam"
GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``samtune doctor``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if something needed is missing."""
    report = collect()
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(as_text(report))
    for problem in report["problems"]:
        print(f"samtune doctor: {problem}", file=sys.stderr)
    return 1 if report["problems"] else 0


def collect() -> dict[str, Any]:
    """Look at python, packages, device, memory and weights; ``problems`` lists what is wrong."""
    problems: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other packages' warnings are not about this machine
        packages = _packages(problems)
        devices = _devices()
        weights = _weights(problems)
    if not PYTHON_FROM <= sys.version_info[:2] < PYTHON_BELOW:
        problems.append(f"python {platform.python_version()} found, 3.11 to 3.13 expected")
    return {
        "samtune": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "devices": devices,
        "cores": _cores(),
        "memory_gib": _memory_gib(),
        "weights": weights,
        "problems": problems,
    }


def as_text(report: dict[str, Any]) -> str:
    """The report as aligned lines."""
    lines = [("samtune", report["samtune"]), ("python", report["python"])]
    lines += [(name, version or "missing") for name, version in report["packages"].items()]
    for device in report["devices"]:
        memory = f", {device['memory_gib']} GiB" if "memory_gib" in device else ""
        lines.append(("device", f"{device['device']} ({device['name']}{memory})"))
    memory_gib = report["memory_gib"]
    lines.append(("cores", str(report["cores"])))
    lines.append(("memory", "unknown" if memory_gib is None else f"{memory_gib} GiB"))
    for arch, weights in report["weights"].items():
        lines.append((f"weights {arch}", weights["path"] or "missing or altered"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _packages(problems: list[str]) -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for distribution, module in REQUIRED.items():
        versions[distribution] = None
        try:
            importlib.import_module(module)  # installed is not enough: builds may not fit together
            versions[distribution] = importlib.metadata.version(distribution)
        # A broken build raises whatever its start-up code hits (OSError, RuntimeError, ...).
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            problems.append(f"package '{distribution}' does not import: {reason}")
    return versions


def _devices() -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = [{"device": "cpu", "name": platform.machine()}]
    try:
        import torch
    except Exception:  # already among the problems
        return devices
    devices[0]["threads"] = torch.get_num_threads()
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory_gib = round(properties.total_memory / GIB, 1)
        name = f"cuda:{index}"
        devices.append({"device": name, "name": properties.name, "memory_gib": memory_gib})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU, memory shared with the CPU"})
    return devices


def _weights(problems: list[str]) -> dict[str, dict[str, str | None]]:
    try:
        from samtune.networks.weights import find_weights

        return {ARCH: {"path": str(find_weights(ARCH)), "error": None}}
    except Exception as error:
        problems.append(f"weights {ARCH}: {error}")
        return {ARCH: {"path": None, "error": str(error)}}


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    """Memory this process may use: the machine's, or the container's limit if that is lower."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or "max"
        total = min(total, int(limit.read_text()))
    return round(total / GIB, 1)
