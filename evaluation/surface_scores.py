"""Surface Dice, HD95 and average surface distance of two masks, by two definitions.

``surface-distance``: google-deepmind/surface-distance (Nikolov et al. 2021, doi:10.2196/26151),
surface elements weighted by area, HD95 without interpolation. ``monai``: MONAI's
``SurfaceDice``, ``HausdorffDistance(percentile=95)`` and symmetric ``SurfaceDistance`` with their
defaults: outermost voxels of equal weight and an interpolated percentile.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from samtune.evaluation.nearest_surface import neighbours, surface_distances
from samtune.evaluation.surface import BoolArray, corner_surface, voxel_surface

Definition: TypeAlias = Literal["surface-distance", "monai"]
DEFAULT_DEFINITION: Definition = "surface-distance"
KNOWN: tuple[Definition, ...] = get_args(Definition)

# The smallest distance whose cumulative area reaches 95 %; the factor settles exact ties, which
# plain floating-point sums would settle by rounding noise.
HD_PERCENT = 95.0 * (1 - 1e-12)


@dataclass(frozen=True)
class SurfaceScores:
    """Surface metrics of two masks that both have voxels; lengths in the unit of the spacing.

    Attributes:
        nsd: tolerance -> Surface Dice at it, in [0, 1].
        hd95: 95th percentile of the surface distances, the larger of both directions.
        assd: mean over both surfaces together, by area; NaN where it wasn't asked for.
    """

    nsd: dict[float, float]
    hd95: float
    assd: float


def surface_scores(
    pred: BoolArray,
    ref: BoolArray,
    spacing: tuple[float, ...],
    tolerances: Sequence[float],
    *,
    definition: Definition = DEFAULT_DEFINITION,
    assd: bool = True,
) -> SurfaceScores:
    """Score two masks of one shape, 2D or 3D, each with at least one voxel.

    Args:
        pred, ref: masks; a crop around both gives the same numbers sooner.
        spacing: voxel size, one entry per array axis.
        tolerances: of the Surface Dice, in the same unit, inclusive.
        definition: whose numbers.
        assd: also the average distance; without it the search stops sooner.
    """
    reach = neighbours(spacing).reach
    enough_mm, enough_percent = max(tolerances), HD_PERCENT
    if definition == "monai":
        one, other = voxel_surface(pred, reach), voxel_surface(ref, reach)
    else:
        one, other = corner_surface(pred, reach, spacing), corner_surface(ref, reach, spacing)
    if assd or definition == "monai":  # interpolation looks beyond the percentile
        enough_mm = math.inf
    there = surface_distances(
        one, other, spacing, enough_mm=enough_mm, enough_percent=enough_percent
    )
    back = surface_distances(
        other,
        one,
        spacing,
        enough_mm=enough_mm,
        enough_percent=enough_percent,
        at_least_mm=there.area_percentile(HD_PERCENT),  # the larger direction counts
    )
    both = there, back
    total = sum(found.total for found in both)
    if definition == "monai":
        hd95 = max(found.rank_percentile(95) for found in both)
    else:
        hd95 = max(found.area_percentile(HD_PERCENT) for found in both)
    return SurfaceScores(
        nsd={t: sum(found.area_within(t) for found in both) / total for t in tolerances},
        hd95=hd95,
        assd=sum(found.sum() for found in both) / total if assd else math.nan,
    )


def check_definition(name: str) -> Definition:
    """The definition of that name.

    Raises:
        ValueError: there is none.
    """
    for known in KNOWN:
        if name == known:
            return known
    raise ValueError(f"definition '{name}', expected one of {', '.join(KNOWN)}")
