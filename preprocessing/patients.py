"""Which cases are of one patient: left and right eye, visits, several series."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samtune.preprocessing.slice_case import file_sha256
from samtune.preprocessing.splits import read_case_column

MAX_NAMED = 3


@dataclass(frozen=True)
class PatientRule:
    """Patient of a case by its id or by a table; exactly one of the two.

    Attributes:
        regex: regular expression searched in the case id; its group ``patient``, or its first
            group, is the patient: ``^(.+)_(left|right)$``.
        csv: file with the columns case,patient.

    Raises:
        ValueError: none or both, or an expression without a group.
    """

    regex: str | None = None
    csv: Path | None = None

    def __post_init__(self) -> None:
        if (self.regex is None) == (self.csv is None):
            raise ValueError("patients: expected a regular expression or a CSV, one of the two")
        if self.regex is not None:
            try:
                groups = re.compile(self.regex).groups
            except re.error as error:
                raise ValueError(
                    f"patients: {self.regex!r} is no regular expression ({error})"
                ) from error
            if groups < 1:
                raise ValueError(
                    f"patients: {self.regex!r} has no group; expected one round the patient, such "
                    "as ^(.+)_(left|right)$"
                )

    def of(self, cases: Iterable[str]) -> dict[str, str]:
        """Case id to patient, for all of ``cases``.

        Raises:
            FileNotFoundError: no such CSV.
            ValueError: cases that the expression does not match or the CSV does not list.
        """
        cases = list(cases)
        patients = self._by_regex(cases) if self.csv is None else _read_csv(Path(self.csv))
        missing = [case for case in cases if not patients.get(case)]
        if missing:
            more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
            raise ValueError(
                f"patients: {self.csv or repr(self.regex)} gives none for {len(missing)} of "
                f"{len(cases)} cases: {', '.join(missing[:MAX_NAMED])}{more}"
            )
        return {case: patients[case] for case in cases}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, without a path."""
        if self.csv is not None:
            return {"sha256": file_sha256(Path(self.csv))}
        return {"regex": self.regex}

    def _by_regex(self, cases: Iterable[str]) -> dict[str, str]:
        expression = re.compile(self.regex or "")
        group: int | str = "patient" if "patient" in expression.groupindex else 1
        matches = {case: expression.search(case) for case in cases}
        return {case: match[group] or "" for case, match in matches.items() if match is not None}


def check_patients(split: Mapping[str, str], patients: Mapping[str, str]) -> None:
    """Refuse a split that has cases of one patient on two sides.

    Raises:
        ValueError: names the patient and the cases.
    """
    first: dict[str, str] = {}
    for case in sorted(split):
        patient = patients.get(case, case)
        other = first.setdefault(patient, case)
        if split[other] != split[case]:
            raise ValueError(
                f"split: patient {patient!r} is in {split[other]} ({other}) and in {split[case]} "
                f"({case}); expected all cases of a patient in one split"
            )


def _read_csv(path: Path) -> dict[str, str]:
    patients: dict[str, str] = {}
    for line, case, patient in read_case_column(path, "patient"):
        if patients.setdefault(case, patient) != patient:
            raise ValueError(
                f"{path}: line {line}: case {case!r} has two patients, "
                f"{patients[case]!r} and {patient!r}"
            )
    return patients
