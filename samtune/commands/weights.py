"""``samtune weights``: pretrained weights on this machine, and merged ones of a run."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    path = actions.add_parser("path", help="print where an architecture's packaged weights lie")
    path.add_argument("arch", metavar="ARCH", help="architecture, e.g. lite_medsam")
    merge = actions.add_parser(
        "merge", help="fold a run's adapter into its base: a plain SAM checkpoint and a class head"
    )
    merge.add_argument("run", metavar="RUN", help="folder of a run")
    merge.add_argument("--out", required=True, metavar="FILE", help="checkpoint to write (.pth)")
    merge.add_argument("--adapter", default="best", choices=["best", "last"], help="default: best")
    merge.add_argument("--checkpoint", metavar="FILE", help="base weights (default: the run's)")


def run(args: argparse.Namespace) -> int:
    """Print paths; size and hash of packaged weights were checked."""
    if args.action == "merge":
        from samtune.training.export import merge_run

        for path in merge_run(args.run, args.out, adapter=args.adapter, checkpoint=args.checkpoint):
            print(path)
        return 0
    from samtune.networks.weights import find_weights

    print(find_weights(args.arch))
    return 0
