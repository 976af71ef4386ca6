"""Pairs of label volumes for the benchmark of metrics, drawn from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Labels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pair:
    """A prediction, its reference, both ``x y z`` class values, and their spacing in mm."""

    name: str
    pred: Labels
    ref: Labels
    spacing: tuple[float, float, float]

    @property
    def classes(self) -> list[int]:
        """Class values, without background."""
        return list(range(1, int(self.ref.max()) + 1))


def make_pairs(quick: bool, label_file: Path | None) -> list[Pair]:
    """The benchmark's pairs.

    Args:
        quick: a quarter of the size along each axis.
        label_file: NIfTI label of two classes in place of the drawn hippocampus.
    """
    part = 4 if quick else 1
    body = (256 // part, 256 // part, 80 // part)
    fine: tuple[float, float, float] = (0.8, 0.8, 2.5)
    return [
        _liver(body, fine),
        _vessels((224 // part, 224 // part, 176 // part)),
        _organs(body, fine),
        _hippocampus(label_file),
        _apart(body, fine),
    ]


def _liver(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> Pair:
    level = _level(shape, (0.48, 0.5, 0.5), (0.35, 0.37, 0.41)) + 0.25 * _waves(shape, 8, 1)
    return Pair("liver", _mask(level + 0.075 * _waves(shape, 4, 2)), _mask(level), spacing)


def _vessels(shape: tuple[int, ...]) -> Pair:
    generator = np.random.default_rng(3)
    lines = np.ones(shape, bool)
    size = np.array(shape)
    tips = [(size * (0.5, 0.5, 0.02), np.array([0.0, 0.0, 1.0]), 0.22 * shape[2])]
    for _ in range(6):  # each branch ends in two
        following = []
        for start, direction, length in tips:
            steps = np.linspace(0, length, 2 * int(length) + 2)
            points = np.rint(start + steps[:, None] * direction).astype(int)
            points = points[((points >= 0) & (points < size)).all(axis=1)]
            lines[tuple(points.T)] = False
            for _ in range(2):
                turned = direction + generator.normal(0, 0.55, 3)
                turned /= np.linalg.norm(turned)
                following.append((start + length * direction, turned, 0.82 * length))
        tips = following
    distance = ndimage.distance_transform_edt(lines)
    pred = _mask(2.6 - distance + 1.1 * _waves(shape, 2, 4))
    return Pair("vessels", pred, _mask(2.6 - distance), (1.0, 1.0, 1.0))


def _organs(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> Pair:
    labels = np.zeros((2, *shape), np.uint8)
    places: Sequence[tuple[Any, Any]] = [
        ((0.3, 0.4, 0.5), (0.20, 0.24, 0.36)),
        ((0.72, 0.36, 0.6), (0.13, 0.12, 0.28)),
        ((0.36, 0.75, 0.5), (0.09, 0.10, 0.30)),
        ((0.66, 0.74, 0.5), (0.09, 0.10, 0.30)),
        ((0.52, 0.56, 0.5), (0.04, 0.04, 0.45)),
    ]
    for value, (centre, radius) in enumerate(places, start=1):
        level = _level(shape, centre, radius) + 0.15 * _waves(shape, 6, value)
        labels[0][level + 0.1 * _waves(shape, 3, 10 + value) > 0] = value
        labels[1][level > 0] = value
    return Pair("5 organs", labels[0], labels[1], spacing)


def _hippocampus(label_file: Path | None) -> Pair:
    if label_file is None:
        shape: tuple[int, ...] = (35, 51, 35)
        ref = _mask(_level(shape, (0.5, 0.5, 0.5), (0.25, 0.42, 0.2)) + 0.3 * _waves(shape, 3, 5))
        ref[:, 25:][ref[:, 25:] == 1] = 2
        name = "hippocampus (drawn)"
    else:
        from samtune.preprocessing.volumes import read_label

        ref, name = read_label(label_file).array.astype(np.uint8), "hippocampus"
    # the reference, shifted by a warp of about a voxel
    waves = [_waves(ref.shape, 4, 20 + axis) for axis in range(3)]
    where = np.stack(np.meshgrid(*map(np.arange, ref.shape), indexing="ij")) + 0.8 * np.stack(waves)
    pred = ndimage.map_coordinates(ref, where, order=0)
    return Pair(name, pred, ref, (1.0, 1.0, 1.0))


def _apart(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> Pair:
    waves = 0.2 * _waves(shape, 6, 6)
    pred = _mask(_level(shape, (0.75, 0.75, 0.5), (0.2, 0.2, 0.35)) + waves)
    ref = _mask(_level(shape, (0.25, 0.25, 0.5), (0.2, 0.2, 0.35)) + waves)
    ref[pred == 1] = 0
    return Pair("two apart", pred, ref, spacing)


def _level(shape: tuple[int, ...], centre: Any, radius: Any) -> Floats:
    """Positive inside an ellipsoid; centre and radii as shares of the size."""
    axes = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij", sparse=True)
    parts = (((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radius, strict=True))
    level: Floats = 1 - sum(parts, start=np.zeros(shape))
    return level


def _waves(shape: tuple[int, ...], sigma: float, seed: int) -> Floats:
    """Smooth noise of standard deviation 1."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth: Floats = ndimage.gaussian_filter(noise, sigma)
    smooth /= smooth.std()
    return smooth


def _mask(level: Floats) -> Labels:
    return (level > 0).astype(np.uint8)
