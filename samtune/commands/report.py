"""``samtune report``: a run as one HTML file, and its figures for a paper."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="folder of a training run")
    parser.add_argument(
        "-o", "--out", type=Path, help="HTML file to write (default: RUN/report.html)"
    )
    parser.add_argument(
        "--slices", type=Path, help="folder of the slices (default: those it was trained on)"
    )
    parser.add_argument(
        "--split",
        choices=("train", "val", "test"),
        default="test",
        help="which cases' metrics and predictions (default: test)",
    )
    parser.add_argument(
        "--no-figures", action="store_true", help="do not write PNG, SVG and PDF to RUN/figures"
    )


def run(args: argparse.Namespace) -> int:
    """Write the report and print where it is, last."""
    from samtune.evaluation.report.page import write_report
    from samtune.training.report import run_facts

    facts = run_facts(args.run_dir, slices=args.slices, split=args.split)
    out = write_report(facts, args.out or args.run_dir / "report.html")
    if not args.no_figures:
        try:
            from samtune.evaluation.report.figures import write_figures
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "matplotlib":
                raise
            print('no figures: pip install "samtune[plots]"', file=sys.stderr)
        else:
            files = write_figures(facts, args.run_dir / "figures")
            if files:
                print(f"{len(files)} figures in {args.run_dir / 'figures'}")
    print(out)
    return 0
