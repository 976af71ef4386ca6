"""``samtune verify``: is a bundle what was released, and does it do here what it did there?"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("bundles", metavar="BUNDLE", type=Path, nargs="+", help="released bundle")
    parser.add_argument(
        "--device", default="cpu", help="to run the sample on (default: cpu, as it was recorded)"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 on warnings too")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def run(args: argparse.Namespace) -> int:
    """Print a table a bundle; 0: nothing failed, 1: something did."""
    from samtune.training.release.verify import format_checks, passed, verify_bundle

    results = {}
    for bundle in args.bundles:
        checks = verify_bundle(bundle, device=args.device)
        results[str(bundle)] = checks
        if not args.json:
            good = passed(checks, strict=args.strict)
            print(f"{bundle}\n{format_checks(checks)}\n{'verified' if good else 'NOT verified'}")
    if args.json:
        print(json.dumps({k: [asdict(c) for c in v] for k, v in results.items()}, indent=2))
    return 0 if all(passed(checks, strict=args.strict) for checks in results.values()) else 1
