"""Validation Dice by case, on the case's own grid, as an Ignite metric."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ignite.engine import Engine
from ignite.metrics import Metric

from samtune.evaluation.dice import dice_score
from samtune.preprocessing.manifest import Manifest
from samtune.preprocessing.slicing import CaseGeometry
from samtune.training.case_stream import Array, CaseStream, assemble, reference_volume
from samtune.training.distributed import gather_rows
from samtune.training.joined import JoinedManifest
from samtune.training.task import Task


class CaseDice(Metric):
    """Mean over classes, or over regions that are channels, of the mean Dice over cases.

    A class that is in neither mask of a case is left out there, and so is one that the case's
    folder does not annotate. Voxels that nobody judged are background in both masks.

    After an epoch ``per_class`` and ``per_case`` hold the details, which the training curve takes.
    Several processes that validate whole cases each have the rows of all of them then.

    Args:
        manifest: of the validated cases.
        task: classes.
        masks: ``pred`` is a mask of each scored class and region, as prompts give them, and all of
            them count; else a class map.
    """

    def __init__(self, manifest: Manifest, task: Task, *, masks: bool = False) -> None:
        self._stream = CaseScores(manifest, task, masks)
        super().__init__()

    @property
    def class_names(self) -> list[str]:
        """Names of what is scored, in channel order."""
        return list(self._stream.scored)

    @property
    def per_class(self) -> dict[str, float]:
        """Class name to mean Dice over the cases; NaN if the class is in none of them."""
        return {
            name: _nan_mean([scores[name] for scores in self._stream.cases.values()])
            for name in self.class_names
        }

    @property
    def per_case(self) -> dict[str, dict[str, float]]:
        """Case to class name to Dice."""
        return self._stream.cases

    def reset(self) -> None:
        """Forget all cases."""
        self._stream.cases = {}

    def iteration_completed(self, engine: Engine) -> None:
        """Take the slices of one batch."""
        self._stream._collect(engine)

    def completed(self, engine: Engine, name: str) -> None:
        """Finish the last case, take the other processes' cases, publish the value."""
        self._stream._flush()
        self._stream.cases = gather_rows(self._stream.cases)
        super().completed(engine, name)

    def update(self, output: Any) -> None:
        """Unused: the slices' cases are in the engine's batch."""

    def compute(self) -> float:
        """The mean."""
        return _nan_mean(list(self.per_class.values()))


class CaseScores(CaseStream):
    """Dice of each case, in ``cases``."""

    def __init__(self, manifest: Manifest, task: Task, masks: bool) -> None:
        super().__init__()
        self.manifest = manifest
        self.task = task
        self.masks = masks
        regions = {region.name: region.labels for region in task.scored()}
        self.scored = regions if masks else task.channel_labels
        self.cases: dict[str, dict[str, float]] = {}
        self._references: dict[str, Array] = {}
        self._judged: dict[str, Array] = {}

    def geometry(self, case: str) -> CaseGeometry:
        """How the case is cut."""
        return self.manifest.cases[case].geometry

    def finish(self, case: str, slices: Mapping[int, Array]) -> None:
        """Score a case."""
        if case not in self._references:
            self._references[case] = reference_volume(self.manifest, case)
            self._judged[case] = judged_voxels(self.manifest, case, self._references[case])
        label, judged = self._references[case], self._judged[case]
        predicted = self._predicted(slices, case, label)
        joint = self.manifest.joint_values(case)
        annotated = self.task.class_values if joint is None else set(joint.values())
        self.cases[case] = {
            name: dice_score(predicted[name] & judged, np.isin(label, values) & judged)
            if set(values) <= set(annotated)
            else float("nan")
            for name, values in self.scored.items()
        }

    def _predicted(self, slices: Mapping[int, Array], case: str, label: Array) -> dict[str, Array]:
        geometry = self.manifest.cases[case].geometry
        if self.masks:
            return {
                name: assemble({k: v[i] for k, v in slices.items()}, geometry, bool)
                for i, name in enumerate(self.scored)
            }
        pred = assemble(slices, geometry, label.dtype)
        return {name: np.isin(pred, values) for name, values in self.scored.items()}


def judged_voxels(manifest: Manifest, case: str, label: Array) -> Array:
    """Where the label of a case says something, bool; ``label``: of :func:`reference_volume`."""
    ignored = manifest.ignore_label(case)
    if ignored is None:
        return np.ones(label.shape, bool)
    if isinstance(manifest, JoinedManifest):  # its own values: they may be others' classes
        part = manifest.part(case)
        label = reference_volume(part.manifest, case.removeprefix(f"{part.name}-"))
    return np.asarray(label != ignored)


def _nan_mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
