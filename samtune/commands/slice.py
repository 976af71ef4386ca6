"""``samtune slice``: NIfTI volumes to slice files and a manifest."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from samtune.commands.split_options import (
    add_split_options,
    is_split_asked,
    patient_rule,
    split_rule,
)

if TYPE_CHECKING:
    from samtune.preprocessing.slice_volumes import SliceReport

HELP = "turn NIfTI volumes into slice files with a manifest"
EPILOG = """example:
  samtune slice images --labels labels --modality mr --out slices \\
    --split 0.7 0.1 0.2 --class-names "1:anterior,2:posterior"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``samtune slice``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Turn NIfTI volumes into slice files with a manifest; see --out."
    parser.epilog = EPILOG
    parser.add_argument(
        "images", type=Path, metavar="IMAGES", help="folder of .nii/.nii.gz volumes, or one volume"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        help="folder of label volumes of the same names (case_0000.nii.gz pairs with "
        "case.nii.gz), or one (default: unlabelled)",
    )
    parser.add_argument(
        "--modality",
        required=True,
        choices=("mr", "ct", "oct"),
        help="intensity scaling: mr clips to 0.5-99.5 %% of voxels > 0, ct takes a window, "
        "oct keeps uint8 or scales by minimum and maximum",
    )
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        type=Path,
        help="output folder: manifest.json, slices/, cases/, contact_sheet.png",
    )
    parser.add_argument(
        "--axis",
        default="auto",
        choices=("auto", "0", "1", "2"),
        help="axis to cut: 0 left-right, 1 posterior-anterior, 2 inferior-superior "
        "(default: auto, the largest spacing, ties 2)",
    )
    parser.add_argument(
        "--layout",
        default="slice",
        choices=("slice", "volume"),
        help="one file a slice or one a volume (default: slice)",
    )
    parser.add_argument(
        "--window",
        nargs=2,
        type=float,
        metavar=("LEVEL", "WIDTH"),
        help="intensity window in HU, ct only (default: 40 400)",
    )
    add_split_options(parser)
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes, each with one case in memory (default: number of cores)",
    )
    parser.add_argument(
        "--scheduler",
        default="processes",
        choices=("processes", "dask"),
        help="where cases are worked on: processes of this machine, or a Dask cluster that sees "
        "the same files (default: processes)",
    )
    parser.add_argument(
        "--address",
        metavar="URL",
        help="of the Dask scheduler, such as tcp://host:8786; 'dask scheduler' starts one",
    )
    parser.add_argument(
        "--class-names",
        type=parse_class_names,
        metavar="VALUE:NAME,...",
        help='names of the label values, such as "1:anterior,2:posterior"; every value that '
        "occurs must have one (default: no names)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done, write nothing"
    )
    parser.add_argument(
        "--force", action="store_true", help="remove a former run's files in --out and do it all"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")


def parse_class_names(text: str) -> dict[int, str]:
    """``"1:anterior,2:posterior"`` as a dictionary; wrong usage is an argparse error."""
    names: dict[int, str] = {}
    for item in text.split(","):
        value, colon, name = (part.strip() for part in item.partition(":"))
        if not colon or not name or not value.isdecimal() or int(value) < 1:
            raise argparse.ArgumentTypeError(
                f"{item.strip()!r} is not VALUE:NAME with a whole VALUE >= 1"
            )
        if int(value) in names or name in names.values():
            raise argparse.ArgumentTypeError(f"{item.strip()!r}: the value or name is there twice")
        names[int(value)] = name
    return names


def run(args: argparse.Namespace) -> int:
    """Slice; 0 if every case is complete, 1 if some failed (listed last, on stderr)."""
    from samtune.preprocessing.slice_volumes import slice_volumes

    report = slice_volumes(
        args.images,
        args.labels,
        modality=args.modality,
        out=args.out,
        axis=None if args.axis == "auto" else int(args.axis),
        layout=args.layout,
        window=None if args.window is None else tuple(args.window),
        split=split_rule(args) if is_split_asked(args) else None,
        patients=patient_rule(args),
        seed=args.seed,
        class_names=args.class_names,
        workers=args.workers,
        scheduler=args.scheduler,
        address=args.address,
        dry_run=args.dry_run,
        force=args.force,
        progress=not args.quiet,
    )
    if args.dry_run:
        _print_plan(report)
    elif not args.quiet:
        print(
            f"{report.out}: {report.num_slices} slices of "
            f"{len(report.done) + len(report.skipped)} cases; done {len(report.done)}, "
            f"skipped (already complete) {len(report.skipped)}, failed {len(report.failed)}"
        )
    sys.stdout.flush()
    for case, reason in report.failed.items():
        print(f"failed: {case}: {reason}", file=sys.stderr)
    return 1 if report.failed else 0


def _print_plan(report: "SliceReport") -> None:
    for planned in report.planned:
        geometry = planned.geometry
        size = "x".join(str(size) for size in geometry.shape)
        spacing = "x".join(f"{size:g}" for size in geometry.spacing)
        state = ", already complete" if planned.is_done else ""
        print(
            f"{geometry.case}: {size} voxels of {spacing} mm, {geometry.orientation}, "
            f"axis {geometry.axis}, {planned.num_slices} slices, {planned.split}{state}"
        )
    splits = [planned.split for planned in report.planned]
    names = dict.fromkeys(("train", "val", "test", *splits))
    counts = ", ".join(f"{splits.count(name)} {name}" for name in names)
    print(
        f"dry run, nothing written: {report.num_slices} slices of {len(report.planned)} cases "
        f"({counts}) would be in {report.out}"
    )
