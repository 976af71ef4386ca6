"""Whether a run may be released: finished, evaluated, on cases it has not seen."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samtune.networks.weights import sha256_of
from samtune.peft.adapter_file import AdapterFile, read_adapter
from samtune.preprocessing.manifest import MANIFEST_NAME
from samtune.training.joined import JoinedManifest, open_slices
from samtune.training.own_manifest import OwnManifest
from samtune.training.paths import adapter_path
from samtune.training.postprocess import NONE, load_postprocessing
from samtune.training.run_folder import CONFIG_FILE, TrainedRun
from samtune.training.run_record import read_object

SPLIT = "test"
TABLE = f"metrics_{SPLIT}.csv"
_EVALUATE = (
    "python -m monai.bundle run --config_file bundles/sam_finetune/configs/evaluate.yaml --run_dir"
)


class NotReleasableError(ValueError):
    """The run must not be released as it is; says why and what to do."""


@dataclass(frozen=True)
class Scores:
    """A table of metrics.

    Attributes:
        folder: where it lies.
        rows: of ``metrics_test.csv``.
        companion: content of ``metrics_test.json``.
    """

    folder: Path
    rows: list[dict[str, str]]
    companion: dict[str, Any]

    @property
    def cases(self) -> list[str]:
        """The scored cases, sorted."""
        return sorted({row["case"] for row in self.rows})

    @property
    def protocol(self) -> dict[str, Any]:
        """How the scored masks came about."""
        return dict(self.companion.get("protocol") or {})


@dataclass(frozen=True)
class Slices:
    """Cases that a run was made with.

    Attributes:
        splits: split to its cases.
        axes: RAS axes that they were cut along.
        patients: of the cases, where one is known.
        settings: of the manifest; ``None`` of several folders, and of a user's own dataset.
    """

    splits: dict[str, set[str]]
    axes: set[int]
    patients: dict[str, str]
    settings: dict[str, Any] | None


def check_finished(run: TrainedRun, adapter: str) -> AdapterFile:
    """The adapter to be released.

    Raises:
        NotReleasableError: unfinished, on random base weights, without that adapter or its config.
        ValueError: it needs prompts.
    """
    file, last = (adapter_path(run.path, which) for which in (adapter, "last"))
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
    if not (run.path / CONFIG_FILE).is_file():
        msg = (
            f"run '{run.path}' has no {CONFIG_FILE}, so nobody can tell how it was trained: it is "
            "of an older samtune; train it again"
        )
        raise NotReleasableError(msg)
    run.check_prompt_free()
    return found


def read_scores(folder: Path, what: str, *, evaluate: str) -> Scores:
    """Table and companion of an evaluation.

    Args:
        what: was evaluated, for errors.
        evaluate: arguments of ``evaluate.yaml`` that make the table.

    Raises:
        NotReleasableError: there is no finished table.
    """
    table = folder / TABLE
    needed = [table, table.with_suffix(".json"), table.with_name(f"{table.stem}_summary.csv")]
    lacking = [file.name for file in needed if not file.is_file()]
    if lacking:
        msg = f"{what} was not evaluated: no {lacking[0]}; do: {_EVALUATE} {evaluate}"
        raise NotReleasableError(msg)
    companion = read_object(needed[1])
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or companion.get("complete") is False:
        msg = f"{what}: its evaluation is unfinished; do again: {_EVALUATE} {evaluate}"
        raise NotReleasableError(msg)
    return Scores(folder, rows, companion)


def check_scored_as_released(
    scores: Scores, runs: Sequence[TrainedRun], adapter: str, *, evaluate: str
) -> None:
    """Whether a table is of what the bundle will predict.

    Raises:
        NotReleasableError: it is of another adapter, another number of runs, of flipped views, or
            with other post-processing than the runs bring along.
    """
    protocol, table = scores.protocol, f"'{scores.folder / TABLE}'"
    again = f"do: {_EVALUATE} {evaluate}"
    if protocol.get("adapter", adapter) != adapter:
        msg = (
            f"{table} is of adapter '{protocol['adapter']}', to be released is '{adapter}'; "
            f"{again} --adapter {adapter}"
        )
        raise NotReleasableError(msg)
    members = protocol.get("ensemble") or [protocol.get("run", runs[0].path.name)]
    found = sorted(Path(str(one)).name for one in members)
    expected = sorted(run.path.resolve().name for run in runs)
    if len(found) != len(expected) or (len(found) > 1 and found != expected):
        msg = (
            f"{table} is of {_counted(found)}, to be released is {_counted(expected)}; "
            f"{again} --adapter {adapter}"
        )
        raise NotReleasableError(msg)
    if protocol.get("flips", "none") != "none":
        msg = (
            f"{table} is of the mean over flips '{protocol['flips']}', which a bundle does not "
            f"take unless told; {again} --adapter {adapter} --flips none"
        )
        raise NotReleasableError(msg)
    steps = load_postprocessing(runs, adapter)
    now = {} if steps is None else steps.describe(runs[0].task.classes)
    if _steps(now) != _steps(protocol.get("postprocess") or {}):
        msg = (
            f"{table} was made with post-processing {_steps(protocol.get('postprocess') or {})}, "
            f"released would be {_steps(now)}; {again} --adapter {adapter}"
        )
        raise NotReleasableError(msg)


def check_held_out(run: TrainedRun, cases: Sequence[str], slices: str | Path | None) -> Slices:
    """The cases that a run was made with.

    Args:
        cases: scored ones.
        slices: folder of the slices it was trained on; ``None``: where they were.

    Raises:
        NotReleasableError: a scored case was not held out, or nobody can tell.
    """
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
    for split, what in (("train", "trained on"), ("val", "chosen by")):
        bad = [case for case in cases if case in seen and seen[case].split == split]
        if bad:
            msg = (
                f"run '{run.path}' was evaluated on {len(bad)} cases that it was {what} "
                f"({', '.join(bad[:4])}): these are no test cases; evaluate the test split: "
                f"{_EVALUATE} {run.path}"
            )
            raise NotReleasableError(msg)
    patients = {record.patient for record in seen.values() if record.patient is not None}
    shared = [c for c in cases if c in manifest.cases and manifest.cases[c].patient in patients]
    if shared:
        msg = (
            f"run '{run.path}': test case {shared[0]} is of a patient that it was trained on; "
            "split by patient ('samtune split')"
        )
        raise NotReleasableError(msg)
    splits: dict[str, set[str]] = {"train": set(), "val": set(), SPLIT: set()}
    for case, record in manifest.cases.items():
        splits.setdefault(record.split, set()).add(case)
    known = {case: record.patient for case, record in manifest.cases.items()}
    return Slices(
        splits,
        {record.geometry.axis for record in manifest.cases.values()},
        {case: patient for case, patient in known.items() if patient is not None},
        None if isinstance(manifest, JoinedManifest | OwnManifest) else manifest.settings,
    )


def _stopped_early(run: TrainedRun) -> bool:
    """Whether another handler ended the training for good."""
    file = run.path / "checkpoint.pt"
    if not file.is_file():
        return False
    state = torch.load(file, map_location="cpu", weights_only=True)
    return bool(state.get("finished", False))


def _counted(names: Sequence[str]) -> str:
    return "one run" if len(names) == 1 else f"an ensemble of {', '.join(names)}"


def _steps(named: Mapping[str, str]) -> dict[str, str]:
    return {name: step for name, step in named.items() if step != NONE}
