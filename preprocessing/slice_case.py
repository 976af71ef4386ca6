"""Slicing of one case: its slice files first, then ``cases/CASE.json``, which says it is done."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samtune.atomic import write_atomically
from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.manifest import FORMAT_VERSION, CaseRecord, SliceRecord, read_json
from samtune.preprocessing.pairing import CaseFiles
from samtune.preprocessing.prepare import prepare_case
from samtune.preprocessing.read_case import fixed_axis, read_case_image, read_case_label
from samtune.preprocessing.slice_file import LABEL_MAX, LabelArray, write_slice_file
from samtune.preprocessing.slicing import volume_to_slices
from samtune.preprocessing.source_hash import source_sha256
from samtune.preprocessing.volumes import Volume, check_same_grid

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


def slice_file_name(case: str, index: int, layout: str) -> str:
    """Slice file of a case, relative to the output folder."""
    return f"slices/{case}.npz" if layout == "volume" else f"slices/{case}_{index:03d}.npz"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def try_slice_case(files: CaseFiles, out: Path, settings: dict[str, Any]) -> CaseOutcome:
    """:func:`slice_case`, with its failure as a line of text: one bad case ends no batch."""
    try:
        slice_case(files, out, settings)
    except (ValueError, OSError) as error:
        return CaseOutcome(files.case, _one_line(error))
    except Exception as error:  # a bug or no memory: still only this case
        return CaseOutcome(files.case, f"{files.image}: {type(error).__name__}: {_one_line(error)}")
    return CaseOutcome(files.case, None)


def slice_case(files: CaseFiles, out: Path, settings: dict[str, Any]) -> None:
    """Write all slices of a case, then its record.

    Args:
        files: image and label of the case.
        out: output folder; files go to ``out/slices`` and ``out/cases``.
        settings: as in the manifest (``intensity``, ``axis``, ``layout``, ``class_names`` count).

    Raises:
        ValueError: a file cannot be read, image and label do not fit, a label value does not fit
            uint16 or has no name although names were given.
    """
    image = read_case_image(files)
    label = read_case_label(files)
    if label is not None:
        check_same_grid(image, label)
        _check_values(label, settings["class_names"])
    imgs, geometry = prepare_case(
        image,
        case=files.case,
        intensity=Intensity.from_dict(settings["intensity"]),
        axis=fixed_axis(files, None if settings["axis"] == "auto" else settings["axis"]),
    )
    gts = None
    if label is not None:
        small = int(label.array.max()) <= np.iinfo(np.uint8).max
        gts = volume_to_slices(label.array, geometry).astype(np.uint8 if small else np.uint16)
    record = CaseRecord(
        geometry=geometry,
        split=NO_SPLIT,
        source_sha256=source_sha256(files.images),
        image_name=files.image.name,
        label_name=None if files.label is None else files.label.name,
        num_slices=len(imgs),
        label_sha256=source_sha256(files.labels) if files.labels else None,
    )
    layout = settings["layout"]
    rows = []
    for index in range(len(imgs)):
        one_file = layout == "volume"
        name = slice_file_name(files.case, index, layout)
        if not one_file:
            part = slice(index, index + 1)
            write_slice_file(out / name, imgs[part], None if gts is None else gts[part])
        pixels = None if gts is None else _pixels_by_value(gts[index])
        position = index if one_file else 0
        rows.append(SliceRecord(name, files.case, index, NO_SPLIT, pixels, position))
    if layout == "volume":
        write_slice_file(out / slice_file_name(files.case, 0, layout), imgs, gts)
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


def _check_values(label: Volume, class_names: dict[str, str]) -> None:
    values = [int(value) for value in np.unique(label.array) if value]
    if values and values[-1] > LABEL_MAX:
        raise ValueError(
            f"{label.path}: label value {values[-1]}; slice files hold values up to {LABEL_MAX}"
        )
    unnamed = [value for value in values if str(value) not in class_names]
    if class_names and unnamed:
        raise ValueError(
            f"{label.path}: label value {unnamed[0]} has no class name; "
            f"named are {', '.join(f'{value}:{name}' for value, name in class_names.items())}"
        )


def _pixels_by_value(label_slice: LabelArray) -> dict[int, int]:
    values, counts = np.unique(label_slice, return_counts=True)
    return {int(value): int(n) for value, n in zip(values, counts, strict=True) if value}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
