"""The folder of a run: what it was made with, for resuming, evaluating and predicting.

``run.json`` (settings, task, data, network, versions, commit), ``adapter_best.safetensors``,
``adapter_last.safetensors``, ``checkpoint.pt`` (to resume from), ``curve.csv``, ``tensorboard/``.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from samtune import __version__
from samtune.atomic import write_atomically
from samtune.networks.weights import find_checkpoint, sha256_of
from samtune.peft.adapter_file import BASE_DEFAULTS, base_config, completed
from samtune.preprocessing.manifest import MANIFEST_NAME, Manifest
from samtune.training.distributed import main_only, world_size
from samtune.training.joined import JoinedManifest
from samtune.training.network import AdaptedSegmenter, network_from_adapter
from samtune.training.task import Task

FORMAT_VERSION = 1
RUN_FILE = "run.json"
# settings that don't change what is learned at an epoch, or only how far it goes; a checkpoint is
# compared by its weights, wherever it lies, a normalization by what came of it; cached features are
# the same wherever they lie
MAY_DIFFER = (
    "cache_dir",
    "cache_max_gib",
    "checkpoint",
    "device",
    "epochs",
    "normalization",
    "num_workers",
)
# settings that older runs lack, with what they did
LATER_SETTINGS = {"activation": "softmax", "neighbours": 0, "sampler": "all"}
_LIBRARIES = ("torch", "monai", "pytorch-ignite", "segment-anything", "numpy")

logger = logging.getLogger(__name__)


class RunFolder:
    """Writes ``run.json``; refuses a folder that holds another run.

    Args:
        path: the folder.
        settings: what a user varies, by config key.
        manifest, task, network: what is trained.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        settings: Mapping[str, Any],
        manifest: Manifest,
        task: Task,
        network: AdaptedSegmenter,
    ) -> None:
        self.path = Path(path)
        self.settings = json.loads(json.dumps(dict(settings), default=str))
        if self.settings.get("checkpoint") not in (None, "random"):
            # found again when the run is evaluated from another folder
            self.settings["checkpoint"] = str(
                find_checkpoint(self.settings["checkpoint"]).resolve()
            )
        self.manifest = manifest
        self.task = task
        self.network = network

    def _slices_hash(self) -> str | list[str]:
        if isinstance(self.manifest, JoinedManifest):
            roots = [part.manifest.root for part in self.manifest.parts]
            return [sha256_of(root / MANIFEST_NAME) for root in roots]
        return sha256_of(self.manifest.root / MANIFEST_NAME)

    def _folders(self) -> str | list[str]:
        if isinstance(self.manifest, JoinedManifest):
            return [str(part.manifest.root.resolve()) for part in self.manifest.parts]
        return str(self.manifest.root.resolve())

    @main_only  # the others join this process after it
    def start(self) -> None:
        """Check the folder, log the parameter counts, write ``run.json``.

        Raises:
            FileExistsError: the folder holds a run with other settings; names the keys.
        """
        file = self.path / RUN_FILE
        if file.is_file():
            before = _read(file)
            was = LATER_SETTINGS | _flat(before["settings"])
            now = LATER_SETTINGS | _flat(self.settings)
            different = [
                f"{key} was {was.get(key)!r}, now {now.get(key)!r}"
                for key in sorted(set(was) | set(now))
                if key not in MAY_DIFFER and was.get(key) != now.get(key)
            ]
            task = self.task.to_dict()
            different += [
                f"{key} were {before['task'].get(key)}, now {task.get(key)}"
                for key in {**task, **before["task"]}
                if before["task"].get(key) != task.get(key)
            ]
            weights = before["network"].get("base_sha256")
            if weights != self.network.base_sha256:
                different.append(
                    f"base weights had SHA-256 {weights}, now {self.network.base_sha256}"
                )
            entered = before["network"].get("normalization")
            if entered != self.network.normalization:
                different.append(f"normalization was {entered}, now {self.network.normalization}")
            if before["data"]["slices"] != self._slices_hash():
                different.append("the slices are others than those it was trained on")
            # settings of a run that never got to the end of an epoch bind nobody
            if different and any(self.path.glob("adapter_*.safetensors")):
                msg = (
                    f"'{self.path}' holds another run: {'; '.join(different)}; choose another "
                    "run_name, or remove the folder"
                )
                raise FileExistsError(msg)
        logger.info("%s", self.network.summary)
        record = {
            "format_version": FORMAT_VERSION,
            "settings": self.settings,
            "task": self.task.to_dict(),
            "data": {
                "dataset_dir": self._folders(),
                "slices": self._slices_hash(),
                **{k: self.manifest.settings[k] for k in ("modality", "intensity", "axis")},
                "slicing": self.manifest.settings.get("slicing", {}),
            },
            "network": {**base_config(self.network), "peft": self.network.peft},
            "parameters": {
                "trainable": self.network.summary.trainable,
                "total": self.network.summary.total,
            },
            "versions": {"samtune": __version__, **{name: _version(name) for name in _LIBRARIES}},
            "git_commit": _git_commit(),
            "processes": world_size(),
            "command": sys.argv,
        }
        text = json.dumps(record, indent=2, sort_keys=True)
        write_atomically(file, (text + "\n").encode())


@dataclass(frozen=True)
class TrainedRun:
    """A finished or unfinished run as it lies on disk.

    Attributes:
        path: the folder.
        record: content of ``run.json``.
        task: what it segments.
    """

    path: Path
    record: dict[str, Any]
    task: Task

    @property
    def dataset_dir(self) -> str | list[str]:
        """Slices it was trained on; a list of joined folders."""
        folders = self.record["data"]["dataset_dir"]
        return [str(one) for one in folders] if isinstance(folders, list) else str(folders)

    @property
    def intensity(self) -> dict[str, Any]:
        """Intensity step of its training data."""
        return dict(self.record["data"]["intensity"])

    @property
    def slicing(self) -> dict[str, Any]:
        """How the slices it was trained on were cut, beside the axis."""
        return dict(self.record["data"].get("slicing", {}))  # older runs have none

    @property
    def neighbours(self) -> int:
        """Distance of the slices that were read as first and third channel; 0: none."""
        return int(self.record["settings"].get("neighbours", 0))

    @property
    def axis(self) -> int | None:
        """RAS axis its training data was asked to be cut along, ``None``: the largest spacing's."""
        axis = self.record["data"]["axis"]
        return None if axis in (None, "auto") else int(axis)

    def network(
        self, which: str = "best", checkpoint: str | Path | None = None
    ) -> AdaptedSegmenter:
        """The trained network, ready to predict.

        Args:
            which: ``best`` or ``last``.
            checkpoint: base weights; ``None``: those it was trained with.

        Raises:
            FileNotFoundError: that adapter was not written yet.
            ValueError: it is of another run; says what differs.
        """
        if which not in ("best", "last"):
            msg = f"adapter must be 'best' or 'last', got '{which}'"
            raise ValueError(msg)
        if checkpoint is None:
            checkpoint = self.record["settings"].get("checkpoint")
        file = self.path / f"adapter_{which}.safetensors"
        network, adapter = network_from_adapter(file, checkpoint=checkpoint)
        recorded = dict(self.record["network"])
        found = {**BASE_DEFAULTS, **adapter.base, **_flat({"peft": completed(adapter.peft)})}
        expected = {**BASE_DEFAULTS, **recorded, **_flat({"peft": completed(recorded.pop("peft"))})}
        expected.pop("peft", None)
        different = [
            f"{key} is {found.get(key)} in the adapter, {expected.get(key)} in {RUN_FILE}"
            for key in sorted(set(found) | set(expected))
            if found.get(key) != expected.get(key)
        ]
        if different:
            msg = f"'{file}' is not of this run: {'; '.join(different)}"
            raise ValueError(msg)
        return network


def load_run(path: str | Path) -> TrainedRun:
    """Read the folder of a run.

    Raises:
        FileNotFoundError: no ``run.json`` there.
    """
    path = Path(path)
    file = path / RUN_FILE
    if not file.is_file():
        msg = f"'{path}' is not the folder of a run: it has no {RUN_FILE}"
        raise FileNotFoundError(msg)
    record = _read(file)
    return TrainedRun(path, record, Task.from_dict(record["task"]))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping)
        out |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return out


def _read(file: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        msg = f"'{file}' is damaged: {error}"
        raise ValueError(msg) from error
    if not isinstance(record, dict):
        msg = f"'{file}' is damaged: expected a JSON object, found {type(record).__name__}"
        raise ValueError(msg)
    if record.get("format_version") != FORMAT_VERSION:
        msg = (
            f"'{file}' has format_version {record.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}"
        )
        raise ValueError(msg)
    needed = ("settings", "task", "data", "network")
    lacking = [key for key in needed if not isinstance(record.get(key), dict)]
    if lacking:
        msg = f"'{file}' is damaged: it lacks {', '.join(lacking)}"
        raise ValueError(msg)
    return record


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _git_commit() -> str | None:
    """Commit of the source checkout; ``None`` for an installed package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return None
    return done.stdout.strip() or None
