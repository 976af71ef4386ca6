"""Descriptions of public datasets, from YAML: how a folder of one becomes slices.

A description is the section ``source`` of a file ``NAME.yaml``; what else the file holds is not for
slicing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

SECTION = "source"


@dataclass(frozen=True)
class DatasetDescription:
    """What is known of a dataset.

    Attributes:
        name: of its file.
        title: what it shows, one line.
        url: where it comes from.
        licence: as its source states it, or what could not be found out.
        modality: for the intensity step.
        layout: name in ``LAYOUTS``.
        images, labels: folders, where the layout has no fixed ones.
        pair: rule from image to label, where names differ.
        patient: regular expression; its first group in the case id names the patient.
        channel: number or name, where images have several.
        label_map: rules ``VALUES=>TARGET:NAME``, for values other than those to train on.
        label_rule: how stored label pixels become classes, such as ``colours: {1: [255, 0, 0]}``.
        class_names: label value to name, after the map or the rule.
        window: CT level and width in HU.
        spacing: pixel or voxel size, in words.
    """

    name: str
    title: str
    url: str
    licence: str
    modality: str
    layout: str = "auto"
    images: str | None = None
    labels: str | None = None
    pair: str | None = None
    patient: str | None = None
    channel: str | None = None
    label_map: str | None = None
    label_rule: Mapping[str, Any] | None = None
    class_names: Mapping[int, str] | None = None
    window: tuple[float, float] | None = None
    spacing: str = "unknown"


def read_description(path: Path) -> DatasetDescription:
    """Read a description.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, no section ``source``, or a key that is missing, unknown or of
            another form; it is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such description of a dataset")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    source = data.get(SECTION) if isinstance(data, dict) else None
    if not isinstance(source, dict):
        raise ValueError(f"{path}: expected a section '{SECTION}'")
    known = {field.name for field in fields(DatasetDescription)} - {"name"}
    needed = {"title", "url", "licence", "modality"}
    if not needed <= set(source) <= known:
        raise ValueError(
            f"{path}: {SECTION}: missing {sorted(needed - set(source))}, "
            f"unknown {sorted(set(source) - known)}"
        )
    return DatasetDescription(name=path.stem, **{k: _value(path, k, source[k]) for k in source})


def _value(path: Path, key: str, value: Any) -> Any:
    """The value in the type of its field."""
    try:
        if key == "class_names":
            return {int(number): str(name) for number, name in value.items()}
        if key == "label_rule":
            return {str(name): entry for name, entry in value.items()}
        if key == "window":
            level, width = value
            return float(level), float(width)
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"{path}: {SECTION}: {key} is {value!r}") from None
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{path}: {SECTION}: {key} is {value!r}; expected text")
    return value


def find_descriptions(folder: Path) -> dict[str, Path]:
    """Names and files of the descriptions in a folder, sorted."""
    return {path.stem: path for path in sorted(Path(folder).glob("*.yaml"))}
