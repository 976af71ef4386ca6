"""``samtune methods``: the PEFT methods with what each of them trains."""

import argparse
import json
from dataclasses import asdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("--backbone", default="vit_b", help="architecture (default: vit_b)")
    parser.add_argument("--blocks", default="all", help="all, last:N or 0,3,9 (default: all)")
    parser.add_argument(
        "--decoder",
        default="frozen",
        choices=["frozen", "full", "same"],
        help="mask decoder: frozen, trained in full, or the same method (default: frozen)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list to stdout")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from samtune.training.method_table import method_table

    rows = method_table(args.backbone, blocks=args.blocks, decoder=args.decoder)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    head = ("method", "trainable", "% of SAM", "decoder", "file", "merge", "step 0", "what")
    table = [head]
    for row in rows:
        if row.trainable is None or row.percent is None or row.file_bytes is None:
            table.append((row.method, "-", "-", "-", "-", "", "", row.note))
            continue
        table.append(
            (
                row.method,
                f"{row.trainable:,}",
                f"{row.percent:.3f}",
                f"{row.components['decoder']:,}",
                _size(row.file_bytes),
                "yes" if row.mergeable else "no",
                row.identity,
                row.about,
            )
        )
    widths = [max(len(line[i]) for line in table) for i in range(len(head) - 1)]
    numeric = {1, 2, 3, 4}
    for line in table:
        cells = [
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=False))
        ]
        print("  ".join([*cells, line[-1]]).rstrip())
    print(
        f"{args.backbone}, blocks {args.blocks}: parameters trained in the encoder, with the "
        "method's defaults; the class head (140,065 a class) comes on top"
    )
    return 0


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
