"""Slicing of one case: its slice files first, then ``cases/CASE.json``, which says it is done."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samtune.atomic import write_atomically
from samtune.preprocessing.folder_lock import locked_case
from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.label_steps import LabelSteps
from samtune.preprocessing.manifest import FORMAT_VERSION, CaseRecord, SliceRecord, read_json
from samtune.preprocessing.pairing import CaseFiles
from samtune.preprocessing.prepare import prepare_case
from samtune.preprocessing.read_case import (
    fixed_axis,
    read_case_image,
    read_case_label,
    with_ignored,
)
from samtune.preprocessing.slice_file import write_slice_file
from samtune.preprocessing.slice_settings import Slicing
from samtune.preprocessing.slicing import volume_to_slices
from samtune.preprocessing.source_hash import source_sha256
from samtune.preprocessing.volumes import Array, Volume, check_same_grid

NO_SPLIT = ""  # a case file has none: the split is of all cases together


@dataclass(frozen=True)
class CaseFile:
    """Content of ``cases/CASE.json``; the splits in it are not set yet."""

    settings: dict[str, Any]
    record: CaseRecord
    slices: list[SliceRecord]


@dataclass(frozen=True)
class CaseOutcome:
    """How slicing a case ended; ``error`` is one line, None if it went well."""

    case: str
    error: str | None


def case_path(out: Path, case: str) -> Path:
    """Where the record of a finished case is."""
    return out / "cases" / f"{case}.json"


def slice_file_name(case: str, number: int, layout: str) -> str:
    """File of the case's ``number``-th stored slice or tile, relative to the output folder."""
    return f"slices/{case}.npz" if layout == "volume" else f"slices/{case}_{number:03d}.npz"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def try_slice_case(
    files: CaseFiles, out: Path, settings: dict[str, Any], split: str | None = None
) -> CaseOutcome:
    """:func:`slice_case`, with its failure as a line of text: one bad case ends no batch."""
    try:
        with locked_case(case_path(out, files.case)):
            slice_case(files, out, settings, split)
    except (ValueError, OSError) as error:
        return CaseOutcome(files.case, _one_line(error))
    except Exception as error:  # a bug or no memory: still only this case
        return CaseOutcome(files.case, f"{files.image}: {type(error).__name__}: {_one_line(error)}")
    return CaseOutcome(files.case, None)


def slice_case(
    files: CaseFiles, out: Path, settings: dict[str, Any], split: str | None = None
) -> None:
    """Write all slices of a case, then its record.

    Args:
        files: image and label of the case.
        out: output folder; files go to ``out/slices`` and ``out/cases``.
        settings: as in the manifest (``intensity``, ``axis``, ``layout``, ``class_names``,
            ``slicing`` and ``label_steps`` count).
        split: of the case: only training cases, or those of no split, are cropped.

    Raises:
        ValueError: a file cannot be read, image and label do not fit, a label value does not fit
            uint16, has no rule in the label map, or no name although names were given.
    """
    image = read_case_image(files)
    steps = LabelSteps.from_dict(settings.get("label_steps", {}))
    rule = with_ignored(settings.get("label_rule"), steps.ignore_label, files)
    label = read_case_label(files, rule=rule, like=image)
    mapped = None
    if label is not None:
        check_same_grid(image, label)
        mapped = _label_values(label, steps, settings["class_names"])
    axis = fixed_axis(files, None if settings["axis"] == "auto" else settings["axis"])
    slicing = Slicing.from_dict(settings.get("slicing", {}), axis=axis)
    around = None
    if mapped is not None and slicing.crop_margin is not None and split in (None, "train"):
        around = mapped if steps.ignore_label is None else mapped * (mapped != steps.ignore_label)
    imgs, geometry = prepare_case(
        image,
        case=files.case,
        intensity=Intensity.from_dict(settings["intensity"]),
        slicing=slicing,
        label=around,
    )
    if slicing.channels == 3 and imgs.ndim == 3:
        imgs = np.repeat(imgs[..., None], 3, axis=3)
    gts = reference = None
    if mapped is not None:
        gts = steps.on_slices(volume_to_slices(mapped, geometry))
        if geometry.plane is not None:
            reference = gts if geometry.is_resampled else None
            gts = geometry.plane.store_labels(gts)
    record = CaseRecord(
        geometry=geometry,
        split=NO_SPLIT,
        source_sha256=source_sha256(files.images),
        image_name=files.image_name,
        label_name=files.label_name,
        num_slices=geometry.slices_shape[0],
        label_sha256=source_sha256(files.labels) if files.labels else None,
    )
    layout = settings["layout"]
    first = () if reference is None else (reference,)
    rows = []
    for number in range(len(imgs)):  # slice after slice, its tiles in a row
        one_file = layout == "volume"
        name = slice_file_name(files.case, number, layout)
        if not one_file:
            part = slice(number, number + 1)
            write_slice_file(
                out / name,
                imgs[part],
                None if gts is None else gts[part],
                *(first if number == 0 else ()),
            )
        pixels = None if gts is None else _pixels_by_value(gts[number], steps.ignore_label)
        position = number if one_file else 0
        index, tile = divmod(number, geometry.num_tiles)
        rows.append(SliceRecord(name, files.case, index, NO_SPLIT, pixels, position, tile))
    if layout == "volume":
        write_slice_file(out / slice_file_name(files.case, 0, layout), imgs, gts, *first)
    write_case_file(case_path(out, files.case), CaseFile(settings, record, rows))


def write_case_file(path: Path, content: CaseFile) -> None:
    """Write the record of a finished case, complete or not at all."""
    data = {
        "format_version": FORMAT_VERSION,
        "settings": content.settings,
        "record": content.record.to_dict(),
        "slices": [row.to_dict() for row in content.slices],
    }
    write_atomically(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def read_case_file(path: Path) -> CaseFile:
    """Inverse of :func:`write_case_file`.

    Raises:
        ValueError: not such a file, or of another format version.
    """
    data = read_json(path)
    try:
        record = CaseRecord.from_dict(data["record"])
        return CaseFile(
            data["settings"], record, [SliceRecord.from_dict(row) for row in data["slices"]]
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not the record of a sliced case ({error}); remove it or use --force"
        ) from error


def _label_values(label: Volume, steps: LabelSteps, class_names: dict[str, str]) -> Array:
    try:
        mapped = steps.on_volume(label.array)
    except ValueError as error:
        raise ValueError(f"{label.path}: {error}") from error
    if class_names:
        unnamed = [v for v in steps.class_values(mapped) if str(v) not in class_names]
        if unnamed:
            raise ValueError(
                f"{label.path}: label value {unnamed[0]} has no class name; "
                f"named are {', '.join(f'{value}:{name}' for value, name in class_names.items())}"
            )
    return mapped


def _pixels_by_value(label_slice: Array, ignore_label: int | None) -> dict[int, int]:
    counts = np.bincount(label_slice.ravel())
    values = (int(value) for value in np.flatnonzero(counts))
    return {value: int(counts[value]) for value in values if value not in (0, ignore_label)}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
