#!/usr/bin/env python3
"""The model zoo's checks of a built-out bundle, as far as they need no network.

python scripts/zoo_checks.py BUNDLE [--schema FILE]
"""

import argparse
import sys
from pathlib import Path

from samtune.training.release.verify import format_checks, passed
from samtune.training.release.zoo_checks import zoo_checks

# from the specification's text, not the published one
SCHEMA = Path(__file__).resolve().parent.parent / "tests/data/meta_schema.json"


def main() -> int:
    """Print a table; 0: nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--schema", type=Path, default=SCHEMA, help="default: %(default)s")
    args = parser.parse_args()
    checks = zoo_checks(args.bundle, args.schema)
    print(format_checks(checks))
    return 0 if passed(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
