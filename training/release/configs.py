"""Frozen configs of a bundle: the training definition as it was for a run, without its paths."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from samtune import __version__
from samtune.atomic import write_atomically
from samtune.training.paths import BUNDLES
from samtune.training.release.config_text import drop_keys, set_header, set_keys
from samtune.training.release.portable import SLICES, base_name, without_paths
from samtune.training.run_folder import CONFIG_FILE, TrainedRun

BASE = BUNDLES / "sam_finetune"
MODELS = "$@bundle_root + '/models'"
OUTPUT = "$@bundle_root + '/eval'"
SAMPLE_IMAGES = "sample/images"


def write_configs(bundle: Path, runs: Sequence[TrainedRun], *, name: str, sample: bool) -> None:
    """Write ``configs/{train,evaluate,inference}.yaml`` and ``logging.conf``.

    Members of an ensemble that were trained otherwise than the first one have a
    ``train_fold_N.yaml`` of their own.

    Args:
        bundle: folder of the bundle.
        runs: what is released.
        name: of the bundle.
        sample: it has a sample, which ``inference.yaml`` segments unless told otherwise.
    """
    folder = bundle / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(BASE / "configs/logging.conf", folder / "logging.conf")
    run = {"bundle_root": ".", "run_dir": MODELS, "checkpoint": None, "output_dir": OUTPUT}
    place = "from inside the bundle; from elsewhere add --bundle_root BUNDLE"
    scans = f"$@bundle_root + '/{SAMPLE_IMAGES}'" if sample else "."
    command = "  python -m monai.bundle run --config_file configs"
    written: list[str] = []
    for number, one in enumerate(runs):
        title = "train" if number == 0 else f"train_fold_{number}"
        header = [
            f"How {name} was trained, as one file; {place}:",
            f"  python -m monai.bundle run training --config_file configs/{title}.yaml"
            " --dataset_dir SLICES",
        ]
        text = train_text(one, name=name)
        if text not in written:
            written.append(text)
            write_atomically(folder / f"{title}.yaml", set_header(text, header).encode())
    changes: dict[str, tuple[dict[str, Any], list[str]]] = {
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


def train_text(run: TrainedRun, *, name: str) -> str:
    """``train.yaml`` with all keys that a run's merged config has, as it has them.

    The text is that of the bundle's config: comments stay where a key is there too. Values that
    were found out, such as ``arch: auto``, are written out: with other slices they might come to
    something else. Files are named without their folders.

    Raises:
        ValueError: the run's config is damaged.
    """
    path = run.path / CONFIG_FILE
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or "run_folder" not in config:
        msg = f"'{path}' is damaged: expected the keys of a training config"
        raise ValueError(msg)
    text = (BASE / "configs/train.yaml").read_text(encoding="utf-8")
    base = yaml.safe_load(text)
    task, network = run.record["task"], run.record["network"]
    joined = without_paths(config.get("dataset_dir"))  # folders with their weights
    hints = needs_samtune()
    frozen: dict[str, Any] = {
        **_without_paths(config, set(_texts(base))),
        **{key: base[key] for key in ("runs_dir", "output_dir", "device", "source")},
        **{key: network[key] for key in ("arch", "image_size", "normalization")},
        "checkpoint": base_name(run),
        "cache_dir": None,
        "classes": {int(value): title for value, title in task["classes"].items()},
        "regions": {title: list(values) for title, values in task["regions"].items()},
        "bundle_root": ".",
        "dataset_dir": SLICES if isinstance(run.dataset_dir, str) else joined,
        "run_name": name,
    }
    if "channels" in task:
        frozen["channels"] = {one["name"]: list(one["labels"]) for one in task["channels"]}
        frozen["region_order"] = [one["painted"] for one in task["channels"]]
    steps = [step for step in frozen.get("initialize", []) if step not in hints]
    frozen["initialize"] = [*hints, *steps]
    text = drop_keys(text, [key for key in base if key not in frozen], name="train.yaml")
    changed = {k: v for k, v in frozen.items() if k not in base or v != base[k]}
    return set_keys(text, changed, name="train.yaml")


def _texts(value: Any) -> Iterator[str]:
    """All text in a config."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)
    elif isinstance(value, str):
        yield value


def _without_paths(value: Any, known: set[str]) -> Any:
    """:func:`without_paths`, but the texts of the bundle's config stay: '/curve.csv' is no path."""
    if isinstance(value, dict):
        return {key: _without_paths(one, known) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one, known) for one in value]
    return value if value in known else without_paths(value)
