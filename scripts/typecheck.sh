#!/usr/bin/env bash
# mypy over samtune and the scripts. An editable install is served by an import hook, which mypy does
# not follow; a farm of links under build/typing gives it one plain package `samtune` instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

root="$PWD"
farm=build/typing
rm -rf "$farm"
mkdir -p "$farm/samtune"
ln -s "$root"/samtune/* "$farm/samtune/"
for folder in peft networks preprocessing evaluation training benchmarks; do
  ln -s "$root/$folder" "$farm/samtune/$folder"
done

python="$root/.venv/bin/python"
[[ -x "$python" ]] || python=python
mypy=("$python" -m mypy --config-file "$root/pyproject.toml" --cache-dir "$root/.mypy_cache")
(cd "$farm" && "${mypy[@]}" -p samtune)
shopt -s nullglob
for script in scripts/*.py; do # one at a time: two scripts may use the same helper names
  MYPYPATH="$farm" "${mypy[@]}" "$script"
done
