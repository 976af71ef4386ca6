"""Prompts that a user gives in the voxels of a scan's own file, and their way into slices.

A slice is counted along the file's array axis that is cut. In it x counts along the first of the
two other array axes and y along the second, as viewers of volumes do; in a picture x is the column
and y the row. A box covers the voxels from x0 up to, not including, x1; a point is a voxel.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation

from samtune.preprocessing.slicing import CaseGeometry
from samtune.preprocessing.volumes import Array

FORMAT_VERSION = 1
KEYS = ("slice", "class", "box", "points")


@dataclass(frozen=True)
class VoxelPrompt:
    """One object in one slice.

    Attributes:
        slice_index: along the axis that is cut.
        value: class value that it is painted with.
        box: x0, y0, x1, y1, or ``None``.
        points: x, y and 1 (inside) or 0 (outside) of each.
    """

    slice_index: int
    value: int
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, int], ...] = ()


class VoxelPlane:
    """Which array axes of a file are slice, x and y, and where they are in the slicer's slices.

    Args:
        geometry: of the case.
        is_picture: its array axes are row, column and page.
    """

    def __init__(self, geometry: CaseGeometry, *, is_picture: bool = False) -> None:
        self.geometry = geometry
        turned = io_orientation(geometry.affine)
        ras_of = [int(axis) for axis in turned[:, 0]]
        self._is_flipped = [bool(sign < 0) for sign in turned[:, 1]]
        cut = ras_of.index(geometry.axis)
        first, second = (axis for axis in range(3) if axis != cut)
        self.axes_xy = (second, first) if is_picture else (first, second)
        self._cut = cut
        self._x_is_width = ras_of[self.axes_xy[0]] > ras_of[self.axes_xy[1]]

    @property
    def num_slices(self) -> int:
        """Along the axis that is cut."""
        return self.geometry.shape[self._cut]

    @property
    def size_xy(self) -> tuple[int, int]:
        """Voxels along x and y."""
        x, y = self.axes_xy
        return self.geometry.shape[x], self.geometry.shape[y]

    def index(self, slice_index: int) -> int:
        """Number of the slice among the slicer's."""
        return int(self._turn(self._cut, slice_index, self.num_slices - 1))

    def box(self, box: Sequence[float]) -> list[float]:
        """A box in pixels of the slicer's slice, x along its width."""
        width, height = self.size_xy
        xs = sorted(self._turn(self.axes_xy[0], value, width) for value in (box[0], box[2]))
        ys = sorted(self._turn(self.axes_xy[1], value, height) for value in (box[1], box[3]))
        if not self._x_is_width:
            xs, ys = ys, xs
        return [xs[0], ys[0], xs[1], ys[1]]

    def point(self, x: float, y: float) -> list[float]:
        """A voxel as pixel index (x, y) of the slicer's slice."""
        width, height = self.size_xy
        turned = [
            self._turn(self.axes_xy[0], x, width - 1),
            self._turn(self.axes_xy[1], y, height - 1),
        ]
        return turned if self._x_is_width else turned[::-1]

    def view(self, array: Array) -> Array:
        """A slicer's slice ``h w [c]`` as ``y x [c]`` of the file."""
        out = array if self._x_is_width else np.swapaxes(array, 0, 1)
        if self._is_flipped[self.axes_xy[1]]:
            out = out[::-1]
        return out[:, ::-1] if self._is_flipped[self.axes_xy[0]] else out

    def check(self, prompt: VoxelPrompt, where: str) -> None:
        """Do nothing if the prompt is within the scan.

        Raises:
            ValueError: it isn't; names ``where``, what was found and what is possible.
        """
        if not 0 <= prompt.slice_index < self.num_slices:
            msg = f"{where}: slice {prompt.slice_index} is not in 0 to {self.num_slices - 1}"
            raise ValueError(msg)
        width, height = self.size_xy
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                msg = (
                    f"{where}: box {list(prompt.box)} must have 0 <= x0 < x1 <= {width} and "
                    f"0 <= y0 < y1 <= {height}"
                )
                raise ValueError(msg)
        for x, y, _ in prompt.points:
            if not (0 <= x < width and 0 <= y < height):
                msg = f"{where}: point ({x:g}, {y:g}) must be within {width} x {height} voxels"
                raise ValueError(msg)

    def _turn(self, axis: int, value: Any, last: int) -> Any:
        return last - value if self._is_flipped[axis] else value


def read_prompts(
    path: str | Path, classes: Mapping[int, str] | None = None
) -> dict[str, list[VoxelPrompt]]:
    """Read a file of prompts, see ``docs/predicting.md``.

    Args:
        path: JSON.
        classes: class value to name that prompts may be of; ``None``: any value.

    Returns:
        Case to its prompts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it isn't of this form; says where and what was expected.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"prompts '{path}' does not exist"
        raise FileNotFoundError(msg)
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        msg = f"prompts '{path}' is not JSON: {error}"
        raise ValueError(msg) from error
    cases = data.get("cases") if isinstance(data, dict) else None
    if not isinstance(cases, dict) or not cases or data.get("format_version") != FORMAT_VERSION:
        msg = (
            f"prompts '{path}': expected {{\"format_version\": {FORMAT_VERSION}, "
            '"cases": {NAME: [PROMPT, ...]}}'
        )
        raise ValueError(msg)
    out = {}
    for case, entries in cases.items():
        if not isinstance(entries, list) or not entries:
            msg = f"prompts '{path}', case '{case}': expected a list of prompts, got {entries!r}"
            raise ValueError(msg)
        out[case] = [
            parse_prompt(entry, classes, f"prompts '{path}', case '{case}', prompt {number}")
            for number, entry in enumerate(entries, start=1)
        ]
    return out


def parse_prompt(entry: Any, classes: Mapping[int, str] | None, where: str) -> VoxelPrompt:
    """One prompt of a file.

    Raises:
        ValueError: starts with ``where``.
    """
    if not isinstance(entry, dict) or not set(entry) <= set(KEYS):
        unknown = sorted(set(entry) - set(KEYS)) if isinstance(entry, dict) else entry
        msg = f"{where}: expected the keys {', '.join(KEYS)}, got {unknown!r}"
        raise ValueError(msg)
    index = entry.get("slice")
    if index is None or not _is_number(index) or int(index) != index:
        msg = f"{where}: slice must be a whole number, got {index!r}"
        raise ValueError(msg)
    box, points = entry.get("box"), entry.get("points", [])
    if box is None and not points:
        msg = f"{where}: needs a box or points"
        raise ValueError(msg)
    if box is not None and (
        not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box))
    ):
        msg = f"{where}: box must be [x0, y0, x1, y1], got {box!r}"
        raise ValueError(msg)
    for point in points if isinstance(points, list) else [points]:
        if not (
            isinstance(point, list)
            and len(point) == 3
            and all(map(_is_number, point))
            and point[2] in (0, 1)
        ):
            msg = f"{where}: a point must be [x, y, 1 (inside) or 0 (outside)], got {point!r}"
            raise ValueError(msg)
    return VoxelPrompt(
        int(index),
        class_value(entry.get("class", 1), classes, where),
        None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        tuple((float(x), float(y), int(label)) for x, y, label in points),
    )


def class_value(given: Any, classes: Mapping[int, str] | None, where: str) -> int:
    """Class value of a name or value.

    Raises:
        ValueError: no such class.
    """
    by_name = {name: value for value, name in (classes or {}).items()}
    if isinstance(given, str) and given in by_name:
        return by_name[given]
    number = int(given) if isinstance(given, str) and given.isdigit() else given
    whole = _is_number(number) and int(number) == number and 1 <= number < 2**16
    if not whole or (classes is not None and number not in classes):
        known = (
            "1 to 65535" if classes is None else ", ".join(f"{v} ({n})" for v, n in classes.items())
        )
        msg = f"{where}: class {given!r} is not known, expected one of: {known}"
        raise ValueError(msg)
    return int(number)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
