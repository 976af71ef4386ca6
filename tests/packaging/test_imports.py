"""Which folder imports which: read from the source of every file, so nothing is run."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import samtune

# Folder -> prefixes of samtune it may import. docs/architecture.md has the same table.
ALLOWED = {
    "networks": ["samtune.networks"],
    "peft": ["samtune.peft"],
    "preprocessing": ["samtune.preprocessing"],
    "evaluation": [
        "samtune.evaluation",
        "samtune.preprocessing.volumes",
        "samtune.preprocessing.run_cases",
    ],
    "training": [
        "samtune.training",
        "samtune.networks",
        "samtune.peft",
        "samtune.preprocessing",
        "samtune.evaluation",
    ],
}
# Our folders under a name without `samtune.`: would be a second copy of the module. `peft` is
# Hugging Face's, which the installed code doesn't use.
BARE = {*ALLOWED, "benchmarks", "bundles", "scripts", "tests"}


def imported(source: str) -> Iterator[str]:
    """Names of all imported modules; ``from a import b`` gives ``a.b``, as b may be a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            yield from (f"{dots}{node.module or ''}.{alias.name}" for alias in node.names)


def forbidden(source: str, allowed: list[str]) -> list[str]:
    """Imports that a file with these allowed prefixes must not have."""
    prefixes = ["samtune.__version__", "samtune.atomic", *allowed]

    def is_fine(name: str) -> bool:
        top = name.split(".")[0]  # empty for a relative import
        if top == "samtune":
            return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
        return bool(top) and top not in BARE

    return [name for name in imported(source) if not is_fine(name)]


@pytest.mark.parametrize("folder", ALLOWED)
def test_folder_imports_only_what_it_may(repo_root: Path, folder: str):
    files = sorted((repo_root / folder).rglob("*.py"))
    assert files
    wrong = {
        file.relative_to(repo_root).as_posix(): names
        for file in files
        if (names := forbidden(file.read_text(encoding="utf-8"), ALLOWED[folder]))
    }
    assert wrong == {}


@pytest.mark.parametrize("folder", ["samtune", "benchmarks", "scripts"])
def test_imports_are_absolute(repo_root: Path, folder: str):
    for file in sorted((repo_root / folder).rglob("*.py")):
        assert forbidden(file.read_text(encoding="utf-8"), ["samtune"]) == [], file


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from samtune.preprocessing.volumes import read_volume", []),
        ("from samtune.preprocessing import volumes", []),
        ("from samtune import __version__", []),
        ("import numpy", []),
        ("from samtune.preprocessing.slicing import x", ["samtune.preprocessing.slicing.x"]),
        ("def f():\n    import samtune.networks.build", ["samtune.networks.build"]),
        ("from samtune import networks", ["samtune.networks"]),
        ("from samtune.evaluation_old import x", ["samtune.evaluation_old.x"]),
        ("from peft import lora", ["peft.lora"]),
        ("from . import metrics", ["..metrics"]),
    ],
)
def test_the_check_itself(source: str, expected: list[str]):
    assert forbidden(source, ALLOWED["evaluation"]) == expected


def test_importing_samtune_imports_neither_torch_nor_numpy(repo_root: Path):
    code = "import sys, samtune, samtune.cli; print({'torch', 'numpy', 'monai'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize("name", sorted(set(samtune.__all__) - {"__version__"}))
def test_public_name_loads_at_first_use(name: str):
    assert callable(getattr(samtune, name))
    assert name in dir(samtune)


def test_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'buildsam'.*'build_sam'"):
        samtune.buildsam  # noqa: B018


def test_public_names_of_evaluation_load_at_first_use(repo_root: Path):
    code = (
        "import sys, samtune.evaluation as e, samtune.evaluation.score_files;"
        "print({'scipy.stats', 'matplotlib', 'torch', 'distributed'} & set(sys.modules));"
        "assert all(getattr(e, name) for name in e.__all__);"
        "assert set(e.__all__) <= set(dir(e))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("set()", 0), done.stderr


def test_importing_a_module_hides_no_public_name(repo_root: Path):
    code = (
        "import importlib, pkgutil, types, samtune, samtune.evaluation as e;"
        "found = pkgutil.iter_modules(e.__path__, 'samtune.evaluation.');"
        "[importlib.import_module(module.name) for module in found];"
        "names = [(p, n) for p in (samtune, e) for n in p.__all__];"
        "print([n for p, n in names if isinstance(getattr(p, n), types.ModuleType)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr
