"""Outlines of masks along pixel edges, exact at any magnification."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Loop = list[tuple[int, int]]
# Steps in the order right, down, left, up: the next one is a turn to the right (y runs down).
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def mask_loops(mask: npt.NDArray[np.bool_]) -> list[Loop]:
    """Closed outlines of a mask, clockwise around it and the other way around its holes.

    Args:
        mask: ``h w``.

    Returns:
        Corners ``(x, y)`` in pixel edges, 0 to w and 0 to h, one each where the outline turns;
        pixels that touch at a corner alone have outlines of their own.
    """
    used = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(used[0]):
        return []
    top, left = int(used[0][0]), int(used[1][0])
    padded = np.pad(mask[top : used[0][-1] + 1, left : used[1][-1] + 1], 1)
    inner = padded[1:-1, 1:-1]
    outgoing: dict[tuple[int, int], list[int]] = {}
    # An edge has its pixel on the right of its direction: the top edge runs right, and so on.
    sides: Sequence[tuple[Any, tuple[int, int]]] = (
        (padded[:-2, 1:-1], (0, 0)),
        (padded[1:-1, 2:], (1, 0)),
        (padded[2:, 1:-1], (1, 1)),
        (padded[1:-1, :-2], (0, 1)),
    )
    for direction, (neighbour, (dx, dy)) in enumerate(sides):
        rows, columns = np.nonzero(inner & ~neighbour)
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
            outgoing.setdefault((x + left + dx, y + top + dy), []).append(direction)
    loops = []
    while outgoing:
        start = min(outgoing, key=lambda point: (point[1], point[0]))
        loops.append(_walk(start, outgoing))
    return loops


def _walk(start: tuple[int, int], outgoing: dict[tuple[int, int], list[int]]) -> Loop:
    """Take the edges of one loop out of ``outgoing``; its corners."""
    loop: Loop = []
    point, previous = start, -1
    while point in outgoing:
        choices = outgoing[point]
        # at a corner where two pixels touch: the turn to the right stays with the same pixel
        right = (previous + 1) % 4
        direction = right if len(choices) > 1 and right in choices else choices[0]
        choices.remove(direction)
        if not choices:
            del outgoing[point]
        if direction != previous:
            loop.append(point)
        point = (point[0] + _STEPS[direction][0], point[1] + _STEPS[direction][1])
        previous = direction
        if point == start:
            break
    return loop


def svg_path(loops: Sequence[Loop]) -> str:
    """The loops as SVG path data of relative steps: ``M1 2h3v1h-3z``."""
    parts = []
    for loop in loops:
        (x, y), *rest = loop
        parts.append(f"M{x} {y}")
        for next_x, next_y in rest:
            parts.append(f"h{next_x - x}" if next_y == y else f"v{next_y - y}")
            x, y = next_x, next_y
        parts.append("z")
    return "".join(parts)
