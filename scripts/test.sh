#!/usr/bin/env bash
# Everything a change must pass: environment, lint, format, types, tests.
#
#   bash scripts/test.sh [--slow] [pytest arguments]
#
# --slow runs the slow tests too. PYTHON=/path/to/python picks the interpreter of a new .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

selection="not slow and not gpu"
pytest_args=()
for argument in "$@"; do
  case "$argument" in
    --slow) selection="not gpu" ;;
    -h | --help) sed -n '2,6p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) pytest_args+=("$argument") ;;
  esac
done

step() { # step NAME COMMAND...: runs it and says how long it took
  local name="$1" start="$SECONDS"
  shift
  echo "== $name"
  "$@"
  echo "== $name: $((SECONDS - start)) s"
}

step "environment" bash scripts/setup_env.sh dev
python=.venv/bin/python
step "ruff check" "$python" -m ruff check .
step "ruff format" "$python" -m ruff format --check .
step "mypy" bash scripts/typecheck.sh
echo "== pytest (-m \"$selection\")"
# two processes of one thread each: more threads would wait for each other
export OMP_NUM_THREADS=1
exec "$python" -m pytest -n 2 -m "$selection" ${pytest_args[@]+"${pytest_args[@]}"}
