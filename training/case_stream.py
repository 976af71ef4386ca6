"""Slice predictions collected into cases while an Ignite engine runs over slices in case order."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ignite.engine import Engine, Events

from samtune.preprocessing.manifest import Manifest
from samtune.preprocessing.slice_file import read_slice_file
from samtune.preprocessing.slicing import CaseGeometry, slices_to_volume

Array = npt.NDArray[Any]


class CaseStream(ABC):
    """Collects decollated ``pred`` arrays by case and finishes each case when the next begins.

    Slices that the engine never saw are zero: predicted empty.
    """

    def __init__(self) -> None:
        self._case: str | None = None
        self._slices: dict[int, Array] = {}

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator; MONAI calls this."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _start(self, engine: Engine) -> None:
        self._case, self._slices = None, {}
        self.started(engine)

    def _collect(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, out in zip(batch, output, strict=True):
            self.add(str(item["case"]), int(item["index"]), out["pred"])

    def add(self, case: str, index: int, pred: Array) -> None:
        """Add slice ``index`` of ``case``: ``h w`` class values, or ``p h w`` masks."""
        if case != self._case:
            self._flush()
            self._case = case
        self._slices[index] = pred

    def _flush(self) -> None:
        if self._case is not None:
            self.finish(self._case, self._slices)
        self._case, self._slices = None, {}

    def _end(self, engine: Engine) -> None:
        self._flush()
        self.ended(engine)

    def started(self, engine: Engine) -> None:  # noqa: B027 - nothing to do by default
        """Called before the first slice."""

    @abstractmethod
    def finish(self, case: str, slices: Mapping[int, Array]) -> None:
        """A case is complete: its slices by index."""

    def ended(self, engine: Engine) -> None:  # noqa: B027 - nothing to do by default
        """Called after the last case."""


def assemble(slices: Mapping[int, Array], geometry: CaseGeometry, dtype: npt.DTypeLike) -> Array:
    """Slices by index to a volume on the case's own grid; missing slices are 0.

    Raises:
        ValueError: a slice has another size than the case's.
    """
    stack = np.zeros(geometry.slices_shape, dtype)
    for index, values in slices.items():
        if values.shape != stack.shape[1:]:
            msg = (
                f"case '{geometry.case}': slice {index} is {values.shape}, expected "
                f"{stack.shape[1:]}"
            )
            raise ValueError(msg)
        stack[index] = values
    return slices_to_volume(stack, geometry)


def reference_volume(manifest: Manifest, case: str) -> Array:
    """The label of a case on its own grid, from its slice files; joined folders' own values.

    Raises:
        ValueError: the case is unlabelled.
    """
    slices = {}
    for index, (_, label) in _read_slices(manifest, case).items():
        if label is None:
            msg = f"case '{case}' of '{manifest.root}' has no label"
            raise ValueError(msg)
        slices[index] = label
    volume, joint = _on_grid(slices, manifest, case), manifest.joint_values(case)
    if joint is None:
        return volume
    table = np.zeros(int(max(*joint, *joint.values(), volume.max())) + 1, np.uint16)
    table[list(joint)] = list(joint.values())
    return table[volume]


def image_volume(manifest: Manifest, case: str) -> Array:
    """The image of a case on its own grid, from its slice files: after the intensity step.

    Raises:
        ValueError: the slices are in colour.
    """
    slices = {index: image for index, (image, _) in _read_slices(manifest, case).items()}
    return _on_grid(slices, manifest, case)


def _read_slices(manifest: Manifest, case: str) -> dict[int, tuple[Array, Array | None]]:
    records = manifest.select(case=case)
    files = {record.file: read_slice_file(manifest.path(record)) for record in records}
    slices = {}
    for record in records:
        imgs, gts = files[record.file]
        label = None if gts is None else gts[record.position]
        slices[record.index] = (imgs[record.position], label)
    return slices


def _on_grid(slices: Mapping[int, Array], manifest: Manifest, case: str) -> Array:
    dtype = next(iter(slices.values())).dtype
    return assemble(slices, manifest.cases[case].geometry, dtype)
