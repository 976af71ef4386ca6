"""``samtune split``: another split of a folder of slices, without slicing again."""

import argparse
from pathlib import Path

from samtune.commands.split_options import add_split_options, patient_rule, split_rule

EPILOG = r"""examples:
  samtune split slices --folds 5 --fold 2 --stratify volume
  samtune split slices --split 0.6 0.2 0.2 --patient-regex '^(.+)_(left|right)$' --seed 7
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``samtune split``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Rewrite which cases of a folder of slices are for train, val and test. Only manifest.json "
        "changes. Cases of one patient, where the folder or an option says so, stay together."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="folder that 'samtune slice' wrote"
    )
    add_split_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the split, write nothing")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing")


def run(args: argparse.Namespace) -> int:
    """Split; prints one line a split."""
    from samtune.preprocessing.split_plan import resplit_folder
    from samtune.preprocessing.splits import SPLITS

    manifest = resplit_folder(
        args.folder, split_rule(args), patient_rule(args), dry_run=args.dry_run
    )
    if args.quiet:
        return 0
    patients = manifest.patients()
    for name in SPLITS:
        cases = [case for case, record in manifest.cases.items() if record.split == name]
        number = len({patients.get(case, case) for case in cases})
        of_patients = f" of {number} patients" if patients else ""
        print(
            f"{name}: {len(cases)} cases{of_patients}, {len(manifest.select(name))} slices: "
            f"{', '.join(cases) or 'none'}"
        )
    if args.dry_run:
        print("dry run, nothing written")
    return 0
