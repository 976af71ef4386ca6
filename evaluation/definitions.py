"""What the numbers of a metrics table mean, in the words that are written beside every table.

A Surface Dice without tool, tolerance and spacing rule, or an HD95 without its percentile rule,
can't be compared with anyone else's.
"""

from importlib.metadata import version

from samtune import __version__
from samtune.evaluation.surface_scores import DEFAULT_DEFINITION, Definition

DEFINITION_VERSION = 2  # goes up whenever a change here changes a number or a column

_SURFACE_DISTANCE = {
    "nsd": "Surface Dice by surface-distance (Nikolov et al. 2021): share of both surfaces' area "
    "within the tolerance in the column's name, inclusive",
    "hd95": "robust Hausdorff distance by surface-distance: in each direction the smallest "
    "distance whose cumulative area reaches 95 % (95 % times 1 - 1e-12, so that ties don't hang "
    "on rounding), without interpolation; the larger of both directions",
    "assd": "average symmetric surface distance: mean over the area of both surfaces together, by "
    "surface-distance's surface",
}
_MONAI = {
    "nsd": "Surface Dice by MONAI (SurfaceDiceMetric, use_subvoxels=False): share of both masks' "
    "outermost voxels within the tolerance in the column's name, inclusive",
    "hd95": "Hausdorff distance by MONAI (HausdorffDistanceMetric, percentile=95): 95th "
    "percentile of the distances of the outermost voxels, interpolated between ranks; the larger "
    "of both directions",
    "assd": "average symmetric surface distance by MONAI (SurfaceDistanceMetric, symmetric=True): "
    "mean over the outermost voxels of both masks together",
}


def definitions(definition: Definition = DEFAULT_DEFINITION) -> dict[str, str]:
    """What every column and status means, for the companion of a table."""
    return {
        "grid": "the case's own grid; prediction and reference must share it",
        "spacing": "voxel size in mm along each array axis, rounded to 6 decimals; images without "
        "have columns in px",
        "dice": "2 |A and B| / (|A| + |B|); background is never scored",
        "iou": "|A and B| / |A or B|",
        **(_MONAI if definition == "monai" else _SURFACE_DISTANCE),
        "volume": "voxels times voxel volume in ml, 10 significant digits; nan when there is no "
        "mask; the error is predicted minus reference",
        "sensitivity": "|A and B| / |B|, B being the reference",
        "precision": "|A and B| / |A|, A being the prediction",
        "cldice": "harmonic mean of the shares of either mask's centreline inside the other mask "
        "(Shit et al. 2021); centrelines by scikit-image's skeletonize",
        "both_empty": "class in neither mask: every metric is nan",
        "pred_empty": "class in the reference alone: overlaps and shares 0, distances inf",
        "ref_empty": "class in the prediction alone: overlaps and shares 0, distances inf",
        "missing_pred": "no prediction for the case: overlaps and shares 0, distances inf, "
        "whatever the reference holds",
        "failed": "unreadable file, other grid or unlisted label (see 'failures'): scored as "
        "missing_pred",
        "text": "'nan' is undefined (0/0), 'inf' infinitely far; an empty field was not asked for "
        "this class",
        "summary": "means are over cases that are not nan; n_nan and n_inf count nan dice and inf "
        "hd95; hd95_mm_median keeps inf, hd95_mm_mean_finite leaves inf out and n_hd95_finite "
        "says how many cases it is over",
    }


def tool_versions() -> dict[str, str]:
    """Versions of everything that takes part in a number."""
    packages = ("numpy", "scipy", "scikit-image")
    return {"samtune": __version__, **{name: version(name) for name in packages}}
