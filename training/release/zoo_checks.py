"""What the model zoo's CI checks of a bundle, without network and with MONAI's own tools.

After ``ci/verify_bundle.py`` of Project-MONAI/model-zoo, in its order. Not repeated: downloads, the
list of released bundles, TensorRT, and its unit tests of single bundles.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser, ckpt_export, verify_metadata, verify_net_in_out
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties

from samtune.networks.weights import sha256_of
from samtune.training.release.files import METADATA
from samtune.training.release.verify import Check

LARGEST_IN_GIT = 25_000_000
INFER_KEYS = ("bundle_root", "device", "network_def", "inferer", "output_dir")
TRAIN_KEYS = (
    *("bundle_root", "device", "dataset_dir", "output_dir", "val_interval"),
    *("train::trainer", "train::trainer::max_epochs", "train::dataset", "train::dataset::data"),
    *("train::handlers", "validate::evaluator", "validate::handlers"),
    *("validate::dataset", "validate::dataset::data"),
)
_PERSONAL = re.compile(r"(?:^|[\s'\"=:])(/(?:home|Users|root|mnt|work|workspace|tmp|data)/\S*)")


def zoo_checks(bundle: str | Path, schema: str | Path) -> list[Check]:
    """Run the checks.

    Args:
        bundle: built out, with ``models/model.pt``.
        schema: JSON schema of ``metadata.json``; the published one is not fetched.
    """
    bundle, schema = Path(bundle).resolve(), Path(schema).resolve()
    steps: dict[str, Callable[[], str]] = {
        "large files": lambda: _large_files(bundle),
        "needed files": lambda: _needed(bundle),
        "preferred files": lambda: _preferred(bundle),
        "version": lambda: _version(bundle),
        "metadata": lambda: _schema(bundle, schema),
        "properties": lambda: _properties(bundle),
        "shapes": lambda: _shapes(bundle),
        "torchscript": lambda: _torchscript(bundle),
        "sizes": lambda: _sizes(bundle),
        "paths": lambda: _paths(bundle),
        "code": lambda: _code(bundle),
    }
    checks = []
    for name, step in steps.items():
        try:
            checks.append(Check(name, "ok", step()))
        except Exception as error:  # MONAI raises all kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            checks.append(Check(name, "FAILED", reason))
    return checks


def _fail(message: str) -> None:
    raise ValueError(message)


def _large_files(bundle: Path) -> str:
    path = bundle / "large_files.yml"
    entries: list[dict[str, str]] = []
    if path.is_file():
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["large_files"] or []
    for entry in entries:
        file = bundle / entry["path"]
        if not file.is_file():
            _fail(f"{entry['path']} is not there; nothing is fetched by this check")
        if entry.get("hash_type") == "sha256" and sha256_of(file) != entry["hash_val"]:
            _fail(f"{entry['path']} has another SHA-256")
    return f"{len(entries)} to fetch"


def _needed(bundle: Path) -> str:
    lacking = [n for n in (METADATA, "LICENSE") if not (bundle / n).is_file()]
    if lacking:
        _fail(f"{', '.join(lacking)} missing")
    return f"{METADATA}, LICENSE"


def _preferred(bundle: Path) -> str:
    if not (bundle / "models/model.pt").is_file():
        _fail("models/model.pt missing; build it: samtune release BUNDLE --materialise DIR")
    configs = [n for n in ("json", "yaml", "yml") if (bundle / f"configs/inference.{n}").is_file()]
    if not configs:
        _fail("configs/inference.{json,yaml,yml} missing")
    return f"models/model.pt, configs/inference.{configs[0]}"


def _version(bundle: Path) -> str:
    metadata = json.loads((bundle / METADATA).read_bytes())
    version = metadata["version"]
    if version not in metadata["changelog"]:
        _fail(f"version {version} is not in the changelog")
    packages = metadata["required_packages_version"]
    ranges = [f"{name} {found}" for name, found in packages.items() if not found[:1].isdigit()]
    if ranges:
        _fail(f"the zoo installs name==version; not a version: {', '.join(ranges)}")
    return f"{version}, in the changelog; {len(packages)} packages with one version each"


def _schema(bundle: Path, schema: Path) -> str:
    verify_metadata(
        meta_file=str(bundle / METADATA),
        filepath=str(schema),
        hash_val=sha256_of(schema),
        hash_type="sha256",
    )
    return f"verify_metadata with {schema.name}"


def _properties(bundle: Path) -> str:
    """By their ids: MONAI's ``check_properties`` would build data sets and trainer."""
    number = 0
    cases = (("inference", InferProperties, INFER_KEYS), ("train", TrainProperties, TRAIN_KEYS))
    for name, properties, keys in cases:
        parser = ConfigParser()
        parser.read_config(str(bundle / f"configs/{name}.yaml"))
        parser.read_meta(str(bundle / METADATA))
        known: list[Any] = [*properties.values(), *MetaProperties.values()]
        wanted = [*keys, *(entry["id"] for entry in known if entry["required"])]
        lacking = [key for key in dict.fromkeys(wanted) if key not in parser]
        if lacking:
            _fail(f"configs/{name}.yaml lacks {', '.join(lacking)}")
        number += len(set(wanted))
    if not (bundle / "configs/logging.conf").is_file():
        _fail("configs/logging.conf missing")
    return f"{number} required keys of inference and train; logging.conf"


def _shapes(bundle: Path) -> str:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / METADATA),
        config_file=str(bundle / "configs/inference.yaml"),
        bundle_root=str(bundle),
        device="cpu",
    )
    return "verify_net_in_out of network_def"


def _torchscript(bundle: Path) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.ts"
        ckpt_export(
            net_id="network_def",
            filepath=str(path),
            ckpt_file=str(bundle / "models/model.pt"),
            meta_file=str(bundle / METADATA),
            config_file=str(bundle / "configs/inference.yaml"),
            bundle_root=str(bundle),
        )
        torch.jit.load(str(path))  # type: ignore[no-untyped-call]
        size = path.stat().st_size
    return f"ckpt_export of network_def, {size / 1e6:.0f} MB, loads"


def _sizes(bundle: Path) -> str:
    """What goes into git; full weights are fetched in the zoo (large_files.yml)."""
    large = [
        p.relative_to(bundle).as_posix()
        for p in sorted(bundle.rglob("*"))
        if p.is_file() and p.stat().st_size > LARGEST_IN_GIT and not p.match("models/model.*")
    ]
    if large:
        _fail(f"above 25 MB: {', '.join(large)}")
    return "no file above 25 MB but models/model.*"


def _paths(bundle: Path) -> str:
    for path in sorted((bundle / "configs").iterdir()):
        found = _PERSONAL.search(path.read_text(encoding="utf-8"))
        if found is not None:
            _fail(f"configs/{path.name} has the path of a machine: {found[1]}")
    return "none of a machine in configs"


def _code(bundle: Path) -> str:
    files = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*.py"))
    if files:
        _fail(f"a release holds no code, found {', '.join(files[:4])}")
    return "no Python files, so nothing for flake8, black, isort and pytype"
