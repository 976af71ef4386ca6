"""Exact distances from one surface to the other, nearest first, stopped when the rest can't matter.

Surfaces of a prediction and its reference lie close together: of the points that aren't on both,
most have the other surface within a few voxels. So neighbours are tried in the order of their
distance, all points at once, and only what is left is given to a k-d tree. Distances are computed
by the expression that SciPy's distance transform uses, from whole numbers of voxels, so they equal
its results.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter1d
from scipy.spatial import cKDTree

from samtune.evaluation.surface import Surface, flat_strides

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

NUM_NEIGHBOURS = 320  # more cost as much as the tree
TRIAL = 50  # neighbours after which it shows whether the surfaces meet
CELLS = (4.0, 2.5, 1.3)  # voxels along a cell, where they are cubes
FEW = 100  # goals for each point: then the points are few
NUM_SAMPLES = 1_000  # goals that bound the distances of few points
BATCH = 2_000  # pairs of point and neighbour looked up at once


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Steps on the grid in order of their length.

    Attributes:
        steps: ``n axes``, whole voxels.
        lengths: mm, ascending.
        ends: where each group of equal length ends.
        reach: largest step along each axis, at least 1.
    """

    steps: Indices
    lengths: Floats
    ends: Indices
    reach: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances of one surface's points from the other surface, ascending.

    Attributes:
        distance: mm.
        area: weight at each distance; several points of one distance may be one entry.
        total: weight of the whole surface.
        is_complete: False if the search was stopped: the rest is farther away than what is known.
    """

    distance: Floats
    area: Floats
    total: float
    is_complete: bool

    def area_within(self, tolerance: float) -> float:
        """Weight of what lies within ``tolerance``, inclusive."""
        num = int(np.searchsorted(self.distance, tolerance, "right"))
        if num == len(self.distance) and self.is_complete:
            return self.total  # not a sum in another order, which might miss it by rounding
        return min(float(self.area[:num].sum()), self.total)

    def area_percentile(self, percent: float) -> float:
        """Smallest distance whose cumulative weight reaches ``percent`` of the total."""
        cumulative = np.cumsum(self.area)
        at = int(np.searchsorted(cumulative, percent / 100 * self.total))
        return float(self.distance[min(at, len(cumulative) - 1)])

    def rank_percentile(self, percent: float) -> float:
        """Percentile of points of weight 1, interpolated between ranks as NumPy's default is."""
        cumulative = np.cumsum(self.area)
        rank = percent / 100 * (self.total - 1)
        low, high = self.distance[
            np.searchsorted(cumulative, [math.floor(rank), math.ceil(rank)], "right")
        ]
        return float(low + (high - low) * (rank - math.floor(rank)))

    def sum(self) -> float:
        """Weighted sum of the distances."""
        return float(self.distance @ self.area)


@lru_cache(maxsize=64)
def neighbours(spacing: tuple[float, ...]) -> Neighbours:
    """The nearest :data:`NUM_NEIGHBOURS` or fewer grid points around a grid point."""
    axes = len(spacing)
    ball = math.pi if axes == 2 else 4 / 3 * math.pi
    radius = (NUM_NEIGHBOURS * math.prod(spacing) / ball) ** (1 / axes)
    spans = [min(NUM_NEIGHBOURS, math.ceil(radius / step)) for step in spacing]
    grid = np.meshgrid(*(np.arange(-span, span + 1) for span in spans), indexing="ij")
    steps = np.stack([part.ravel() for part in grid], axis=1)
    lengths = _lengths(steps, spacing)
    # beyond this, a shorter step may lie outside the spans
    complete = min((span + 1) * step for span, step in zip(spans, spacing, strict=True))
    kept = np.flatnonzero((lengths > 0) & (lengths < complete))
    order = kept[np.argsort(lengths[kept], kind="stable")][:NUM_NEIGHBOURS]
    steps, lengths = steps[order], lengths[order]
    ends = np.flatnonzero(np.diff(lengths)) + 1  # the last group may be cut, so it is left out
    steps, lengths = steps[: ends[-1]], lengths[: ends[-1]]
    reach = tuple(max(1, int(step)) for step in np.abs(steps).max(axis=0))
    return Neighbours(steps, lengths, ends, reach)


def surface_distances(
    source: Surface,
    target: Surface,
    spacing: tuple[float, ...],
    *,
    enough_mm: float = math.inf,
    enough_percent: float = 100.0,
    at_least_mm: float = 0.0,
) -> Distances:
    """Distances of all points of ``source`` from ``target``; both have points.

    Args:
        source, target: surfaces on one grid, padded by the neighbours' reach.
        spacing: voxel size in mm, one entry per array axis.
        enough_mm, enough_percent: the search may stop when all distances up to ``enough_mm`` are
            known and they make up ``enough_percent`` of the area; the percentile is exact then,
            and other distances need not be.
        at_least_mm: a percentile below this need not be exact either: it only stays below.
    """
    near = neighbours(spacing)
    total = float(source.area.sum())
    enough_area = enough_percent / 100 * total if enough_mm < math.inf else math.inf
    is_apart = ~target.is_on.take(source.index)
    point, area = source.index[is_apart], source.area[is_apart]
    found_area = total - float(area.sum())
    found = [(np.zeros(1), np.array([found_area]))]
    offsets = near.steps @ np.array(flat_strides(source.grid))
    num_apart = len(point)
    start = 0
    while start < len(offsets) and len(point):
        if found_area >= enough_area and near.lengths[start] > enough_mm:
            return _joined(found, total, is_complete=False)
        # where no point is shared, the surfaces hardly meet
        if start >= (TRIAL if found_area else TRIAL // 6) and len(point) > 0.9 * num_apart:
            break
        start, hit_at = _look_up(point, target, offsets, near, start)
        is_left = hit_at < 0
        hits = hit_at[~is_left]
        sums = np.bincount(hits, area[~is_left])
        at = np.flatnonzero(np.bincount(hits))
        found.append((near.lengths[at], sums[at]))
        found_area += float(sums.sum())
        point, area = point[is_left], area[is_left]
    if len(point):
        if enough_area < math.inf:
            distance = _far_enough(
                point, area, target, spacing, enough_mm, enough_area - found_area, at_least_mm
            )
        else:
            goal = _within_reach(point, target, spacing)
            distance = _by_tree(point, goal, target.grid, spacing)
        order = np.argsort(distance, kind="stable")
        found.append((distance[order], area[order]))
    return _joined(found, total, is_complete=True)


def _look_up(
    point: Indices, target: Surface, offsets: Indices, near: Neighbours, start: int
) -> tuple[int, Indices]:
    """Try the next whole groups of neighbours: where to go on, and each point's first hit or -1."""
    wanted = start + max(1, BATCH // len(point))
    group = min(int(np.searchsorted(near.ends, wanted)), len(near.ends) - 1)
    end = int(near.ends[group])
    if len(point) * (end - start) <= 2 * BATCH:
        is_hit = target.is_on.take(point[:, None] + offsets[start:end])
        first = is_hit.argmax(axis=1)
        is_hit_at_all = is_hit.ravel()[np.arange(len(point)) * (end - start) + first]
        return end, np.where(is_hit_at_all, first + start, -1)
    hit_at = np.full(len(point), -1)
    for at in range(end - 1, start - 1, -1):  # backwards: the nearest is written last
        hit_at[target.is_on.take(point + offsets[at])] = at
    return end, hit_at


def _far_enough(
    point: Indices,
    area: Floats,
    target: Surface,
    spacing: tuple[float, ...],
    enough_mm: float,
    enough_area: float,
    at_least_mm: float,
) -> Floats:
    """Distances, exact where the area reaches ``enough_area`` and up to ``enough_mm``.

    All others stay on their side of both. One point a cell gives every point of the cell a lower
    and an upper bound; smaller and smaller cells leave few whose side the bounds don't settle.
    """
    low, high = np.full(len(point), -math.inf), np.full(len(point), math.inf)
    is_open = np.ones(len(point), bool)
    for voxels in CELLS:
        step = voxels * math.prod(spacing) ** (1 / len(spacing))
        cell = [max(1, round(step / size)) for size in spacing]
        slack = math.hypot(*((n - 1) * size for n, size in zip(cell, spacing, strict=True)))
        which, first = _cells(point[is_open], target.grid, cell)
        goals = target.index[_cells(target.index, target.grid, cell)[1]]
        near = _by_tree(point[is_open][first], goals, target.grid, spacing)[which]
        low[is_open] = np.maximum(low[is_open], near - 2.001 * slack)
        high[is_open] = np.minimum(high[is_open], near + 1.001 * slack)
        sure_low, sure_high = (_reached(bound, area, enough_area) for bound in (low, high))
        sure_low = max(sure_low, at_least_mm)
        is_open = (low <= enough_mm) | ((high >= sure_low) & (low <= sure_high))
        if not is_open.any():
            break
    distance = np.where(high < sure_low, high, low)
    distance[is_open] = _by_tree(point[is_open], target.index, target.grid, spacing)
    return distance


def _within_reach(point: Indices, target: Surface, spacing: tuple[float, ...]) -> Indices:
    """Points of ``target`` that may be nearest to one of ``point``: a tree of all costs more.

    A few points of ``target`` bound the distances from above; what is farther from all cells that
    hold a point is left out.
    """
    goal = target.index
    if len(point) > len(goal) // FEW:
        return goal
    bound = float(
        _by_tree(point, goal[:: max(1, len(goal) // NUM_SAMPLES)], target.grid, spacing).max()
    )
    cell = [max(1, int(bound / (4 * size))) for size in spacing]
    wanted = np.zeros([-(-size // n) for size, n in zip(target.grid, cell, strict=True)], bool)
    wanted.ravel()[_cell_of(point, target.grid, cell)] = True
    for axis, (n, size) in enumerate(zip(cell, spacing, strict=True)):
        reach = math.ceil(bound / (n * size))  # d cells apart is more than d - 1 cells away
        wanted = maximum_filter1d(wanted.view(np.uint8), 2 * reach + 1, axis).view(bool)
    return goal[wanted.ravel()[_cell_of(goal, target.grid, cell)]]


def _cell_of(point: Indices, grid: tuple[int, ...], cell: list[int]) -> Indices:
    """Flat index of each point's cell."""
    shape = tuple(-(-size // n) for size, n in zip(grid, cell, strict=True))
    key = np.zeros(len(point), np.int64)
    for part, n, stride in zip(
        np.unravel_index(point, grid), cell, flat_strides(shape), strict=True
    ):
        key += part // n * stride
    return key


def _cells(point: Indices, grid: tuple[int, ...], cell: list[int]) -> tuple[Indices, Indices]:
    """Cell of each point, and the position of one point of each cell."""
    key = _cell_of(point, grid, cell)
    first = np.full(math.prod(-(-size // n) for size, n in zip(grid, cell, strict=True)), -1)
    first[key[::-1]] = np.arange(len(key))[::-1]  # written last: the first point of the cell
    used = np.flatnonzero(first >= 0)
    number = np.empty_like(first)
    number[used] = np.arange(len(used))
    return number[key], first[used]


def _reached(distance: Floats, area: Floats, enough_area: float) -> float:
    order = np.argsort(distance)
    at = int(np.searchsorted(np.cumsum(area[order]), enough_area))
    return float(distance[order[min(at, len(order) - 1)]])


def _by_tree(
    point: Indices, goal: Indices, grid: tuple[int, ...], spacing: tuple[float, ...]
) -> Floats:
    goals = np.stack(np.unravel_index(goal, grid), axis=1)
    points = np.stack(np.unravel_index(point, grid), axis=1)
    tree = cKDTree(goals * np.array(spacing), balanced_tree=False, compact_nodes=False, leafsize=64)
    nearest = tree.query(points * np.array(spacing))[1]
    return _lengths(points - goals[nearest], spacing)


def _lengths(steps: Indices, spacing: tuple[float, ...]) -> Floats:
    """Length in mm, rounded as SciPy's ``distance_transform_edt`` rounds it."""
    scaled = steps * np.array(spacing)
    lengths: Floats = np.sqrt(np.add.reduce((scaled * scaled).T, axis=0))
    return lengths


def _joined(parts: list[tuple[Floats, Floats]], total: float, *, is_complete: bool) -> Distances:
    distance, area = zip(*parts, strict=True)
    return Distances(np.concatenate(distance), np.concatenate(area), total, is_complete)
