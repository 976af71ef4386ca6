"""Ensembles of runs that cut a scan differently, as along several axes: their mean in the volume.

Networks of one cut are averaged in their frame, see :mod:`samtune.training.averaging`. Where cuts
differ no frame is shared: each cut's probabilities go to the scan's own grid, and the mean is taken
there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from samtune.preprocessing.scans import Given
from samtune.preprocessing.slice_transforms import ToFramed
from samtune.preprocessing.slicing import CaseGeometry, slices_view
from samtune.training.averaging import AveragedSegmenter
from samtune.training.case_stream import Array, CaseStream
from samtune.training.ensemble import cut_of
from samtune.training.network import AdaptedSegmenter
from samtune.training.raw_slices import RawSlices
from samtune.training.reading import PROBABILITIES
from samtune.training.run_folder import TrainedRun


def cut_alike(runs: Sequence[TrainedRun]) -> list[list[TrainedRun]]:
    """The runs in groups that make a scan into the same images, in the order of their first."""
    groups: dict[str, list[TrainedRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps(cut_of(run), sort_keys=True), []).append(run)
    return list(groups.values())


@dataclass(frozen=True)
class Cut:
    """Runs that cut a scan alike, as one network.

    Attributes:
        runs: at least one.
        network: the mean of all.
    """

    runs: list[TrainedRun]
    network: AdaptedSegmenter | AveragedSegmenter

    def slices(self, scan: Given, **options: Any) -> RawSlices:
        """Those of a scan; options as for ``RawSlices``."""
        run = self.runs[0]
        return RawSlices(
            scan,
            intensity=run.intensity,
            axis=run.axis,
            slicing=run.slicing,
            neighbours=run.neighbours,
            transform=ToFramed(self.network.image_size, self.network.normalization),
            **options,
        )

    def describe(self) -> dict[str, Any]:
        """For a companion file."""
        axis = self.runs[0].axis
        return {"axis": "auto" if axis is None else axis, "num_runs": len(self.runs)}


class AddedProbabilities(CaseStream):
    """Adds the probabilities of one scan to a volume, slice by slice as they come.

    ``pred`` is what :class:`~samtune.training.reading.ReadSlicesd` makes, with probabilities.

    Args:
        total: ``i j k c`` float32 on the scan's grid, changed in place.
        geometry: how the slices were cut.
        weight: of these probabilities.
    """

    def __init__(self, total: Array, geometry: CaseGeometry, weight: int) -> None:
        super().__init__()
        self._geometry = geometry
        self._slices_of_total = slices_view(total, geometry)
        self.weight = np.float32(weight)

    def geometry(self, case: str) -> CaseGeometry:
        """How the case is cut."""
        return self._geometry

    def keep(self, index: int, values: Array) -> None:
        """Add a slice; nothing of it is kept."""
        self._slices_of_total[index] += self.weight * values[PROBABILITIES]

    def finish(self, case: str, slices: Mapping[int, Array]) -> None:
        """All is added already."""
