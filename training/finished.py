"""A finished run that is started again says so before anything is built."""

import logging
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml

from samtune.networks.weights import find_checkpoint, find_weights, sha256_of
from samtune.peft.adapter_file import adapter_holds
from samtune.preprocessing.manifest import Manifest
from samtune.training.bundle_call import is_command, merged_config
from samtune.training.checkpoint import CHECKPOINT
from samtune.training.distributed import world_size
from samtune.training.joined import slices_hash
from samtune.training.paths import adapter_path
from samtune.training.run_folder import CONFIG_FILE
from samtune.training.run_record import FILES, MAY_DIFFER, RUN_FILE, read_record
from samtune.training.task import Task

logger = logging.getLogger(__name__)
# beside what may differ anyway: where the folder is, which is known
_PLACE = ("runs_dir", "run_name", "output_dir")
_COMPARED = ("checkpoint", "normalization")


def exit_if_finished(path: str | Path, epochs: int, manifest: Manifest, task: Task) -> None:
    """End a ``monai.bundle`` command whose run is finished, with exit code 0.

    Elsewhere than in that command, and in several processes, nothing is done: there the trainer
    says so. So it does wherever something differs from what the run was made with.

    Raises:
        SystemExit: 0.
    """
    if not is_command() or world_size() > 1:
        return
    config = merged_config()
    if config is None:
        return
    try:
        done = epochs_done(Path(path), int(epochs), manifest, task, config)
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, UnpicklingError) as error:
        logger.debug("'%s': %s", path, error)  # told by the part that stumbles over it
        return
    if done is not None:
        logger.info("finished: '%s' has %d epochs, nothing to do", path, done)
        raise SystemExit(0)


def epochs_done(
    path: Path, epochs: int, manifest: Manifest, task: Task, config: dict[str, Any]
) -> int | None:
    """Epochs of the finished run in a folder; ``None``: none is there that is surely this one.

    Surely: the merged config is the one that is kept there, and task, slices, weights and the
    other files are those of ``run.json``. No network is built.

    Raises:
        OSError, ValueError, KeyError, RuntimeError, EOFError, UnpicklingError: a file is missing or
            damaged.
    """
    if not (path / CHECKPOINT).is_file() or not (path / CONFIG_FILE).is_file():
        return None
    kept = yaml.safe_load((path / CONFIG_FILE).read_text(encoding="utf-8"))
    if _binding(kept) != _binding(yaml.safe_load(yaml.safe_dump(config))):
        return None
    record = read_record(path / RUN_FILE)
    now = {"task": task.to_dict(), "slices": slices_hash(manifest)}
    if now != {"task": record["task"], "slices": record["data"]["slices"]}:
        return None
    if not _files_are_those(record):
        return None
    state: dict[str, Any] = torch.load(
        path / CHECKPOINT, map_location="cpu", weights_only=True, mmap=True
    )
    ended = state.get("finished", False) or state["epoch"] >= epochs
    if not ended or "epoch_chance" in state or state["run_id"] != record["run_id"]:
        return None
    for which, extra in state["adapters"].items():
        if not adapter_holds(adapter_path(path, which), state["trained"], extra):
            return None  # a kill left it out
    return int(state["epoch"])


def _binding(config: dict[str, Any]) -> dict[str, Any]:
    free = (set(MAY_DIFFER) - set(_COMPARED)) | set(_PLACE)
    return {key: value for key, value in config.items() if key not in free}


def _files_are_those(record: dict[str, Any]) -> bool:
    settings, network = record["settings"], record["network"]
    given = settings.get("checkpoint")
    if given != "random":
        file = find_weights(network["arch"]) if given is None else find_checkpoint(given)
        if sha256_of(file) != network["base_sha256"]:
            return False
    hashed = record.get("files", {})
    return all(
        sha256_of(Path(settings[key])) == hashed.get(key) for key in FILES if settings.get(key)
    )
