#!/usr/bin/env bash
# Writes constraints.txt from what .venv holds. Run it after scripts/test.sh --slow has passed there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

new="$(mktemp constraints.XXXXXX)"
trap 'rm -f "$new"' EXIT
{
  echo "# Exact versions that the tests ran with, $(.venv/bin/python --version), $(uname -sm)."
  echo "# Made by scripts/freeze_constraints.sh. Pins only: what is installed is up to setup.py, so a"
  echo "# package of another platform or extra costs nothing."
  # Not `pip freeze`: it writes file addresses for packages that came from a local folder.
  .venv/bin/python -m pip list --format=freeze --exclude samtune --exclude pip --exclude wheel
} >"$new"
chmod 644 "$new"
mv "$new" constraints.txt
trap - EXIT
