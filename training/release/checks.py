"""Whether a run may be released: finished, evaluated, on cases it has not seen."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samtune.networks.weights import sha256_of
from samtune.peft.adapter_file import AdapterFile, read_adapter
from samtune.preprocessing.manifest import MANIFEST_NAME
from samtune.training.joined import open_slices
from samtune.training.run_folder import TrainedRun, load_run

SPLIT = "test"
_EVALUATE = (
    "python -m monai.bundle run --config_file bundles/sam_finetune/configs/evaluate.yaml --run_dir"
)


class NotReleasableError(ValueError):
    """The run must not be released as it is; says why and what to do."""


@dataclass(frozen=True)
class CheckedRun:
    """A run that may be released.

    Attributes:
        run: its folder.
        adapter: the file that is released.
        rows: of ``metrics_test.csv``.
        companion: content of ``metrics_test.json``.
        cases: number of cases of each split.
        axes: RAS axes that its cases were cut along.
    """

    run: TrainedRun
    adapter: AdapterFile
    rows: list[dict[str, str]]
    companion: dict[str, Any]
    cases: dict[str, int]
    axes: list[int]


def check_run(
    path: str | Path, *, adapter: str = "best", slices: str | Path | None = None
) -> CheckedRun:
    """Read a run and refuse it if it isn't ready.

    Args:
        path: the folder.
        adapter: ``best`` or ``last``: which one is released.
        slices: folder of the slices it was trained on; ``None``: where they were.

    Raises:
        NotReleasableError: unfinished, not evaluated, or evaluated on cases it was trained or
            chosen on.
        FileNotFoundError, ValueError: the folder is no run, or damaged.
    """
    run = load_run(path)
    file = run.path / f"adapter_{adapter}.safetensors"
    last = run.path / "adapter_last.safetensors"
    epochs = int(run.record["settings"]["epochs"])
    done = int(read_adapter(last).extra.get("epoch", 0)) if last.is_file() else 0
    if done < epochs and not _stopped_early(run):
        msg = f"run '{run.path}' is unfinished: {done} of {epochs} epochs; go on with its command"
        raise NotReleasableError(msg)
    if adapter not in ("best", "last") or not file.is_file():
        msg = f"run '{run.path}' has no adapter '{adapter}' (best or last): no {file.name} there"
        raise NotReleasableError(msg)
    found = read_adapter(file)
    if found.base["base_sha256"] == "random":
        msg = f"run '{run.path}' was trained on random base weights, which nobody else has"
        raise NotReleasableError(msg)
    rows, companion = _metrics(run)
    protocol = companion.get("protocol") or {}
    if protocol.get("adapter", adapter) != adapter:
        msg = (
            f"run '{run.path}': metrics_{SPLIT}.csv is of adapter '{protocol['adapter']}', to be "
            f"released is '{adapter}'; do: {_EVALUATE} {run.path} --adapter {adapter}"
        )
        raise NotReleasableError(msg)
    cases, axes = _held_out(run, rows, slices)
    return CheckedRun(run, found, rows, companion, cases, axes)


def _stopped_early(run: TrainedRun) -> bool:
    """Whether another handler ended the training for good."""
    file = run.path / "checkpoint.pt"
    if not file.is_file():
        return False
    state = torch.load(file, map_location="cpu", weights_only=True)
    return bool(state.get("finished", False))


def _metrics(run: TrainedRun) -> tuple[list[dict[str, str]], dict[str, Any]]:
    table = run.path / f"metrics_{SPLIT}.csv"
    needed = [table, table.with_suffix(".json"), table.with_name(f"{table.stem}_summary.csv")]
    lacking = [file.name for file in needed if not file.is_file()]
    if lacking:
        msg = f"run '{run.path}' was not evaluated: no {lacking[0]}; do: {_EVALUATE} {run.path}"
        raise NotReleasableError(msg)
    try:
        companion = json.loads(needed[1].read_bytes())
    except ValueError as error:
        msg = f"'{needed[1]}' is damaged: {error}"
        raise ValueError(msg) from error
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or companion.get("complete") is False:
        msg = f"run '{run.path}': its evaluation is unfinished; do again: {_EVALUATE} {run.path}"
        raise NotReleasableError(msg)
    return rows, companion


def _held_out(
    run: TrainedRun, rows: list[dict[str, str]], slices: str | Path | None
) -> tuple[dict[str, int], list[int]]:
    """Number of cases a split, and the cases' axes; raises where scored cases were not held out."""
    given = run.dataset_dir if slices is None else str(slices)
    folders = given if isinstance(given, list) else [given]
    files = [Path(folder) / MANIFEST_NAME for folder in folders]
    absent = [file for file in files if not file.is_file()]
    if absent:
        msg = (
            f"'{absent[0].parent}', the slices of run '{run.path}', are not there: without them "
            "nobody can tell whether the scored cases were held out; name their folder (--slices)"
        )
        raise NotReleasableError(msg)
    hashes = [sha256_of(file) for file in files]
    recorded = run.record["data"]["slices"]
    if (hashes if isinstance(recorded, list) else hashes[0]) != recorded:
        msg = (
            f"the slices in '{folders[0]}' are others than those that run '{run.path}' was trained "
            "on; name the folder as it was (--slices)"
        )
        raise NotReleasableError(msg)
    manifest = open_slices(given, classes=run.task.classes)
    seen = {case: record for case, record in manifest.cases.items() if record.split != SPLIT}
    scored = sorted({row["case"] for row in rows})
    for split, what in (("train", "trained on"), ("val", "chosen by")):
        bad = [case for case in scored if case in seen and seen[case].split == split]
        if bad:
            msg = (
                f"run '{run.path}' was evaluated on {len(bad)} cases that it was {what} "
                f"({', '.join(bad[:4])}): these are no test cases; evaluate the test split: "
                f"{_EVALUATE} {run.path}"
            )
            raise NotReleasableError(msg)
    patients = {record.patient for record in seen.values() if record.patient is not None}
    shared = [c for c in scored if c in manifest.cases and manifest.cases[c].patient in patients]
    if shared:
        msg = (
            f"run '{run.path}': test case {shared[0]} is of a patient that it was trained on; "
            "split by patient ('samtune split')"
        )
        raise NotReleasableError(msg)
    splits = [record.split for record in manifest.cases.values()]
    axes = sorted({record.geometry.axis for record in manifest.cases.values()})
    return {split: splits.count(split) for split in ("train", "val", SPLIT)}, axes
