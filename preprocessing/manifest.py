"""The manifest: one row a slice, one record a case, and the settings they were made with."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from samtune.atomic import write_atomically
from samtune.preprocessing.slicing import CaseGeometry
from samtune.preprocessing.splits import SPLITS

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SCHEMA_PATH = Path(__file__).parent / "schemas" / "manifest.schema.json"


@dataclass(frozen=True)
class SliceRecord:
    """One slice.

    Attributes:
        file: slice file, relative to the manifest's folder, with forward slashes.
        case: case id.
        index: of the slice along the case's RAS axis, from 0.
        split: ``train``, ``val`` or ``test``.
        labels: pixels per label value > 0, empty if there is none; None if unlabelled.
        position: of the slice along N within ``file``: 0 in layout ``slice``.
        tile: number of the tile, 0 unless slices are tiled.
    """

    file: str
    case: str
    index: int
    split: str
    labels: dict[int, int] | None
    position: int = 0
    tile: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        labels = None if self.labels is None else {str(k): n for k, n in self.labels.items()}
        return {
            "file": self.file,
            "case": self.case,
            "index": self.index,
            "position": self.position,
            **({"tile": self.tile} if self.tile else {}),
            "split": self.split,
            "labels": labels,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SliceRecord":
        """Inverse of :meth:`to_dict`."""
        labels = data["labels"]
        if labels is not None:
            labels = {int(value): int(pixels) for value, pixels in labels.items()}
        return cls(
            data["file"],
            data["case"],
            data["index"],
            data["split"],
            labels,
            data["position"],
            data.get("tile", 0),
        )


@dataclass(frozen=True)
class CaseRecord:
    """One case.

    Attributes:
        geometry: of the source file, with the axis that was cut.
        split: ``train``, ``val`` or ``test``.
        source_sha256: of the image file.
        image_name: name of the image file, without folder.
        label_name: name of the label file, None if unlabelled.
        num_slices: number of slices, all of the volume's.
        label_sha256: of the label file, None if unlabelled.
        patient: shared by cases that must be in one split, None if a case is one of its own.
    """

    geometry: CaseGeometry
    split: str
    source_sha256: str
    image_name: str
    label_name: str | None
    num_slices: int
    label_sha256: str | None = None
    patient: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        data: dict[str, Any] = {
            "geometry": self.geometry.to_dict(),
            "split": self.split,
            "num_slices": self.num_slices,
            "image_name": self.image_name,
            "source_sha256": self.source_sha256,
            "label_name": self.label_name,
            "label_sha256": self.label_sha256,
        }
        return data if self.patient is None else {**data, "patient": self.patient}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "CaseRecord":
        """Inverse of :meth:`to_dict`."""
        return cls(**{**data, "geometry": CaseGeometry.from_dict(data["geometry"])})


@dataclass(frozen=True)
class Manifest:
    """What a folder of slice files holds.

    Attributes:
        root: the folder; paths in the records are relative to it.
        settings: ``modality``, ``intensity``, ``axis`` (as asked for), ``layout``, ``labelled``,
            ``split`` (its rule), ``class_names`` (label value as text to name), ``label_values``
            (those > 0 that occur, sorted); where used, ``slicing`` and ``label_steps``.
        cases: case id to record, sorted.
        slices: records sorted by case and index.
        failed: sorted ids of cases of the input that could not be sliced.
    """

    root: Path
    settings: dict[str, Any]
    cases: dict[str, CaseRecord]
    slices: list[SliceRecord]
    failed: list[str] = field(default_factory=list)

    def select(self, split: str | None = None, *, case: str | None = None) -> list[SliceRecord]:
        """Slices of a split or a case or both, sorted by case and index.

        Raises:
            ValueError: unknown split or case.
        """
        if split is not None and split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if case is not None and case not in self.cases:
            raise ValueError(f"{self.root / MANIFEST_NAME}: no case {case!r}")
        return [
            record
            for record in self.slices
            if split in (None, record.split) and case in (None, record.case)
        ]

    def patients(self) -> dict[str, str]:
        """Case id to patient, of the cases that have one."""
        return {
            case: record.patient
            for case, record in self.cases.items()
            if record.patient is not None
        }

    def joint_values(self, case: str) -> dict[int, int] | None:
        """Label values in a case's files to those of several joined folders; None: one folder."""
        return None

    def ignore_label(self, case: str) -> int | None:
        """Value of pixels that nobody judged in the case's files; None if there is none."""
        value = self.settings.get("label_steps", {}).get("ignore_label")
        return None if value is None else int(value)

    def case_labels(self) -> list[int]:
        """Label values > 0 that occur in any slice, sorted; empty if unlabelled."""
        return label_values(self.slices)

    def path(self, record: SliceRecord) -> Path:
        """Where the slice file of a record is."""
        return self.root / record.file

    def save(self) -> None:
        """Write ``manifest.json`` in ``root``, complete or not at all; no time stamp in it."""
        records = sorted(self.slices, key=lambda row: (row.case, row.index, row.tile))
        cases = [
            f"{_dump(case)}: {_dump(self.cases[case].to_dict())}" for case in sorted(self.cases)
        ]
        rows = [_dump(record.to_dict()) for record in records]
        text = (  # one line a case, one a slice
            f'{{\n "format_version": {FORMAT_VERSION},\n "settings": {_dump(self.settings)},\n'
            f' "cases": {{\n  {_lines(cases)}\n }},\n "failed": {_dump(sorted(self.failed))},\n'
            f' "slices": [\n  {_lines(rows)}\n ]\n}}\n'
        )
        write_atomically(self.root / MANIFEST_NAME, text.encode())


def load_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a folder.

    Args:
        folder: the folder that ``samtune slice`` wrote, or its ``manifest.json``.

    Raises:
        FileNotFoundError: no manifest there.
        ValueError: not JSON, another format version, or a key that does not fit the schema
            (named as ``cases/NAME/geometry/axis``); a case without its slices or the reverse.
    """
    path = Path(folder)
    if path.name != MANIFEST_NAME:
        path = path / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected a folder written by 'samtune slice'"
        )
    data = read_json(path)
    check_against_schema(path, data, schema=json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))
    manifest = Manifest(
        root=path.parent,
        settings=data["settings"],
        cases={case: CaseRecord.from_dict(record) for case, record in data["cases"].items()},
        slices=[SliceRecord.from_dict(record) for record in data["slices"]],
        failed=data["failed"],
    )
    _check_records(path, manifest)
    return manifest


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of this format version.

    Raises:
        ValueError: not a JSON object, or ``format_version`` is another one.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(data).__name__}")
    if data.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {data.get('format_version')!r}; this version of samtune "
            f"reads {FORMAT_VERSION}; make the folder again with 'samtune slice'"
        )
    return data


def check_against_schema(path: Path, data: object, *, schema: dict[str, Any]) -> None:
    """Raise ValueError naming the file, the key and what the schema wants there."""
    error = best_match(Draft202012Validator(schema).iter_errors(data))
    if error is not None:
        key = "/".join(str(part) for part in error.absolute_path) or "top level"
        raise ValueError(f"{path}: {key}: {error.message}")


def _check_records(path: Path, manifest: Manifest) -> None:
    found: dict[str, list[tuple[int, int]]] = {case: [] for case in manifest.cases}
    for record in manifest.slices:
        if record.case not in found:
            raise ValueError(f"{path}: slices: case {record.case!r} of {record.file} is not listed")
        if record.split != manifest.cases[record.case].split:
            raise ValueError(f"{path}: slices: {record.file} is in another split than its case")
        found[record.case].append((record.index, record.tile))
    for case, record_of_case in manifest.cases.items():
        geometry = record_of_case.geometry
        expected = geometry.slices_shape[0]
        pairs = list(product(range(expected), range(geometry.num_tiles)))
        if record_of_case.num_slices != expected or sorted(found[case]) != pairs:
            tiles = "" if geometry.num_tiles == 1 else f" in {geometry.num_tiles} tiles"
            raise ValueError(
                f"{path}: cases/{case}: {len(found[case])} slices listed, num_slices is "
                f"{record_of_case.num_slices}, the geometry has {expected}{tiles}"
            )


def label_values(records: Iterable[SliceRecord]) -> list[int]:
    """Label values > 0 that occur in these slices, sorted."""
    return sorted({value for record in records for value in record.labels or ()})


def _lines(items: list[str]) -> str:
    return ",\n  ".join(items)


def _dump(value: object) -> str:
    return json.dumps(value, allow_nan=False)
