"""What the numbers of a metrics table mean, in the words that are written beside every table.

A Surface Dice without tool, tolerance and spacing rule, or an HD95 without its percentile rule,
can't be compared with anyone else's.
"""

from importlib.metadata import version

from samtune import __version__

DEFINITION_VERSION = 1  # goes up whenever a change here changes a number

DEFINITIONS = {
    "grid": "the case's own grid; prediction and reference must share it",
    "spacing": "voxel size in mm along each array axis, rounded to 6 decimals",
    "dice": "2 |A and B| / (|A| + |B|); background is never scored",
    "iou": "|A and B| / |A or B|",
    "nsd": "Surface Dice by surface-distance (Nikolov et al. 2021): share of both surfaces' area "
    "within the tolerance in the column's name, inclusive",
    "hd95_mm": "robust Hausdorff distance by surface-distance: in each direction the smallest "
    "distance whose cumulative area reaches 95 % (95 % times 1 - 1e-12, so that ties don't hang "
    "on rounding), without interpolation; the larger of both directions",
    "volume": "voxels times voxel volume in ml, 10 significant digits; nan when there is no mask",
    "both_empty": "class in neither mask: dice, iou, nsd and hd95 are nan",
    "pred_empty": "class in the reference alone: dice, iou, nsd 0, hd95 inf",
    "ref_empty": "class in the prediction alone: dice, iou, nsd 0, hd95 inf",
    "missing_pred": "no prediction for the case: dice, iou, nsd 0, hd95 inf, whatever the "
    "reference holds",
    "failed": "unreadable file, other grid or unlisted label (see 'failures'): scored as "
    "missing_pred",
    "text": "'nan' is undefined (0/0), 'inf' infinitely far; no field is left empty",
    "summary": "means are over cases that are not nan; n_nan and n_inf count nan dice and inf "
    "hd95; hd95_mm_median keeps inf, hd95_mm_mean_finite leaves inf out and n_hd95_finite says "
    "how many cases it is over",
}


def tool_versions() -> dict[str, str]:
    """Versions of everything that takes part in a number."""
    packages = ("surface-distance", "numpy", "scipy")
    return {"samtune": __version__, **{name: version(name) for name in packages}}
