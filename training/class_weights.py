"""How much each class counts in the pixel term of the loss."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from samtune.preprocessing.manifest import Manifest
from samtune.preprocessing.slice_file import read_slice_file
from samtune.training.task import Task

BACKGROUND = "background"


def class_weights(
    weights: str | Mapping[str, float] | None, manifest: Manifest, task: Task
) -> list[float] | None:
    """Weights of the background and of each foreground channel.

    Args:
        weights: ``None``: all alike; ``inverse_frequency``: all pixels over C times those of the
            class, of the C classes, counted in the training split's slices as they are stored,
            without the pixels that nobody judged; or weights by class name, and by ``background``,
            those that are not named 1.
        manifest, task: what is trained.

    Returns:
        A weight a channel, background first (unused where channels may overlap), or ``None``.

    Raises:
        ValueError: an unknown rule or class, a weight that is not above 0, or a class without a
            pixel in the training split.
    """
    if weights is None:
        return None
    names = [BACKGROUND, *task.channel_names]
    if isinstance(weights, str):
        if weights != "inverse_frequency":
            msg = (
                "class_weights must be null, inverse_frequency or a mapping of class names to "
                f"weights, got '{weights}'"
            )
            raise ValueError(msg)
        return _inverse(manifest, task)
    known = names if task.activation == "softmax" else names[1:]
    unknown = sorted(set(map(str, weights)) - set(known))
    if unknown:
        msg = f"class_weights: no class '{unknown[0]}', there are: {', '.join(known)}"
        raise ValueError(msg)
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not _usable(weight):
            msg = f"class_weights: weight of '{name}' must be a number above 0, got {weight!r}"
            raise ValueError(msg)
    return [float(weights.get(name, 1.0)) for name in names]


def _usable(weight: float) -> bool:
    return 0 < weight < math.inf


def _inverse(manifest: Manifest, task: Task) -> list[float]:
    counts: dict[int, int] = {}
    total = -_unjudged(manifest)
    for row in manifest.select("train"):
        height, width = manifest.cases[row.case].geometry.image_hw
        total += height * width
        for value, number in (row.labels or {}).items():
            counts[value] = counts.get(value, 0) + number
    of_classes = sum(counts.get(value, 0) for value in task.class_values)
    pixels = {BACKGROUND: total - of_classes}
    for name, values in task.channel_labels.items():
        pixels[name] = sum(counts.get(value, 0) for value in values)
    empty = [name for name, number in pixels.items() if number == 0]
    if empty:
        msg = (
            f"class_weights: '{empty[0]}' has no pixel in the training split of "
            f"'{manifest.root}', so inverse_frequency gives it no weight; name the weights"
        )
        raise ValueError(msg)
    return [total / (len(pixels) * number) for number in pixels.values()]


def _unjudged(manifest: Manifest) -> int:
    """Pixels of the training split with the value that counts for nothing.

    The manifest doesn't list them, so the files are read; only where there is such a value.
    """
    positions: dict[Path, list[int]] = {}
    ignored: dict[Path, int] = {}
    for row in manifest.select("train"):
        value = manifest.ignore_label(row.case)
        if value is not None:
            positions.setdefault(manifest.path(row), []).append(row.position)
            ignored[manifest.path(row)] = value
    number = 0
    for file, those in positions.items():
        _, labels = read_slice_file(file)
        if labels is not None:
            number += int(np.count_nonzero(labels[those] == ignored[file]))
    return number
