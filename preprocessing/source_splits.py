"""Splits of a dataset's cases: its own where it has one, all of a patient on one side."""

from collections.abc import Mapping, Sequence
from typing import Any

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.splits import SPLITS, split_cases


def split_sources(
    sources: Sequence[CaseSource],
    *,
    ratio: Sequence[float],
    counts: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, str]:
    """Draw the splits as :func:`~samtune.preprocessing.splits.split_cases`, by patient.

    Cases without a patient are each their own. With patients, shares are of patients, and
    ``counts`` are refused, as patients have different numbers of cases.
    """
    if not any(one.patient for one in sources):
        return split_cases([one.case for one in sources], ratio=ratio, counts=counts, seed=seed)
    if counts is not None:
        raise ValueError(
            "split: cases are joined by patient, so their numbers can't be chosen; give shares"
        )
    # the prefixes keep a case without patient apart from a patient of that name
    owner = {
        one.case: f"patient:{one.patient}" if one.patient else f"case:{one.case}" for one in sources
    }
    drawn = split_cases(sorted(set(owner.values())), ratio=ratio, seed=seed)
    return {case: drawn[name] for case, name in sorted(owner.items())}


def complete_split(
    sources: Sequence[CaseSource], given: Mapping[str, str], *, ratio: Sequence[float], seed: int
) -> tuple[dict[str, str], dict[str, Any]]:
    """The dataset's own split; cases without one are drawn among the splits that it lacks.

    Returns:
        Case id to split, sorted, and the rule as in the manifest.

    Raises:
        ValueError: a patient has cases in two splits, or no share is left for the rest.
    """
    check_patients(sources, given)
    rule: dict[str, Any] = {"rule": "given"}
    rest = [one for one in sources if one.case not in given]
    drawn: dict[str, str] = {}
    if rest:
        shares = [
            0.0 if name in given.values() else float(share)
            for name, share in zip(SPLITS, ratio, strict=True)
        ]
        drawn = split_sources(rest, ratio=shares, seed=seed)
        rule.update(ratio=shares, seed=seed)
        check_patients(sources, {**given, **drawn})
    return dict(sorted({**given, **drawn}.items())), rule


def check_patients(sources: Sequence[CaseSource], split: Mapping[str, str]) -> None:
    """Do nothing if all cases of each patient are in one split.

    Raises:
        ValueError: a patient is in two; names the patient and its cases.
    """
    for text in patients_in_two_splits(sources, split):
        raise ValueError(f"split: {text}; expected all cases of a patient in one split")


def patients_in_two_splits(sources: Sequence[CaseSource], split: Mapping[str, str]) -> list[str]:
    """A phrase for each patient who has cases in several splits."""
    by_patient: dict[str, dict[str, str]] = {}
    for one in sources:
        if one.patient is not None and one.case in split:
            by_patient.setdefault(one.patient, {})[one.case] = split[one.case]
    return [
        f"patient {patient!r} is in several ({', '.join(f'{c}: {s}' for c, s in found.items())})"
        for patient, found in sorted(by_patient.items())
        if len(set(found.values())) > 1
    ]
