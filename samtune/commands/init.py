"""``samtune init``: a config for one's own slices."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``samtune init``."""
    parser.description = (
        "Write CONFIGS/NAME.yaml for a folder of slices: its classes, paths, a suggested image "
        "and batch size, each with a comment. It is used after train.yaml, see its first lines."
    )
    parser.add_argument("name", metavar="NAME", help="of the config and the run")
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="DIR",
        help="folder that 'samtune slice' wrote; several are joined by class names",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("configs"),
        metavar="CONFIGS",
        help="folder of the config (default: configs)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite it")


def run(args: argparse.Namespace) -> int:
    """Write it; prints the file and its text."""
    from samtune.training.user_config import write_user_config

    folders = args.data[0] if len(args.data) == 1 else args.data
    path = write_user_config(args.name, folders, args.out, force=args.force)
    print(f"{path}\n{path.read_text()}", end="")
    return 0
