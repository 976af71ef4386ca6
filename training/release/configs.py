"""Frozen configs of a bundle: the training definition with the values of one run in it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from samtune import __version__
from samtune.atomic import write_atomically
from samtune.training.paths import BUNDLES
from samtune.training.release.config_text import set_header, set_keys
from samtune.training.release.portable import SLICES
from samtune.training.run_folder import LATER_SETTINGS

BASE = BUNDLES / "sam_finetune"
MODELS = "$@bundle_root + '/models'"
OUTPUT = "$@bundle_root + '/eval'"
SAMPLE_IMAGES = "sample/images"


def write_configs(bundle: Path, record: Mapping[str, Any], *, name: str, sample: bool) -> None:
    """Write ``configs/{train,evaluate,inference}.yaml`` and ``logging.conf``.

    Args:
        bundle: folder of the bundle.
        record: portable content of ``run.json``.
        name: of the bundle.
        sample: it has a sample, which ``inference.yaml`` segments unless told otherwise.
    """
    folder = bundle / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(BASE / "configs/logging.conf", folder / "logging.conf")
    common = {"bundle_root": "."}
    run = {**common, "run_dir": MODELS, "checkpoint": None, "output_dir": OUTPUT}
    place = "from inside the bundle; from elsewhere add --bundle_root BUNDLE"
    scans = f"$@bundle_root + '/{SAMPLE_IMAGES}'" if sample else "."
    command = "  python -m monai.bundle run --config_file configs"
    changes: dict[str, tuple[dict[str, Any], list[str]]] = {
        "train": (
            {**train_settings(record), **common, "dataset_dir": SLICES, "run_name": name},
            [
                f"How {name} was trained, as one file; {place}:",
                "  python -m monai.bundle run training --config_file configs/train.yaml"
                " --dataset_dir SLICES",
            ],
        ),
        "evaluate": (
            {**run, "dataset_dir": SLICES},
            [
                f"Score {name} on a split of slices, each case on its own grid; {place}:",
                f"{command}/evaluate.yaml --dataset_dir SLICES",
            ],
        ),
        "inference": (
            {**run, "dataset_dir": scans},
            [
                f"Segment raw scans with {name}; {place}:",
                f"{command}/inference.yaml --dataset_dir SCANS --output_dir PREDICTIONS",
            ],
        ),
    }
    for config, (keys, header) in changes.items():
        text = (BASE / f"configs/{config}.yaml").read_text(encoding="utf-8")
        before = yaml.safe_load(text).get("initialize", [])
        keys["initialize"] = [*needs_samtune(), *before]
        text = set_header(set_keys(text, keys, name=f"{config}.yaml"), header)
        write_atomically(folder / f"{config}.yaml", text.encode())


def needs_samtune() -> list[str]:
    """First steps of a config: one line, not a trace, where samtune is missing or another one."""
    hint = f"this bundle needs samtune: pip install samtune=={__version__}"
    missing = "__import__('importlib.util').util.find_spec('samtune') is None"
    return [
        f"$__import__('sys').exit(\"{hint}\") if {missing} else None",
        "$__import__('samtune.training.release.versions').training.release.versions"
        f".check_samtune('{__version__}')",
    ]


def _with(section: Any, path: list[str], value: Any) -> Any:
    """A copy of ``section`` with another value at ``path``."""
    if not path:
        return value
    return {**section, path[0]: _with(section[path[0]], path[1:], value)}


def train_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of ``train.yaml`` with the values that a run had.

    The config names what it records under ``run_folder::settings``; a reference there
    (``'@epochs'``, ``'@flags::cache'``) is the key that had the value.

    Raises:
        ValueError: the run has a setting that ``train.yaml`` doesn't name.
    """
    base = yaml.safe_load((BASE / "configs/train.yaml").read_text(encoding="utf-8"))
    named = base["run_folder"]["settings"]
    settings = {**LATER_SETTINGS, **record["settings"]}
    unknown = sorted(set(settings) - set(named))
    if unknown:
        msg = (
            f"run.json has settings that train.yaml of samtune {__version__} doesn't record: "
            f"{', '.join(unknown)}; release with the version that trained it"
        )
        raise ValueError(msg)
    keys: dict[str, Any] = {}
    for name, reference in named.items():
        if name not in settings or name == "device":
            continue
        path = str(reference).removeprefix("@flags::").removeprefix("@").split("::")
        if path[0] not in base:  # an expression, such as $@task.activation
            path = [name]
        if path[0] in base:
            keys[path[0]] = _with(keys.get(path[0], base[path[0]]), path[1:], settings[name])
    # as found out, not as asked for: 'auto' may come to something else with other slices
    task, network = record["task"], record["network"]
    keys |= {key: network[key] for key in ("arch", "image_size", "normalization")}
    keys["classes"] = {int(value): name for value, name in task["classes"].items()}
    keys["regions"] = {name: list(values) for name, values in task["regions"].items()}
    if "channels" in task:
        keys["channels"] = {one["name"]: list(one["labels"]) for one in task["channels"]}
        keys["region_order"] = [one["painted"] for one in task["channels"]]
    return keys
