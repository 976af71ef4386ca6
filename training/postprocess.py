"""Removal of stray objects from predictions, chosen class by class on validation cases alone."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt

from samtune.atomic import write_atomically
from samtune.evaluation.dice import dice_score
from samtune.networks.weights import sha256_of
from samtune.training.paths import adapter_path
from samtune.training.run_folder import TrainedRun

FILE = "postprocessing.json"
FORMAT_VERSION = 1
SPLIT = "val"  # never another: what is chosen on a split says nothing about it
NONE, LARGEST = "none", "keep_largest"
SMALLEST_MM3 = (10.0, 30.0, 100.0, 300.0, 1000.0)
# smallest rise of the mean Dice that counts, so that rounding chooses nothing
MIN_RISE = 1e-6

Array = npt.NDArray[Any]
logger = logging.getLogger(__name__)


def candidates() -> list[str]:
    """What is tried for each class, the least invasive first."""
    return [NONE, *(f"remove_below_{size:g}_mm3" for size in SMALLEST_MM3), LARGEST]


def clean(mask: Array, step: str, spacing: Sequence[float]) -> Array:
    """A mask without the objects that a step removes; connectivity 26.

    Args:
        mask: ``i j k`` bool.
        step: one of :func:`candidates`. Of equally large objects ``keep_largest`` keeps the one
            that comes first in the array; ``remove_below_X_mm3`` keeps those of X mm3.
        spacing: mm, one entry an axis.

    Raises:
        ValueError: no such step.
    """
    if step not in candidates():
        msg = f"unknown post-processing '{step}', expected one of: {', '.join(candidates())}"
        raise ValueError(msg)
    if step == NONE or not mask.any():
        return mask
    parts = cc3d.connected_components(np.ascontiguousarray(mask, np.uint8), connectivity=26)
    sizes = np.bincount(parts.ravel())[1:]
    if step == LARGEST:
        kept = [int(sizes.argmax()) + 1]
    else:
        smallest = float(step.removeprefix("remove_below_").removesuffix("_mm3"))
        voxel_mm3 = float(np.prod(spacing))
        # spacing is stored as float32: an object of just that size is kept
        kept = (np.flatnonzero(sizes * voxel_mm3 >= smallest * (1 - 1e-6)) + 1).tolist()
    out: Array = np.isin(parts, kept)
    return out


@dataclass(frozen=True)
class Postprocessing:
    """The step of each class.

    Attributes:
        steps: class value to step; classes that aren't there are left as they are.
        source: where the choice stands, for a companion file.
    """

    steps: dict[int, str]
    source: str = ""

    def __call__(self, label: Array, spacing: Sequence[float]) -> Array:
        """``label`` (``i j k`` class values) without what the steps remove, which becomes 0."""
        out = label
        for value, step in self.steps.items():
            mask = label == value
            removed = mask & ~clean(mask, step, spacing)
            if removed.any():
                out = np.where(removed, label.dtype.type(0), out)
        return out

    def describe(self, classes: Mapping[int, str]) -> dict[str, str]:
        """Class name to step."""
        return {name: self.steps.get(value, NONE) for value, name in classes.items()}


class CandidateScores:
    """Dice of each validation case, class and candidate.

    Args:
        classes: class value to name.
    """

    def __init__(self, classes: Mapping[int, str]) -> None:
        self.classes = dict(classes)
        self.cases: dict[str, dict[str, dict[str, float | None]]] = {}

    def add(
        self,
        case: str,
        pred: Array,
        label: Array,
        spacing: Sequence[float],
        *,
        annotated: Sequence[int] | None = None,
        judged: Array | None = None,
    ) -> None:
        """Score a case; a class in neither mask, or not annotated there, does not count.

        Args:
            case, pred, label, spacing: class values ``i j k`` on one grid, mm.
            annotated: class values that the label holds where they are; ``None``: all.
            judged: voxels that somebody labelled, the others are in neither mask.
        """
        judged = np.ones(label.shape, bool) if judged is None else judged
        self.cases[case] = {}
        for value, name in self.classes.items():
            known = annotated is None or value in annotated
            truth, mask = label == value, pred == value
            scores = {
                step: dice_score(clean(mask, step, spacing) & judged, truth)
                if known
                else float("nan")
                for step in candidates()
            }
            # a mask that is removed whole where there is nothing: right, but no Dice
            if known and not truth.any() and (mask & judged).any():
                scores = {k: 1.0 if np.isnan(v) else v for k, v in scores.items()}
            self.cases[case][name] = {k: None if np.isnan(v) else v for k, v in scores.items()}

    def record(self) -> dict[str, Any]:
        """JSON-able form, with the mean of each candidate and the choice."""
        means, chosen = choose(self.cases, list(self.classes.values()))
        return {"cases": self.cases, "mean_dice": means, "chosen": chosen}


def choose(
    cases: Mapping[str, Mapping[str, Mapping[str, float | None]]], names: Sequence[str]
) -> tuple[dict[str, dict[str, float | None]], dict[str, str]]:
    """Mean Dice of each class and candidate over the cases, and the candidate of each class.

    A step is chosen if it raises the mean; of equal ones the least invasive.
    """
    means: dict[str, dict[str, float | None]] = {}
    chosen: dict[str, str] = {}
    for name in names:
        means[name] = {}
        for step in candidates():
            known = [v for one in cases.values() if (v := one[name][step]) is not None]
            means[name][step] = float(np.mean(known)) if known else None
        chosen[name] = NONE
        best = means[name][NONE]
        for step in candidates():
            value = means[name][step]
            if value is not None and best is not None and value > best + MIN_RISE:
                chosen[name], best = step, value
    return means, chosen


def write_choice(run: TrainedRun, adapter: str, scores: CandidateScores) -> Path:
    """Write ``postprocessing.json`` of a run."""
    record = {
        "format_version": FORMAT_VERSION,
        "adapter": adapter,
        "adapter_sha256": sha256_of(adapter_path(run.path, adapter)),
        "split": SPLIT,
        **scores.record(),
    }
    path = run.path / FILE
    write_atomically(path, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
    return path


def load_postprocessing(
    runs: Sequence[TrainedRun], adapter: str, *, use: bool = True
) -> Postprocessing | None:
    """What was chosen for a run; of an ensemble, what is best over the members' cases together.

    Args:
        runs: the members.
        adapter: ``best`` or ``last``: a choice made for the other one isn't used.
        use: ``False``: nothing is done.

    Returns:
        ``None`` where nothing was chosen for one of the runs.

    Raises:
        ValueError: a file is damaged, or of weights that have changed since.
    """
    if not use:
        return None
    pooled: dict[str, Any] = {}
    for number, run in enumerate(runs):
        record = _read(run, adapter)
        if record is None:
            if number > 0:
                logger.warning("no %s for '%s': the ensemble goes without", FILE, run.path)
            return None
        pooled |= {f"{number}/{case}": scores for case, scores in record["cases"].items()}
    classes = runs[0].task.classes
    _, chosen = choose(pooled, list(classes.values()))
    steps = {value: chosen[name] for value, name in classes.items() if chosen[name] != NONE}
    return Postprocessing(steps, ", ".join(str(run.path / FILE) for run in runs))


def _read(run: TrainedRun, adapter: str) -> dict[str, Any] | None:
    path = run.path / FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        version, chosen_for = record["format_version"], record["adapter"]
        if version != FORMAT_VERSION:
            msg = f"format_version is {version}, this version reads {FORMAT_VERSION}"
            raise ValueError(msg)
        for name in run.task.classes.values():
            for case, scores in record["cases"].items():
                if set(scores[name]) != set(candidates()):
                    msg = f"case '{case}', class '{name}' lacks candidates"
                    raise ValueError(msg)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"'{path}' can't be used ({error}); make it again: samtune postprocess {run.path}"
        raise ValueError(msg) from error
    if chosen_for != adapter:
        logger.warning("'%s' was chosen for adapter '%s', not used", path, chosen_for)
        return None
    if record["adapter_sha256"] != sha256_of(adapter_path(run.path, adapter)):
        msg = (
            f"'{path}' was chosen for other weights than those of the run now: make it again with "
            f"samtune postprocess {run.path}, or predict without post-processing"
        )
        raise ValueError(msg)
    return dict(record)
