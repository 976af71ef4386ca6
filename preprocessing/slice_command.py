"""The command line that makes slices with the settings of a manifest again."""

import shlex
from collections.abc import Mapping
from typing import Any

# what files say (--label-rule), was chosen of several volumes, or is hidden (--case-ids hmac)
_UNSAID = ("label_rule", "volume", "case_ids")


def slice_command(
    settings: Mapping[str, Any], *, split_csv: str | None = None, patient_csv: str | None = None
) -> str:
    """``samtune slice IMAGES ...`` with the options that give the same slices.

    Args:
        settings: of the manifest.
        split_csv, patient_csv: files with the columns ``case,split`` and ``case,patient``.
    """
    words = ["samtune", "slice", "IMAGES"]
    if settings.get("labelled"):
        words += ["--labels", "LABELS"]
    words += _intensity(settings["intensity"])
    names = settings.get("class_names") or {}
    if names:
        words += ["--class-names", ",".join(f"{value}:{name}" for value, name in names.items())]
    words += _labels(settings.get("label_steps") or {})
    if settings["axis"] != "auto":
        words += ["--axis", str(settings["axis"])]
    if settings["layout"] != "slice":
        words += ["--layout", settings["layout"]]
    words += _slicing(settings.get("slicing") or {})
    for option, file in (("--split-csv", split_csv), ("--patient-csv", patient_csv)):
        words += [] if file is None else [option, file]
    return shlex.join([*words, "--out", "slices"])


def unsaid_settings(settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings that :func:`slice_command` has no option for."""
    return [name for name in _UNSAID if settings.get(name)]


def _intensity(given: Mapping[str, Any]) -> list[str]:
    words = ["--modality", given["modality"]]
    if given.get("rule", "linear") != "linear":
        words += ["--preset", given["rule"]]
    if given["window_level"] is not None:
        words += ["--window", _number(given["window_level"]), _number(given["window_width"])]
    if given["lower_percentile"] is not None:
        limits = given["lower_percentile"], given["upper_percentile"]
        words += ["--percentiles", *map(_number, limits)]
    for name in ("scope", "bits"):
        words += [f"--{name}", str(given[name])] if name in given else []
    return words


def _labels(given: Mapping[str, Any]) -> list[str]:
    words = []
    for rule in given.get("map", ()):
        sources = rule["from"] if rule["from"] == "*" else ",".join(map(str, rule["from"]))
        name = f":{rule['name']}" if rule.get("name") else ""
        words += ["--label-map", f"{sources}=>{rule['to']}{name}"]
    for name in ("min_voxels", "min_pixels", "ignore_label"):
        words += [f"--{name.replace('_', '-')}", str(given[name])] if name in given else []
    return words


def _slicing(given: Mapping[str, Any]) -> list[str]:
    words = []
    if "spacing_mm" in given:
        words += ["--spacing", ",".join(map(_number, given["spacing_mm"]))]
    if "crop_margin" in given:
        words += ["--crop", f"{_number(given['crop_margin'])}{given.get('crop_unit', 'px')}"]
    if "tile_size" in given:
        words += ["--tile", str(given["tile_size"])]
        words += ["--tile-overlap", str(given.get("tile_overlap", 0))]
    if "channels" in given:
        words += ["--channels", str(given["channels"])]
    return words


def _number(value: float) -> str:
    """Shortest text that reads as the same number."""
    return repr(int(value)) if float(value).is_integer() else repr(value)
