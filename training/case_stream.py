"""Slice predictions collected into cases while an Ignite engine runs over slices in case order."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events

from samtune.preprocessing.manifest import Manifest
from samtune.preprocessing.slice_file import read_reference, read_slice_file
from samtune.preprocessing.slice_transforms import StoredLogits
from samtune.preprocessing.slicing import CaseGeometry, slices_to_volume

Array = npt.NDArray[Any]


class CaseStream(ABC):
    """Collects decollated ``pred`` arrays by case and finishes each case when the next begins.

    Slices that the engine never saw are zero: predicted empty. Tiled and resampled slices are put
    together on the case's native pixels, and read there.
    """

    def __init__(self) -> None:
        self._case: str | None = None
        self._slices: dict[int, Array] = {}
        self._tiles: dict[int, dict[int, StoredLogits]] = {}

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator; MONAI calls this."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _start(self, engine: Engine) -> None:
        self._case, self._slices, self._tiles = None, {}, {}
        self.started(engine)

    def _collect(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, out in zip(batch, output, strict=True):
            tile = item.get("tile")
            number = None if tile is None else int(tile)
            self.add(str(item["case"]), int(item["index"]), out["pred"], number)

    def add(
        self, case: str, index: int, pred: Array | StoredLogits, tile: int | None = None
    ) -> None:
        """Add slice ``index`` of ``case``: ``h w`` class values, ``p h w`` masks, or a tile."""
        if case != self._case:
            self._flush()
            self._case = case
        if not isinstance(pred, StoredLogits):
            self.keep(index, pred)
            return
        tiles = self._tiles.setdefault(index, {})
        tiles[tile or 0] = pred
        if len(tiles) == self.geometry(case).num_tiles:
            self._join(index)

    def _join(self, index: int) -> None:
        assert self._case is not None
        tiles = self._tiles.pop(index)
        plane = self.geometry(self._case).plane
        logits = {number: tile.logits for number, tile in tiles.items()}
        whole = logits[0] if plane is None else plane.restore_logits(logits)
        # pixels of no tile and outside the crop: no class, and nothing to paint
        whole = np.where(np.isnan(whole), -np.inf, whole)
        self.keep(index, next(iter(tiles.values())).read(torch.from_numpy(whole)))

    def keep(self, index: int, values: Array) -> None:
        """Slice ``index`` of the case at hand is whole: kept until the case is."""
        self._slices[index] = values

    def _flush(self) -> None:
        if self._case is not None:
            for index in list(self._tiles):  # of which a tile never came
                self._join(index)
            self.finish(self._case, self._slices)
        self._case, self._slices, self._tiles = None, {}, {}

    def geometry(self, case: str) -> CaseGeometry:
        """How a case is cut; asked for where its slices are tiled or resampled."""
        raise NotImplementedError

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

    Args:
        slices: native ``h w``, or stored ones where these are cropped.
        geometry: of the case.
        dtype: of the volume.

    Raises:
        ValueError: a slice has another size than the case's.
    """
    stack = np.zeros(geometry.slices_shape, dtype)
    plane = geometry.plane
    stored_hw = None if plane is None or len(plane.tiles) > 1 else plane.stored_hw
    for index, values in slices.items():
        if plane is not None and values.shape == stored_hw:
            values = plane.restore_label({0: values})
        if values.shape != stack.shape[1:]:
            msg = (
                f"case '{geometry.case}': slice {index} is {values.shape}, expected "
                f"{stack.shape[1:]}"
            )
            raise ValueError(msg)
        stack[index] = values
    return slices_to_volume(stack, geometry)


def reference_volume(manifest: Manifest, case: str, *, ignore_label: int | None = None) -> Array:
    """The label of a case on its own grid, from its slice files; joined folders' own values.

    Resampling has no part in it.

    Args:
        manifest: of the slices.
        case: case id.
        ignore_label: value that stays what it is in joined folders too.

    Raises:
        ValueError: the case is unlabelled.
    """
    geometry = manifest.cases[case].geometry
    if geometry.is_resampled:
        reference = read_reference(manifest.path(manifest.select(case=case)[0]))
        if reference is not None:
            volume = slices_to_volume(reference, geometry)
            return _joined(volume, manifest, case, ignore_label)
    slices = {}
    for index, tiles in _read_slices(manifest, case).items():
        labels = {number: label for number, (_, label) in tiles.items() if label is not None}
        if len(labels) < len(tiles):
            msg = f"case '{case}' of '{manifest.root}' has no label"
            raise ValueError(msg)
        plane = geometry.plane
        slices[index] = labels[0] if plane is None else plane.restore_label(labels)
    volume = assemble(slices, geometry, next(iter(slices.values())).dtype)
    return _joined(volume, manifest, case, ignore_label)


def _joined(volume: Array, manifest: Manifest, case: str, ignore_label: int | None) -> Array:
    joint = manifest.joint_values(case)
    if joint is None:
        return volume
    kept = 0 if ignore_label is None else ignore_label
    table = np.zeros(int(max(*joint, *joint.values(), volume.max(), kept)) + 1, np.uint16)
    table[kept] = kept
    table[list(joint)] = list(joint.values())
    return table[volume]


def image_volume(manifest: Manifest, case: str) -> Array:
    """The image of a case on its own grid, from its slice files: after the intensity step.

    Raises:
        ValueError: the slices are in colour.
    """
    geometry = manifest.cases[case].geometry
    slices = {}
    for index, tiles in _read_slices(manifest, case).items():
        images = {number: image for number, (image, _) in tiles.items()}
        plane = geometry.plane
        slices[index] = images[0] if plane is None else plane.restore_image(images)
    return assemble(slices, geometry, next(iter(slices.values())).dtype)


def _read_slices(manifest: Manifest, case: str) -> dict[int, dict[int, tuple[Array, Array | None]]]:
    """Image and label of each stored slice, by index, then by tile."""
    records = manifest.select(case=case)
    files = {record.file: read_slice_file(manifest.path(record)) for record in records}
    slices: dict[int, dict[int, tuple[Array, Array | None]]] = {}
    for record in records:
        imgs, gts = files[record.file]
        label = None if gts is None else gts[record.position]
        slices.setdefault(record.index, {})[record.tile] = (imgs[record.position], label)
    return slices
