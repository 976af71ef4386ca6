"""The options that say how cases are split, shared by ``slice`` and ``split``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samtune.preprocessing.patients import PatientRule
    from samtune.preprocessing.split_rule import SplitRule


def add_split_options(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    split = parser.add_mutually_exclusive_group()
    split.add_argument(
        "--split",
        nargs=3,
        type=float,
        metavar="RATIO",
        help="shares of cases for train, val and test (default: 0.7 0.1 0.2)",
    )
    split.add_argument(
        "--split-counts",
        nargs=3,
        type=int,
        metavar="N",
        help="numbers of cases for train, val and test; their sum is the number of cases",
    )
    split.add_argument(
        "--split-csv", type=Path, metavar="FILE", help="CSV with the columns case,split"
    )
    split.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="cross-validation: fold --fold is test, the next one val, the others train",
    )
    parser.add_argument(
        "--fold", type=int, default=0, metavar="I", help="from 0 to K - 1 (default: 0)"
    )
    parser.add_argument(
        "--stratify",
        choices=("presence", "volume"),
        help="deal cases with the same classes (presence), or of each quarter by label volume, "
        "alike to all splits (default: neither)",
    )
    patients = parser.add_mutually_exclusive_group()
    patients.add_argument(
        "--patient-regex",
        metavar="REGEX",
        help="cases of one patient stay in one split: regular expression whose group is the "
        "patient in the case id, such as '^(.+)_(left|right)$'",
    )
    patients.add_argument(
        "--patient-csv", type=Path, metavar="FILE", help="the same by the columns case,patient"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")


def is_split_asked(args: argparse.Namespace) -> bool:
    """Whether any option says how to split; else the dataset's own split may be taken."""
    ways = (args.split, args.split_counts, args.split_csv, args.folds, args.stratify)
    return args.fold != 0 or any(way is not None for way in ways)


def split_rule(args: argparse.Namespace) -> "SplitRule":
    """The rule that the options give; ValueError if they do not go together."""
    from samtune.preprocessing.split_rule import SplitRule
    from samtune.preprocessing.splits import DEFAULT_RATIO

    return SplitRule(
        args.split or DEFAULT_RATIO,
        args.split_counts,
        args.split_csv,
        folds=args.folds,
        fold=args.fold,
        stratify=args.stratify,
        seed=args.seed,
    )


def patient_rule(args: argparse.Namespace) -> "PatientRule | None":
    """What joins cases of one patient, None if no option says."""
    from samtune.preprocessing.patients import PatientRule

    if args.patient_regex is None and args.patient_csv is None:
        return None
    return PatientRule(args.patient_regex, args.patient_csv)
