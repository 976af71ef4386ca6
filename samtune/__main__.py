"""``python -m samtune`` is the ``samtune`` command."""

import sys

from samtune.cli import main

sys.exit(main())
