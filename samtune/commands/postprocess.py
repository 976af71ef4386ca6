"""``samtune postprocess``: choose by the validation cases which objects predictions lose."""

import argparse
import json
from pathlib import Path

HELP = "choose on a run's validation cases whether small objects are removed from predictions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="folder of a training run")
    parser.add_argument(
        "--adapter",
        choices=("best", "last"),
        default="best",
        help="which epoch's weights (default: best on validation)",
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="base weights (default: those it was trained with)"
    )
    parser.add_argument(
        "--slices", type=Path, help="folder of slices (default: what it was trained on)"
    )
    parser.add_argument(
        "--flips",
        choices=("none", "h", "v", "hv"),
        default="none",
        help="choose for predictions that are the mean over flipped slices (default: none)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N, mps (default: auto)"
    )
    parser.add_argument("--batch-size", type=int, default=4, help="slices at a time (default: 4)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Choose, and print a line a class."""
    from samtune.training.choose_postprocess import choose_postprocessing

    path = choose_postprocessing(
        args.run_dir,
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
    print(path)
    return 0


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
