"""``samtune weights``: pretrained weights on this machine."""

import argparse

HELP = "find and check pretrained weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    path = actions.add_parser("path", help="print where an architecture's packaged weights lie")
    path.add_argument("arch", metavar="ARCH", help="architecture, e.g. lite_medsam")


def run(args: argparse.Namespace) -> int:
    """Print the path; the file's size and hash were checked."""
    from samtune.networks.weights import find_weights

    print(find_weights(args.arch))
    return 0
