"""Which patient a case is of, for statistics whose unit is the patient."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def read_patients(path: str | Path) -> dict[str, str]:
    """Case to patient, from a table or a manifest.

    Args:
        path: a CSV (or tab-separated) table with columns ``case`` and ``patient``; or a folder's
            ``manifest.json``, or that folder, whose cases name their patient.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a case has two patients or none, or the manifest names no
            patient at all.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "manifest.json"
    text = path.read_text(encoding="utf-8-sig")
    return _of_manifest(text, path) if path.suffix == ".json" else _of_table(text, path)


def patients_of(
    cases: Iterable[str], patients: Mapping[str, str], source: str | Path
) -> tuple[str, ...]:
    """The patient of each case.

    Raises:
        ValueError: a case has none; names the cases.
    """
    cases = list(cases)
    missing = [case for case in cases if case not in patients]
    if missing:
        raise ValueError(f"{source}: no patient for case(s) {', '.join(missing)}")
    return tuple(patients[case] for case in cases)


def patients_of_companions(
    companions: Mapping[Path, Mapping[str, Any]], cases: Iterable[str]
) -> tuple[Path, tuple[str, ...]] | None:
    """The patient of each case, as the companions of tables of these cases say.

    Args:
        companions: table to the JSON beside it, empty where there is none.
        cases: of all the tables.

    Returns:
        The first table that knows patients, and these; ``None``: none does.

    Raises:
        ValueError: a companion lacks a case, or two join cases otherwise.
    """
    cases = list(cases)
    found: tuple[Path, tuple[str, ...]] | None = None
    for path, companion in companions.items():
        named = companion.get("patients")
        if not isinstance(named, dict) or not named:
            continue
        patients = patients_of(cases, {c: str(p) for c, p in named.items()}, path)
        if found is None:
            found = path, patients
        elif _joined(patients) != _joined(found[1]):  # the names may be others
            raise ValueError(
                f"{path}: its JSON joins cases to other patients than that of {found[0]}; say "
                "which is right with --patients"
            )
    return found


def _joined(patients: Sequence[str]) -> list[int]:
    """For each case the first one of its patient."""
    first: dict[str, int] = {}
    return [first.setdefault(patient, number) for number, patient in enumerate(patients)]


def _of_table(text: str, path: Path) -> dict[str, str]:
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    columns = reader.fieldnames or []
    if not {"case", "patient"} <= set(columns):
        raise ValueError(f"{path}: found columns {','.join(columns)}, expected case,patient")
    patients: dict[str, str] = {}
    for row in reader:
        case, patient = (row["case"] or "").strip(), (row["patient"] or "").strip()
        if not case or not patient:
            raise ValueError(f"{path} line {reader.line_num}: a case and its patient are expected")
        if patients.setdefault(case, patient) != patient:
            raise ValueError(f"{path}: case '{case}' has patients {patients[case]} and {patient}")
    return patients


def _of_manifest(text: str, path: Path) -> dict[str, str]:
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    cases = data.get("cases") if isinstance(data, dict) else None
    if not isinstance(cases, dict):
        raise ValueError(f"{path}: no 'cases', expected a manifest or a table case,patient")
    named = {
        case: str(record["patient"])
        for case, record in cases.items()
        if isinstance(record, dict) and record.get("patient")
    }
    if not named:
        raise ValueError(f"{path}: its cases name no patient; give a table case,patient instead")
    # a case that names none is a patient's only one
    return {case: named.get(case, f"case {case}") for case in cases}
