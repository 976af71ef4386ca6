"""What a case's files hold: geometry from the header, values where they are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.read_case import (
    case_grid,
    fixed_axis,
    label_grids,
    read_case_image,
    read_case_label,
)
from samtune.preprocessing.slicing import CaseGeometry, volume_to_slices
from samtune.preprocessing.volumes import Grid, Spacing, check_same_grid

PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True)
class CaseFacts:
    """One case.

    Attributes:
        case: case id.
        split: ``train``, ``val`` or ``test``, None if the dataset has none.
        shape: voxels along the file's axes; None if the header can't be read.
        spacing: mm along the same axes.
        orientation: such as ``"RAS"``.
        num_slices: along the axis that slicing would cut by default.
        dtype, channels: of the values; None if they were not read.
        intensity: minimum, 0.5, 50 and 99.5 percentile, maximum; None if not read.
        pixels: voxels per label value > 0; None if unlabelled or not read.
        slices: slices per label value > 0.
        has_spacing: False if the file does not say how large a pixel is.
        notes: what the readers say of the files, a sentence each.
        problems: what is wrong with the files, a sentence each.
    """

    case: str
    split: str | None
    shape: tuple[int, int, int] | None = None
    spacing: Spacing | None = None
    orientation: str | None = None
    num_slices: int = 0
    dtype: str | None = None
    channels: int | None = None
    intensity: tuple[float, float, float, float, float] | None = None
    pixels: Mapping[int, int] | None = None
    slices: Mapping[int, int] | None = None
    has_spacing: bool = True
    notes: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)


def case_facts(
    source: CaseSource, *, read_values: bool, label_rule: Mapping[str, Any] | None = None
) -> CaseFacts:
    """Look at one case; what can't be read is among its problems, nothing is raised for it.

    Args:
        source: the case; of several channels or frames the first is looked at.
        read_values: read the values too, not the headers alone.
        label_rule: how stored label pixels become classes.
    """
    facts = CaseFacts(source.case, source.split)
    first = replace(source, images=source.images[:1])
    try:
        grid = case_grid(first)
        geometry = CaseGeometry.of(grid, case=source.case, axis=fixed_axis(first, None))
        facts = replace(
            facts,
            shape=grid.shape,
            spacing=grid.spacing,
            orientation=geometry.orientation,
            num_slices=geometry.slices_shape[0],
            has_spacing=getattr(grid, "has_spacing", True),
            notes=_notes(grid),
        )
        for label in label_grids(source):
            check_same_grid(grid, label)
        if read_values:
            facts = _with_values(facts, first, geometry, label_rule)
    except (ValueError, OSError) as error:
        facts.problems.append(" ".join(str(error).split()))
    return facts


def _with_values(
    facts: CaseFacts,
    source: CaseSource,
    geometry: CaseGeometry,
    label_rule: Mapping[str, Any] | None,
) -> CaseFacts:
    image = read_case_image(source)
    array = image.array
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    if finite.size < array.size:
        facts.problems.append(
            f"{source.image}: {array.size - finite.size} voxels are NaN or infinite"
        )
    if finite.size:
        low, middle, high = (float(value) for value in np.percentile(finite, PERCENTILES))
        limits = (float(finite.min()), low, middle, high, float(finite.max()))
        facts = replace(facts, intensity=limits)
    facts = replace(
        facts, dtype=str(array.dtype), channels=1 if array.ndim == 3 else int(array.shape[3])
    )
    label = read_case_label(source, rule=label_rule, like=image)
    if label is None:
        return facts
    facts = replace(facts, notes=(*facts.notes, *_notes(label)))
    values, counts = np.unique(label.array, return_counts=True)
    slices = volume_to_slices(label.array, geometry)
    return replace(
        facts,
        pixels={int(v): int(n) for v, n in zip(values, counts, strict=True) if v},
        slices={int(v): int((slices == v).any(axis=(1, 2)).sum()) for v in values if v},
    )


def _notes(grid: Grid) -> tuple[str, ...]:
    notes: tuple[str, ...] = getattr(grid, "notes", ())
    return notes
