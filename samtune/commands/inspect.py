"""``samtune inspect``: what a dataset folder holds, and what slicing it would take."""

import argparse
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from samtune.commands.slice_input import PLAIN, add_input_arguments, find_input

if TYPE_CHECKING:
    from samtune.commands.slice_input import SliceInput
    from samtune.preprocessing.inspection import Inspection

SAMPLE = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``samtune inspect``."""
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="folder of a dataset, of volumes, or one volume"
    )
    add_input_arguments(parser)
    parser.add_argument(
        "--sample",
        type=int,
        default=SAMPLE,
        metavar="N",
        help="cases whose values are read, evenly spread; 0 for all. Headers are read of all "
        "cases (default: %(default)s)",
    )
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help=".png or .svg of cases, slices and pixels a class and split; needs matplotlib",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    parser.set_defaults(
        usage_error=parser.error,
        modality=None,
        window=None,
        label_rule_file=None,
        label_map=None,
        class_names=None,
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 even if there are problems, which are listed last."""
    from samtune.preprocessing.inspection import as_text, inspect_cases
    from samtune.preprocessing.inspection_figure import draw_inspection

    if args.sample < 0:
        args.usage_error(f"--sample must be >= 0, got {args.sample}")
    named = args.input_layout
    args.skip_unpaired = True  # listed among the problems
    found = find_input(args, args.path)
    listing = found.listing
    if args.class_names and not args.label_map:  # names of a description; a map changes values
        listing = replace(listing, class_names=dict(args.class_names))
    report = inspect_cases(listing, sample=args.sample or None, label_rule=args.label_rule)
    data = report.to_dict()
    reasons = found.evidence.reasons if found.evidence else ()
    if found.description is not None:
        data |= {"modality": args.modality, "modality_from": f"dataset {found.description.name}"}
    data |= {"reasons": list(reasons), "command": _command(args, found, report, named)}
    if args.figure is not None:
        draw_inspection(report, args.figure)
    if args.json:
        print(json.dumps(data, indent=1))
        return 0
    print(as_text(data, reasons, report.values_of))
    print(f"\nto slice it:\n  {data['command']}")
    if data["problems"]:
        print(f"\n{len(data['problems'])} problems:")
        for problem in data["problems"]:
            print(f"  {problem}")
    return 0


def _command(
    args: argparse.Namespace, found: "SliceInput", report: "Inspection", named: str
) -> str:
    """The command line of ``samtune slice`` for the same folder."""
    words = ["samtune", "slice", str(args.path)]
    if args.dataset is not None:
        words += ["--dataset", args.dataset]
    elif named != "auto" and named != PLAIN:
        words += ["--input-layout", named]
    if args.labels is not None:
        words += ["--labels", str(args.labels)]
    for option in ("label_rule_file", "frame", "series"):
        if (value := getattr(args, option)) is not None:
            words += [f"--{option.removesuffix('_file').replace('_', '-')}", str(value)]
    if args.dataset is None:
        for option in ("pair", "image_folder", "label_folder"):
            if getattr(args, option) is not None:
                words += [f"--{option.replace('_', '-')}", getattr(args, option)]
        words += ["--modality", report.modality()[0]]
    channels = max(len(report.listing.channel_names), *(len(c.images) for c in found.cases))
    if channels > 1:
        words += ["--channel", args.channel or "0"]
    if report.listing.unpaired:
        words.append("--skip-unpaired")
    return shlex.join([*words, "--out", "slices"])
