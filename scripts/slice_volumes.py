"""The same entry as ``samtune slice``, for use from a checkout."""

import sys

from samtune.cli import main

if __name__ == "__main__":
    sys.exit(main(["slice", *sys.argv[1:]]))
