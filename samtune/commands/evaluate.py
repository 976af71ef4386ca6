"""``samtune evaluate``: compare two folders of label volumes."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from samtune.evaluation.evaluate_folders import FolderReport
    from samtune.evaluation.regions import Region

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--pred", type=Path, required=True, metavar="DIR", help="folder of predicted label volumes"
    )
    parser.add_argument(
        "--ref",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of reference label volumes; a prediction has the same name",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="FILE.csv",
        help="table to write, one row a case and class; FILE.json (definitions, failures) and "
        "FILE_summary.csv are put beside it; an interrupted run goes on where it stopped",
    )
    parser.add_argument(
        "--tolerance-mm",
        type=float,
        action="append",
        metavar="MM",
        help="largest surface distance counted as agreement by Surface Dice, mm; repeat for "
        "several columns (default: 1)",
    )
    parser.add_argument(
        "--labels",
        type=_usage_error(_parse_labels),
        metavar="1:NAME,2:NAME",
        help="classes to score (default: every label of the reference files)",
    )
    parser.add_argument(
        "--region",
        type=_usage_error(_parse_regions),
        action="extend",
        metavar="NAME=1+2",
        help="union of classes to score as one; repeat for several; without --labels only these "
        "are scored",
    )
    parser.add_argument(
        "--class-tolerance-mm",
        type=_usage_error(_parse_class_tolerance),
        action="append",
        default=[],
        metavar="NAME=MM,MM",
        help="tolerances of one class or region in place of --tolerance-mm; repeat for several",
    )
    parser.add_argument(
        "--cldice",
        action="append",
        default=[],
        metavar="NAME",
        help="score this class's or region's centreline too (clDice, for vessels); repeat for "
        "several",
    )
    parser.add_argument(
        "--definition",
        choices=["surface-distance", "monai"],
        default="surface-distance",
        help="whose Surface Dice, HD95 and average surface distance (default: surface-distance)",
    )
    parser.add_argument(
        "--unit",
        choices=["mm", "px"],
        help="px ignores the files' spacing: tolerances and distances are in pixels (default: mm, "
        "or px where files have no spacing)",
    )
    parser.add_argument(
        "--ignore-label",
        type=int,
        metavar="VALUE",
        help="voxels of this class in the reference are scored in neither file",
    )
    parser.add_argument(
        "--resample-pred",
        action="store_true",
        help="put predictions that are on another grid on the reference's, nearest voxel "
        "(default: such a case fails)",
    )
    parser.add_argument(
        "--slices",
        type=Path,
        metavar="DIR",
        help="folder made by samtune slice: score the cases of its --split only (default: every "
        "reference)",
    )
    parser.add_argument(
        "--split", default="test", metavar="NAME", help="with --slices (default: test)"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, a case each (default: 1)"
    )
    parser.add_argument(
        "--scheduler",
        default="processes",
        choices=("processes", "dask"),
        help="where cases are scored: processes of this machine, or a Dask cluster that sees the "
        "same files, a case a thread of it (default: processes)",
    )
    parser.add_argument(
        "--address",
        metavar="URL",
        help="of the Dask scheduler, such as tcp://host:8786; 'dask scheduler' starts one",
    )
    parser.add_argument(
        "--patients",
        type=Path,
        metavar="FILE",
        help="table case,patient or a manifest: the summary's intervals draw patients (default: "
        "those of --slices, else each case is its own patient)",
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite FILE.csv if it holds another evaluation"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help='print the summary as JSON (nan as null, inf as "inf") instead of a table',
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no remarks")


def run(args: argparse.Namespace) -> int:
    """Evaluate; 1 if a prediction is missing or a case couldn't be scored, else 0."""
    from samtune.evaluation.evaluate_folders import evaluate_folders
    from samtune.evaluation.summary import format_summary, summary_for_json

    regions = [*(args.labels or []), *(args.region or [])]
    cases, patients = _cases_and_patients(args)
    report = evaluate_folders(
        args.pred,
        args.ref,
        args.out,
        regions=regions or None,
        cases=cases,
        tolerances_mm=args.tolerance_mm or [1.0],
        class_tolerances_mm=dict(args.class_tolerance_mm),
        cldice=args.cldice,
        definition=args.definition,
        unit=args.unit,
        ignore_label=args.ignore_label,
        resample_pred=args.resample_pred,
        workers=args.workers,
        scheduler=args.scheduler,
        address=args.address,
        force=args.force,
        progress=not args.quiet,
        patients=patients,
    )
    if args.json:
        print(json.dumps(summary_for_json(report.summary), indent=2, allow_nan=False))
    else:
        print(format_summary(report.summary))
    if not args.quiet:
        _print_remarks(report)
    _print_bad_cases(report)
    return 0 if report.is_complete else 1


def _cases_and_patients(
    args: argparse.Namespace,
) -> tuple[list[str] | None, dict[str, str] | None]:
    """What ``--slices`` and ``--patients`` say; None: every reference, each its own patient."""
    from samtune.evaluation.case_patients import read_patients
    from samtune.preprocessing.manifest import load_manifest

    patients = None if args.patients is None else read_patients(args.patients)
    if args.slices is None:
        return None, patients
    manifest = load_manifest(args.slices)
    cases = list(dict.fromkeys(record.case for record in manifest.select(args.split)))
    if not cases:
        msg = f"{args.slices}: no case is in the split '{args.split}'"
        raise ValueError(msg)
    known = manifest.patients()
    if patients is None and known.keys() & set(cases):
        patients = {case: known.get(case, f"case {case}") for case in cases}
    return cases, patients


def _print_remarks(report: "FolderReport") -> None:
    if report.labels_found:
        labels = ", ".join(region.label for region in report.regions)
        print(f"labels found in the reference files: {labels}", file=sys.stderr)
    if report.num_kept:
        print(f"{report.num_kept} cases kept from an earlier run", file=sys.stderr)
    written = (report.out, report.summary_out, report.companion)
    print(f"wrote {', '.join(map(str, written))}", file=sys.stderr)


def _print_bad_cases(report: "FolderReport") -> None:
    for case in report.extra:
        print(f"prediction without reference, not scored: {case}", file=sys.stderr)
    for case in report.missing:
        print(f"no prediction, scored as the worst: {case}", file=sys.stderr)
    for case, reason in report.failures.items():
        print(f"failed, scored as the worst: {case}: {reason}", file=sys.stderr)


def _parse_labels(text: str) -> "list[Region]":
    from samtune.evaluation.regions import parse_labels

    return parse_labels(text)


def _parse_regions(text: str) -> "list[Region]":
    from samtune.evaluation.regions import parse_regions

    return parse_regions(text)


def _parse_class_tolerance(text: str) -> tuple[str, list[float]]:
    name, equals, values = text.rpartition("=")
    if not equals or not name:
        raise ValueError(f"'{text}': expected NAME=MM or NAME=MM,MM, as in liver=2")
    return name, [float(value) for value in values.split(",")]


def _usage_error(parse: "Callable[[str], T]") -> "Callable[[str], T]":
    """``parse`` with its message kept: argparse replaces that of a ValueError by its own."""

    def parse_argument(text: str) -> "T":
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument
