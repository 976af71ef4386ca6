"""The options of commands that load a trained run: which weights, where and how much at a time."""

import argparse
from pathlib import Path

BATCH_SIZE = 4
FLIPS = ("none", "h", "v", "hv")


def add_adapter_option(parser: argparse.ArgumentParser) -> None:
    """Declare ``--adapter``."""
    parser.add_argument(
        "--adapter",
        choices=("best", "last"),
        default="best",
        help="which epoch's weights (default: best on validation)",
    )


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """Declare ``--adapter`` and ``--checkpoint``."""
    add_adapter_option(parser)
    parser.add_argument(
        "--checkpoint", type=Path, help="base weights (default: those it was trained with)"
    )


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Declare ``--device``, ``--batch-size`` and ``--quiet``."""
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N, mps (default: auto)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=BATCH_SIZE,
        help=f"slices at a time (default: {BATCH_SIZE})",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def add_flips_option(group: argparse._ActionsContainer, help_text: str) -> None:
    """Declare ``--flips``."""
    group.add_argument("--flips", choices=FLIPS, default="none", help=help_text)
