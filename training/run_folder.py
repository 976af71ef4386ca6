"""The folder of a run: what it was made with, for resuming, evaluating and predicting.

``run.json`` (settings, task, data, split, network, versions, commit), ``config.yaml`` (as merged),
``adapter_best.safetensors``, ``adapter_last.safetensors``, ``checkpoint.pt`` (to resume from),
``curve.csv``, ``resources.json``, ``tensorboard/``.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from samtune.atomic import write_atomically
from samtune.networks.weights import find_checkpoint, sha256_of
from samtune.peft.adapter_file import BASE_DEFAULTS, base_config, completed
from samtune.preprocessing.manifest import Manifest
from samtune.training.bundle_call import merged_config
from samtune.training.distributed import main_only, world_size
from samtune.training.joined import JoinedManifest, slices_hash
from samtune.training.network import AdaptedSegmenter, build_network, network_from_adapter
from samtune.training.own_manifest import OwnManifest
from samtune.training.paths import adapter_path
from samtune.training.prompt_plan import PromptPlan, plan_of_settings
from samtune.training.run_record import (
    FILES,
    FORMAT_VERSION,
    LATER_SETTINGS,
    RUN_FILE,
    flat,
    git_state,
    may_differ,
    read_record,
    versions,
    warn_of_versions,
)
from samtune.training.task import Task

CONFIG_FILE = "config.yaml"
MODELS = "models"  # where a bundle has it

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
        self.files = {
            key: sha256_of(Path(self.settings[key])) for key in FILES if self.settings.get(key)
        }
        self.manifest = manifest
        self.task = task
        self.network = network

    def _slices_hash(self) -> str | list[str]:
        return slices_hash(self.manifest)

    def _folders(self) -> str | list[str] | None:
        if isinstance(self.manifest, OwnManifest):
            return self.manifest.source
        if isinstance(self.manifest, JoinedManifest):
            return [str(part.manifest.root.resolve()) for part in self.manifest.parts]
        return str(self.manifest.root.resolve())

    @main_only  # the others join this process after it
    def start(self) -> None:
        """Check the folder, log the parameter counts, write ``run.json`` and ``config.yaml``.

        Raises:
            FileExistsError: the folder holds a run with other settings; names the keys.
        """
        file = self.path / RUN_FILE
        before = read_record(file) if file.is_file() else None
        if before is not None:
            different = self._differences(before)
            if different and self._binds():
                msg = (
                    f"'{self.path}' holds another run: {'; '.join(different)}; choose another "
                    "run_name, or remove the folder"
                )
                raise FileExistsError(msg)
        record = self._record(self.run_id)
        if before is not None and self._binds():
            warn_of_versions(before.get("versions", {}), record["versions"])
        logger.info("%s", self.network.summary)
        text = json.dumps(record, indent=2, sort_keys=True)
        write_atomically(file, (text + "\n").encode())
        config = merged_config()
        if config is not None:
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
            write_atomically(self.path / CONFIG_FILE, text.encode())

    @property
    def run_id(self) -> str:
        """Hash of all that decides what is learned; a run keeps the one that it began with."""
        file = self.path / RUN_FILE
        if file.is_file() and self._binds():
            before = read_record(file)
            if "run_id" in before and not self._differences(before):
                return str(before["run_id"])
        parts = {
            "settings": {k: v for k, v in flat(self.settings).items() if not may_differ(k)},
            "task": self.task.to_dict(),
            "slices": self._slices_hash(),
            "base": [self.network.base_sha256, self.network.normalization],
            "files": self.files,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def _binds(self) -> bool:
        """Whether anything was learned: settings of a run that saved nothing bind nobody."""
        names = ("adapter_*.safetensors", "checkpoint.pt")
        return any(file for name in names for file in self.path.glob(name))

    def _differences(self, before: Mapping[str, Any]) -> list[str]:
        """What is other than in the ``run.json`` that is there, by key."""
        was = flat(LATER_SETTINGS) | flat(before["settings"])
        now = flat(LATER_SETTINGS) | flat(self.settings)
        hashed = before.get("files", {})  # older runs: none, the paths are compared
        different = [
            f"{key} was {was.get(key)!r}, now {now.get(key)!r}"
            for key in sorted(set(was) | set(now))
            if not may_differ(key) or (key in FILES and key not in hashed)
            if was.get(key) != now.get(key)
        ]
        different += [
            f"{key} had SHA-256 {digest}, now {self.files.get(key)}"
            for key, digest in hashed.items()
            if digest != self.files.get(key)
        ]
        task = self.task.to_dict()
        different += [
            f"{key} were {before['task'].get(key)}, now {task.get(key)}"
            for key in {**task, **before["task"]}
            if before["task"].get(key) != task.get(key)
        ]
        weights = before["network"].get("base_sha256")
        if weights != self.network.base_sha256:
            different.append(f"base weights had SHA-256 {weights}, now {self.network.base_sha256}")
        entered = before["network"].get("normalization")
        if entered != self.network.normalization:
            different.append(f"normalization was {entered}, now {self.network.normalization}")
        if before["data"]["slices"] != self._slices_hash():
            different.append("the slices are others than those it was trained on")
        return different

    def _record(self, run_id: str) -> dict[str, Any]:
        split: dict[str, list[str]] = {}
        for row in self.manifest.slices:
            cases = split.setdefault(row.split, [])
            if not cases or cases[-1] != row.case:
                cases.append(row.case)
        commit, dirty = git_state()
        return {
            "format_version": FORMAT_VERSION,
            "run_id": run_id,
            "settings": self.settings,
            "files": self.files,
            "task": self.task.to_dict(),
            "data": {
                "dataset_dir": self._folders(),
                "slices": self._slices_hash(),
                **{k: self.manifest.settings[k] for k in ("modality", "intensity", "axis")},
                "slicing": self.manifest.settings.get("slicing", {}),
                "split": {name: sorted(set(cases)) for name, cases in split.items()},
            },
            "network": {**base_config(self.network), "peft": self.network.peft},
            "parameters": {
                "trainable": self.network.summary.trainable,
                "total": self.network.summary.total,
            },
            "versions": versions(),
            "git_commit": commit,
            "git_dirty": dirty,
            "processes": world_size(),
            "command": sys.argv,
        }


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
    def prompts(self) -> PromptPlan | None:
        """The prompts it was trained with; ``None``: none."""
        settings = self.record["settings"].get("prompts")
        return None if settings in (None, "none") else plan_of_settings(settings, self.task)

    def _untouched(self, checkpoint: str | Path | None) -> AdaptedSegmenter:
        if self.prompts is None:
            msg = (
                f"run '{self.path}' was trained without prompts: untouched it has no classes, "
                "adapter must be 'best' or 'last'"
            )
            raise ValueError(msg)
        base = self.record["network"]
        names = ("arch", "image_size", "normalization", "num_classes")
        network = build_network(
            checkpoint=checkpoint, prompts=self.prompts.kind, **{name: base[name] for name in names}
        )
        if network.base_sha256 != base["base_sha256"]:
            msg = (
                f"base weights have SHA-256 {network.base_sha256}, run '{self.path}' was trained "
                f"on {base['base_sha256']}"
            )
            raise ValueError(msg)
        return network.eval()

    def check_prompt_free(self) -> None:
        """Refuse a run that can't segment without prompts.

        Raises:
            ValueError: it was trained with prompts.
        """
        if self.prompts is not None:
            msg = (
                f"run '{self.path}' was trained with prompts ({self.prompts.kind}) and segments "
                "nothing without: give prompts, or train a run without prompted.yaml"
            )
            raise ValueError(msg)

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
            which: ``best`` or ``last``; ``none``: untouched, of a run with prompts.
            checkpoint: base weights; ``None``: those it was trained with.

        Raises:
            FileNotFoundError: that adapter was not written yet.
            ValueError: it is of another run; says what differs.
        """
        if which not in ("best", "last", "none"):
            msg = f"adapter must be 'best', 'last' or, with prompts, 'none', got '{which}'"
            raise ValueError(msg)
        if checkpoint is None:
            checkpoint = self.record["settings"].get("checkpoint")
            for folder in (self.path, self.path.parent):  # models/ of a bundle, or above its folds
                if checkpoint is not None and (folder / str(checkpoint)).is_file():
                    checkpoint = folder / str(checkpoint)
        if which == "none":
            return self._untouched(checkpoint)
        file = adapter_path(self.path, which)
        network, adapter = network_from_adapter(file, checkpoint=checkpoint)
        recorded = dict(self.record["network"])
        found = {**BASE_DEFAULTS, **adapter.base, **flat({"peft": completed(adapter.peft)})}
        expected = {**BASE_DEFAULTS, **recorded, **flat({"peft": completed(recorded.pop("peft"))})}
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
    """Read the folder of a run, or of a released bundle.

    Raises:
        FileNotFoundError: no ``run.json`` there.
    """
    path = Path(path)
    if (path / MODELS / RUN_FILE).is_file():
        path = path / MODELS
    file = path / RUN_FILE
    if not file.is_file():
        msg = f"'{path}' is not the folder of a run: it has no {RUN_FILE}"
        if str(path) == MODELS:  # of the config of a bundle
            msg += "; start in the bundle's folder, or name it (--bundle_root)"
        raise FileNotFoundError(msg)
    record = read_record(file)
    return TrainedRun(path, record, Task.from_dict(record["task"]))
