"""Slices and outlines of a case as JSON values for the page, within a number of bytes."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from samtune.evaluation.report.facts import CaseVolume
from samtune.evaluation.report.outlines import mask_loops, svg_path

MARGIN = 2  # slices shown on either side of those with something in them
# From lossless to coarse: file format, its quality, and the factor by which a slice is reduced.
LEVELS = (("PNG", 0, 1), ("JPEG", 90, 1), ("JPEG", 75, 1), ("JPEG", 80, 2), ("JPEG", 60, 2))
SURE = 2.0  # a middle slice times their number is not further than this from the sum


def case_pictures(
    volume: CaseVolume, regions: Mapping[str, Sequence[int]], *, budget: int
) -> dict[str, Any]:
    """What the page's viewer shows of a case.

    Slices run from the first to the last with something in reference or prediction. They are
    lossless where they fit the budget; else first the images get coarser, then slices are left out
    evenly.

    Args:
        volume: the case.
        regions: key to class values; one outline each.
        budget: bytes of the result as JSON, about; a single slice may need more.

    Returns:
        ``width`` and ``height`` in pixels, ``ratio`` width / height in mm, ``total`` slices of the
        case, ``slices``: index of each one shown, ``images``: data URIs, ``outlines``: region key
        to ``ref`` and ``pred``, a path a slice (``pred`` is null without prediction), ``start``:
        region key to the position where the region is largest, ``note``: what the budget cost, or
        nothing.
    """
    values = sorted({value for labels in regions.values() for value in labels})
    shown = _range(volume, values)
    step = 1
    while True:
        outlines = {
            key: {
                "ref": _paths(volume.reference, shown, labels),
                "pred": _paths(volume.prediction, shown, labels),
            }
            for key, labels in regions.items()
        }
        left = budget - sum(
            len(path)
            for pair in outlines.values()
            for paths in pair.values()
            for path in paths or ()
        )
        best = _best_level(volume, shown, left)
        if best is not None or len(shown) == 1:
            break
        shown, step = _thinned(volume, shown, values), 2 * step
    level, images = best or (LEVELS[-1], _encoded(volume, shown, LEVELS[-1]))
    height, width = volume.image.shape[1:3]
    pixel_height, pixel_width = volume.pixel_mm
    return {
        "width": width,
        "height": height,
        "ratio": round(width * pixel_width / (height * pixel_height), 4),
        "total": len(volume.image),
        "slices": shown,
        "images": images,
        "outlines": outlines,
        "start": {key: _largest(volume, shown, labels) for key, labels in regions.items()},
        "note": _note(level, step),
    }


def _note(level: tuple[str, int, int], step: int) -> str:
    kind, _, factor = level
    parts = [f"one slice of {step}"] if step > 1 else []
    if kind == "JPEG":
        parts.append("image compressed with loss")
    if factor > 1:
        parts.append(f"image reduced {factor} times")
    return f"To keep this page small: {', '.join(parts)}." if parts else ""


def _areas(volume: CaseVolume, values: Sequence[int]) -> npt.NDArray[np.int64]:
    """Pixels a slice of these classes in the reference; in the prediction where it has none."""
    for label in (volume.reference, volume.prediction):
        if label is not None:
            areas: npt.NDArray[np.int64] = np.isin(label, values).sum((1, 2))
            if areas.any():
                return areas
    return np.zeros(len(volume.image), np.int64)


def _range(volume: CaseVolume, values: Sequence[int]) -> list[int]:
    used = np.zeros(len(volume.image), bool)
    for label in (volume.reference, volume.prediction):
        if label is not None:
            used |= np.isin(label, values).any((1, 2))
    if not used.any():
        return [len(used) // 2]
    found = np.flatnonzero(used)
    return list(range(max(0, found[0] - MARGIN), min(len(used), found[-1] + MARGIN + 1)))


def _thinned(volume: CaseVolume, shown: list[int], values: Sequence[int]) -> list[int]:
    """Every second slice, those that keep the one with most in it."""
    areas = _areas(volume, values)[shown]
    return shown[int(areas.argmax()) % 2 :: 2]


def _largest(volume: CaseVolume, shown: Sequence[int], values: Sequence[int]) -> int:
    return int(_areas(volume, values)[list(shown)].argmax())


def _paths(
    label: npt.NDArray[np.integer[Any]] | None, shown: Sequence[int], values: Sequence[int]
) -> list[str] | None:
    if label is None:
        return None
    return [svg_path(mask_loops(np.isin(label[index], values))) for index in shown]


def _best_level(
    volume: CaseVolume, shown: Sequence[int], budget: int
) -> tuple[tuple[str, int, int], list[str]] | None:
    """The best level at which the slices fit, and these; None if none does."""
    middle = shown[len(shown) // 2 :][:1]
    for level in LEVELS:
        guess = len(_encoded(volume, middle, level)[0]) * len(shown)
        if guess > SURE * budget:
            continue  # the whole stack takes seconds: not only to see that it is too large
        images = _encoded(volume, shown, level)
        if sum(map(len, images)) <= budget:
            return level, images
    return None


def _encoded(volume: CaseVolume, shown: Sequence[int], level: tuple[str, int, int]) -> list[str]:
    kind, quality, factor = level
    images = []
    for index in shown:
        picture = Image.fromarray(np.ascontiguousarray(volume.image[index]))
        if factor > 1:
            picture = picture.reduce(factor)
        file = io.BytesIO()
        if kind == "PNG":
            picture.save(file, format=kind)
        else:
            picture.save(file, format=kind, quality=quality)
        data = base64.b64encode(file.getvalue()).decode("ascii")
        images.append(f"data:image/{kind.lower()};base64,{data}")
    return images
