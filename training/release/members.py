"""What a release is made of: one run, or an ensemble, with the table that says how good it is.

An ensemble has a table of its own where all members left the same cases out. Of a cross-validation
with a test fold for each member it has none: there each case's row is of the member that had not
seen it (out-of-fold).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from samtune.peft.adapter_file import AdapterFile
from samtune.training.ensemble import open_runs
from samtune.training.release.checks import (
    SPLIT,
    TABLE,
    NotReleasableError,
    Scores,
    Slices,
    check_finished,
    check_held_out,
    check_scored_as_released,
    read_scores,
)
from samtune.training.run_folder import TrainedRun
from samtune.training.run_record import RUN_FILE

ScoredBy = Literal["run", "ensemble", "out-of-fold"]


@dataclass(frozen=True)
class CheckedModel:
    """Runs that may be released together.

    Attributes:
        runs: one, or the members of an ensemble.
        adapters: the file of each that is released.
        scores: tables: one, or out-of-fold one a member.
        scored_by: what these are of.
        cases: number of cases of each split; of an ensemble, those of any member.
        slices: what each run was made with.
    """

    runs: list[TrainedRun]
    adapters: list[AdapterFile]
    scores: list[Scores]
    scored_by: ScoredBy
    cases: dict[str, int]
    slices: list[Slices]

    @property
    def run(self) -> TrainedRun:
        """The first one, for what all share."""
        return self.runs[0]

    @property
    def axes(self) -> list[int]:
        """RAS axes that the cases were cut along."""
        return sorted({axis for one in self.slices for axis in one.axes})

    @property
    def rows(self) -> list[dict[str, str]]:
        """Of all tables, by case."""
        rows = [row for scores in self.scores for row in scores.rows]
        return sorted(rows, key=lambda row: row["case"])  # stable: classes keep their order


def check_model(
    paths: Sequence[str | Path],
    *,
    adapter: str = "best",
    slices: Sequence[str | Path] | None = None,
    metrics: str | Path | None = None,
) -> CheckedModel:
    """Read one or more runs and refuse them if they aren't ready.

    Args:
        paths: folders of runs, or of the folds of a cross-validation.
        adapter: ``best`` or ``last``: which one is released.
        slices: for each run the folder of the slices it was trained on; ``None``: where they were.
        metrics: folder of the tables; ``None``: that of the run, of the folds, or each member's.

    Raises:
        NotReleasableError: unfinished, not evaluated, or evaluated on cases that a run was trained
            or chosen on; or the runs have different base weights.
        FileNotFoundError, ValueError: a folder is no run, or damaged; the runs don't fit together.
    """
    runs = open_runs(paths[0], list(paths[1:]))
    if slices is not None and len(slices) != len(runs):
        msg = f"{len(slices)} folders of slices for {len(runs)} runs; name one for each, in order"
        raise ValueError(msg)
    adapters = [check_finished(run, adapter) for run in runs]
    _check_one_base(runs)
    listed = " ".join(f"'{path}'" for path in paths)
    scores, scored_by = _scores(runs, Path(paths[0]), metrics, listed)
    for number, one in enumerate(scores):
        own = runs[number : number + 1] if scored_by == "out-of-fold" else runs
        check_scored_as_released(one, own, adapter, evaluate=_arguments(own))
    splits: dict[str, set[str]] = {}
    made_with: list[Slices] = []
    for number, run in enumerate(runs):
        table = scores[number if scored_by == "out-of-fold" else 0]
        found = check_held_out(run, table.cases, None if slices is None else slices[number])
        made_with.append(found)
        for split, cases in found.splits.items():
            splits[split] = splits.get(split, set()) | cases
    if len(runs) > 1:
        splits[SPLIT] = {case for one in scores for case in one.cases}
    numbers = {split: len(cases) for split, cases in splits.items()}
    return CheckedModel(runs, adapters, scores, scored_by, numbers, made_with)


def _arguments(runs: Sequence[TrainedRun]) -> str:
    first, *others = (str(run.path) for run in runs)
    return first if not others else f'{first} --ensemble "{others}" --output_dir METRICS'


def _check_one_base(runs: Sequence[TrainedRun]) -> None:
    first = runs[0].record["network"]
    for run in runs[1:]:
        network = run.record["network"]
        for key in ("arch", "base_sha256"):
            if network[key] != first[key]:
                msg = (
                    f"runs '{runs[0].path}' and '{run.path}' have different base weights "
                    f"({first[key]} and {network[key]}): a release has one; release them apart"
                )
                raise NotReleasableError(msg)


def _scores(
    runs: list[TrainedRun], first: Path, metrics: str | Path | None, listed: str
) -> tuple[list[Scores], ScoredBy]:
    if len(runs) == 1:
        run = runs[0]
        folder = run.path if metrics is None else Path(metrics)
        return [read_scores(folder, f"run '{run.path}'", evaluate=str(run.path))], "run"
    what = f"the ensemble of {listed}"
    if metrics is not None:
        return [read_scores(Path(metrics), what, evaluate=_arguments(runs))], "ensemble"
    # where evaluate.yaml writes the table of several runs
    is_run = (first / RUN_FILE).is_file()
    if (first / TABLE).is_file():
        scores = read_scores(first, what, evaluate=_arguments(runs))
        if not is_run or scores.protocol.get("ensemble"):
            return [scores], "ensemble"
    if not any((run.path / TABLE).is_file() for run in runs):
        how = _arguments(runs) if is_run else str(first)
        return [read_scores(first, what, evaluate=how)], "ensemble"  # there is none: says so
    tables = [read_scores(run.path, f"run '{run.path}'", evaluate=str(run.path)) for run in runs]
    _check_disjoint(tables, what, _arguments(runs))
    return tables, "out-of-fold"


def _check_disjoint(tables: Sequence[Scores], what: str, evaluate: str) -> None:
    where: dict[str, Path] = {}
    for table in tables:
        for case in table.cases:
            if case in where:
                msg = (
                    f"{what} was not evaluated, and its runs were scored on the same cases "
                    f"({case} in '{where[case]}' and '{table.folder}'): score the ensemble on them "
                    f"with evaluate.yaml --run_dir {evaluate} and name that folder (--metrics)"
                )
                raise NotReleasableError(msg)
            where[case] = table.folder
