"""The longest distance in a case's volume: what an infinite distance is replaced by in a mean."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from samtune.evaluation.metric_kinds import row_scores
from samtune.evaluation.table import Row
from samtune.preprocessing.volumes import read_grid

GridOf: TypeAlias = Callable[[Path], tuple[Sequence[int], Sequence[float] | None]]


def grid_diagonal(shape: Sequence[int], spacing: Sequence[float] | None) -> float:
    """Diagonal of a grid, ``sqrt(sum((n_i s_i)^2))``, 6 decimals.

    Args:
        shape: voxels along each axis.
        spacing: mm along each axis; None: in pixels.
    """
    steps = (1.0,) * len(shape) if spacing is None else spacing
    return round(math.hypot(*(n * step for n, step in zip(shape, steps, strict=True))), 6)


def diagonals_of(
    rows: Iterable[Row], refs: Mapping[str, Path], *, grid_of: GridOf | None = None
) -> dict[str, float]:
    """Diagonals of the cases that have an infinite distance, in the unit of the rows.

    Args:
        rows: of any cases.
        refs: case -> its reference; an unreadable one is left out.
        grid_of: gives shape and spacing (None: in pixels) of a reference; None reads the header
            of a volume.
    """
    grid_of = grid_of or _volume_grid
    found = {}
    for case, unit in infinite_cases(rows).items():
        try:
            shape, spacing = grid_of(refs[case])
        except (ValueError, OSError):
            continue
        found[case] = grid_diagonal(shape, None if unit == "px" else spacing)
    return found


def infinite_cases(rows: Iterable[Row]) -> dict[str, str]:
    """Cases with an infinite distance, and the unit of their lengths."""
    return {
        row.case: row.unit
        for row in rows
        if any(math.isinf(value) for value in row_scores(row).values())
    }


def _volume_grid(path: Path) -> tuple[Sequence[int], Sequence[float] | None]:
    grid = read_grid(path)
    return grid.shape, grid.spacing
