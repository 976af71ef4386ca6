#!/usr/bin/env bash
# Makes .venv beside setup.py and installs samtune in it, editable, with pinned versions.
#
#   bash scripts/setup_env.sh [EXTRAS]      EXTRAS: comma list of setup.py's extras, default "dev"
#
# Skips the install when .venv already holds these extras for the present setup.py, constraints.txt
# and pyproject.toml; "dev" contains the others. PYTHON=/path/to/python picks the interpreter.
# pip reads your own settings (index, proxy, cache); this script sets none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras="${1:-dev}"
stamp=.venv/samtune-install
venv_python=.venv/bin/python

fail() { echo "setup_env.sh: $1" >&2; exit 1; }

supported() { # is $1 an interpreter that runs and is 3.11 to 3.13?
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null
}

minor_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.11 python3.12 python3.13 python; do
    if supported "$candidate"; then echo "$candidate"; return; fi
  done
  fail "no Python 3.11 to 3.13 on PATH (python3 is $(python3 --version 2>&1 || true)); set PYTHON=/path/to/python"
}

make_venv() {
  local python
  python="$(find_python)"
  # Debian ships venv and ensurepip apart from python3.
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make environments: its venv module is missing (Debian, Ubuntu: install python3-venv)"
  echo "making .venv with $python ($("$python" --version 2>&1))"
  "$python" -m venv .venv
}

if [[ -n "${PYTHON:-}" ]] && ! supported "$PYTHON"; then
  fail "PYTHON=$PYTHON is not a working Python 3.11 to 3.13"
fi
# A venv cut off half-way has no pip yet; making it again completes it.
if [[ ! -e "$venv_python" ]] || ! "$venv_python" -m pip --version >/dev/null 2>&1; then
  make_venv
fi
if [[ -n "${PYTHON:-}" && "$(minor_of "$PYTHON")" != "$(minor_of "$venv_python")" ]]; then
  fail ".venv has Python $(minor_of "$venv_python"), PYTHON=$PYTHON is $(minor_of "$PYTHON"); remove .venv or unset PYTHON"
fi

wanted_hash="$("$venv_python" - setup.py constraints.txt pyproject.toml <<'PY'
import hashlib, pathlib, platform, sys
# The folder: an editable install points at it, so a copied or moved .venv is not up to date.
parts = [platform.python_version(), str(pathlib.Path.cwd())]
parts += [pathlib.Path(name).read_text(encoding="utf-8") for name in sys.argv[1:]]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())
PY
)"

has_hash="" has_extras=""
if [[ -f "$stamp" ]]; then { read -r has_hash && read -r has_extras; } <"$stamp" || true; fi
if [[ "$has_hash" == "$wanted_hash" ]]; then
  missing=""
  for extra in ${extras//,/ }; do
    [[ ",$has_extras," == *",$extra,"* || ",$has_extras," == *",dev,"* ]] || missing=yes
  done
  if [[ -z "$missing" ]]; then
    echo "environment: .venv is up to date (extras: $has_extras)"
    exit 0
  fi
  extras="$has_extras,$extras"
fi

rm -f "$stamp" # an install cut off half-way must not look finished
"$venv_python" -m pip install --quiet -c constraints.txt -e ".[$extras]"
printf '%s\n%s\n' "$wanted_hash" "$extras" >"$stamp"
echo "environment: installed .[$extras]"
