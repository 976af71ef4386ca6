"""``samtune postprocess``: choose by the validation cases which objects predictions lose."""

import argparse
import json
from pathlib import Path

from samtune.commands.run_options import (
    add_device_options,
    add_flips_option,
    add_weights_options,
)

HELP = "choose on a run's validation cases whether small objects are removed from predictions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument(
        "run_dir",
        metavar="RUN",
        type=Path,
        help="folder of a training run, or of the folds of a cross-validation: each chooses by its "
        "own held-out cases",
    )
    add_weights_options(parser)
    parser.add_argument(
        "--slices", type=Path, help="folder of slices (default: what it was trained on)"
    )
    add_flips_option(
        parser, "choose for predictions that are the mean over flipped slices (default: none)"
    )
    add_device_options(parser)


def run(args: argparse.Namespace) -> int:
    """Choose, and print a line a class; of a cross-validation for each fold, and for all."""
    from samtune.training.choose_postprocess import choose_postprocessing
    from samtune.training.ensemble import open_runs
    from samtune.training.postprocess import load_postprocessing

    runs = open_runs(args.run_dir)
    for run in runs:
        path = choose_postprocessing(
            run.path,
            adapter=args.adapter,
            checkpoint=args.checkpoint,
            dataset_dir=args.slices,
            device=args.device,
            batch_size=args.batch_size,
            flips=args.flips,
            progress=False if args.quiet else None,
        )
        record = json.loads(path.read_text())
        for name, step in record["chosen"].items():
            means = record["mean_dice"][name]
            before, after = (_text(means[one]) for one in ("none", step))
            print(f"{name}: {step} (validation Dice {before} without, {after} with)")
        print(path, flush=True)
    if len(runs) > 1:
        pooled = load_postprocessing(runs, args.adapter)
        chosen = {} if pooled is None else pooled.describe(runs[0].task.classes)
        listed = ", ".join(f"{name}: {step}" for name, step in chosen.items())
        print(f"ensemble, by the cases of all {len(runs)} folds: {listed}")
    return 0


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
