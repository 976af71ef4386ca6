"""How cases become train, val and test: by shares, numbers, folds or a table; always by patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from samtune.preprocessing.manifest import CaseRecord, SliceRecord
from samtune.preprocessing.patients import check_patients
from samtune.preprocessing.slice_case import file_sha256
from samtune.preprocessing.splits import (
    DEFAULT_RATIO,
    SPLITS,
    drawing_order,
    read_split_csv,
    split_cases,
    split_counts,
)

STRATA = ("presence", "volume")
VOLUME_GROUPS = 4

# label value to volume in mm3, of one case
LabelVolumes = Mapping[int, float]


@dataclass(frozen=True)
class SplitRule:
    """One way of splitting; what is split are patients where they are known, else cases.

    Attributes:
        ratio: shares of train, val and test.
        counts: numbers of patients or cases, in place of the shares.
        csv: file with the columns case,split, in place of both.
        folds: number of folds, at least 3, in place of all three.
        fold: with ``folds``: this fold is test, the next one val, the others are train; so each
            case is in test in one of the folds.
        stratify: deal alike to all splits: ``presence``, those that have the same label values;
            ``volume``, those of each quarter by total label volume.
        seed: another seed is another split.
        given: the dataset's own split.

    Raises:
        ValueError: settings that do not go together.
    """

    ratio: Sequence[float] = DEFAULT_RATIO
    counts: Sequence[int] | None = None
    csv: Path | None = None
    folds: int | None = None
    fold: int = 0
    stratify: Literal["presence", "volume"] | None = None
    seed: int = 0
    given: bool = False

    def __post_init__(self) -> None:
        ways = [self.counts is not None, self.csv is not None, self.folds is not None, self.given]
        if sum(ways) > 1:
            raise ValueError("split: expected one of counts, csv, folds and the dataset's own")
        if self.stratify is not None and self.stratify not in STRATA:
            raise ValueError(f"split: stratify must be presence or volume, got {self.stratify!r}")
        if self.stratify is not None and (self.csv is not None or self.given):
            raise ValueError("split: a given split cannot be stratified")
        if self.folds is not None and self.folds < 3:
            raise ValueError(f"split: folds must be >= 3 (train, val and test), got {self.folds}")
        if self.fold != 0 and not 0 <= self.fold < (self.folds or 0):
            raise ValueError(
                f"split: fold must be from 0 to folds - 1, got fold {self.fold} of {self.folds}"
            )

    def assign(
        self,
        cases: Sequence[str],
        *,
        patients: Mapping[str, str] | None = None,
        labels: Mapping[str, LabelVolumes] | None = None,
        given: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """Case id to ``train``, ``val`` or ``test``, sorted by case id.

        Args:
            cases: case ids, each once.
            patients: case id to patient; a case that is not there is a patient of its own.
            labels: case id to its label volumes, where they are to be stratified.
            given: the dataset's own split.

        Raises:
            FileNotFoundError: no such CSV.
            ValueError: a split that cannot be made, or that has a patient on two sides.
        """
        patients = patients or {}
        if self.csv is not None or self.given:
            split = dict(given or {}) if self.csv is None else read_split_csv(self.csv, cases)
            missing = sorted(set(cases) - set(split))
            if missing:
                raise ValueError(f"split: the dataset gives none for case {missing[0]!r}")
            check_patients(split, patients)
            return {case: split[case] for case in sorted(cases)}
        of_case = {case: patients.get(case, case) for case in cases}
        names = sorted(set(of_case.values()))
        if self.folds is None and self.stratify is None:
            split = split_cases(names, ratio=self.ratio, counts=self.counts, seed=self.seed)
        else:
            split = self._dealt(names, _of_units(of_case, labels))
        return {case: split[of_case[case]] for case in sorted(cases)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, without a path."""
        data: dict[str, Any] = {
            "rule": "ratio",
            "ratio": [float(share) for share in self.ratio],
            "seed": self.seed,
        }
        if self.given:
            return {"rule": "given"}
        if self.csv is not None:
            return {"rule": "csv", "sha256": file_sha256(Path(self.csv))}
        if self.counts is not None:
            data = {"rule": "counts", "counts": list(self.counts), "seed": self.seed}
        if self.folds is not None:
            data = {"rule": "folds", "folds": self.folds, "fold": self.fold, "seed": self.seed}
        return data if self.stratify is None else {**data, "stratify": self.stratify}

    def _dealt(self, names: list[str], labels: Mapping[str, LabelVolumes] | None) -> dict[str, str]:
        """Dealt like cards: each prefix of the order has the shares as nearly as can be."""
        order = drawing_order(names, self.seed)
        if self.stratify is not None:
            strata = _strata(names, labels, self.stratify)
            order.sort(key=lambda name: strata[name])  # stable: within a stratum as drawn
        if self.folds is None:
            hands = split_counts(len(names), self.ratio, self.counts)
            splits: Sequence[str] = SPLITS
        else:
            if len(names) < self.folds:
                raise ValueError(
                    f"split: {len(names)} cases or patients can't fill {self.folds} folds; "
                    f"choose {len(names)} folds at most"
                )
            hands = [len(order[fold :: self.folds]) for fold in range(self.folds)]
            of_fold = {self.fold: "test", (self.fold + 1) % self.folds: "val"}
            splits = [of_fold.get(fold, "train") for fold in range(self.folds)]
        return {name: splits[hand] for name, hand in zip(order, _deal(hands), strict=True)}


def deal_folds(
    cases: Sequence[str],
    folds: int,
    *,
    patients: Mapping[str, str] | None = None,
    labels: Mapping[str, LabelVolumes] | None = None,
    stratify: Literal["presence", "volume"] | None = None,
    seed: int = 0,
) -> dict[str, int]:
    """Case id to the number of its fold, sorted by case id; a patient's cases are in one fold.

    Args:
        cases: case ids, each once.
        folds: number of folds, at least 2.
        patients, labels: see :meth:`SplitRule.assign`.
        stratify, seed: see :class:`SplitRule`.

    Raises:
        ValueError: fewer patients than folds, or settings that can't be used.
    """
    if folds < 2:
        raise ValueError(f"folds must be >= 2, got {folds}")
    if stratify is not None and stratify not in STRATA:
        raise ValueError(f"split: stratify must be presence or volume, got {stratify!r}")
    of_case = {case: (patients or {}).get(case, case) for case in cases}
    names = sorted(set(of_case.values()))
    if len(names) < folds:
        raise ValueError(
            f"split: {len(names)} cases or patients can't fill {folds} folds; choose {len(names)} "
            "folds at most"
        )
    order = drawing_order(names, seed)
    if stratify is not None:
        strata = _strata(names, _of_units(of_case, labels), stratify)
        order.sort(key=lambda name: strata[name])  # stable: within a stratum as drawn
    hands = [len(order[fold::folds]) for fold in range(folds)]
    fold_of = dict(zip(order, _deal(hands), strict=True))
    return {case: fold_of[of_case[case]] for case in sorted(cases)}


def _deal(hands: Sequence[int]) -> list[int]:
    """Which hand each card goes to, in order: each prefix has the shares as nearly as can be."""
    dealt, result = [0] * len(hands), []
    for number in range(1, sum(hands) + 1):
        wanting = [
            round(hand * number / sum(hands) - has, 9)
            for hand, has in zip(hands, dealt, strict=True)
        ]
        result.append(wanting.index(max(wanting)))
        dealt[result[-1]] += 1
    return result


def label_volumes(
    cases: Mapping[str, CaseRecord], slices: Sequence[SliceRecord]
) -> dict[str, dict[int, float]]:
    """Volume in mm3 of each label value of each case.

    Raises:
        ValueError: a case without labels.
    """
    volumes: dict[str, dict[int, float]] = {case: {} for case in cases}
    for row in slices:
        if row.labels is None:
            raise ValueError(f"split: case {row.case!r} has no label to stratify by")
        size, in_case = 1.0, volumes[row.case]
        for length in cases[row.case].geometry.spacing:
            size *= length
        for value, pixels in row.labels.items():
            in_case[value] = in_case.get(value, 0.0) + pixels * size
    return volumes


def _of_units(
    of_case: Mapping[str, str], labels: Mapping[str, LabelVolumes] | None
) -> dict[str, dict[int, float]] | None:
    if labels is None:
        return None
    units: dict[str, dict[int, float]] = {}
    for case, unit in of_case.items():
        total = units.setdefault(unit, {})
        for value, volume in labels[case].items():
            total[value] = total.get(value, 0.0) + volume
    return units


def _strata(
    names: list[str], labels: Mapping[str, LabelVolumes] | None, by: str
) -> dict[str, tuple[int, ...]]:
    if labels is None:
        raise ValueError("split: labels are needed to stratify")
    if by == "presence":
        return {name: tuple(sorted(labels[name])) for name in names}
    ranked = sorted(names, key=lambda name: (sum(labels[name].values()), name))
    return {name: (VOLUME_GROUPS * rank // len(names),) for rank, name in enumerate(ranked)}
