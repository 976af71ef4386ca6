"""The wheel, built from a clean copy and used from another folder, has all that it needs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

BUILD_FILES = ["setup.py", "pyproject.toml", "LICENSE", "README.md"]
FOLDERS = ["peft", "networks", "preprocessing", "evaluation", "training", "benchmarks"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(__file__).resolve().parents[2]
    copy = tmp_path_factory.mktemp("source")  # a build leaves build/ and *.egg-info where it runs
    for folder in [*FOLDERS, "samtune", "bundles", "tests", "scripts"]:
        shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILD_FILES:
        if (root / name).exists():
            shutil.copy(root / name, copy)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--quiet", "--wheel-dir", str(out)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("samtune-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the unpacked wheel: what installing it would add to ``site-packages``."""
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def python(code: str, installed: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_wheel_has_every_code_and_data_file(wheel: Path, repo_root: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"samtune/py.typed"}
    for folder in FOLDERS:
        files = (repo_root / folder).rglob("*.py")
        expected |= {f"samtune/{path.relative_to(repo_root).as_posix()}" for path in files}
    data = [
        *(repo_root / "preprocessing" / "schemas").glob("*.json"),
        *(repo_root / "evaluation" / "report").glob("report.*s"),
        *(path for path in (repo_root / "bundles").glob("*/configs/**/*") if path.is_file()),
        *(repo_root / "bundles").glob("*/docs/*"),
        *(repo_root / "bundles").glob("*/LICENSE"),
    ]
    expected |= {f"samtune/{path.relative_to(repo_root).as_posix()}" for path in data}
    assert expected - names == set()


def test_wheel_adds_nothing_outside_samtune(wheel: Path):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"samtune"}


def test_wheel_has_no_tests_and_no_weights_but_the_releases_adapters(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.startswith(("samtune/tests", "samtune/scripts"))] == []
    assert [name for name in names if name.endswith((".pth", ".pt"))] == []
    adapters = {name for name in names if name.endswith(".safetensors")}
    hashes = {name for name in names if name.endswith("/SHA256SUMS")}
    releases = {name.removesuffix("SHA256SUMS") for name in hashes}
    assert adapters == {f"{folder}models/adapter_best.safetensors" for folder in releases}


def test_metadata_names_command_licence_and_extras(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        info = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(info).decode()
        entry_points = archive.read(info.replace("METADATA", "entry_points.txt")).decode()
        assert info.replace("METADATA", "licenses/LICENSE") in archive.namelist()
    assert "samtune = samtune.cli:main" in entry_points
    assert "License-Expression: Apache-2.0" in metadata
    assert "Provides-Extra: weights" in metadata
    assert "Requires-Dist: torch>=2.8" in metadata


def test_imports_from_another_folder(installed: Path, tmp_path: Path):
    lines = [f"import samtune.{folder}" for folder in FOLDERS]
    lines += ["import samtune.networks.weights, samtune.cli", "print(samtune.__file__)"]
    path = Path(python("; ".join(lines), installed, tmp_path))
    assert path == installed / "samtune" / "__init__.py"


def test_bundle_and_schema_files_are_found_as_resources(installed: Path, tmp_path: Path):
    code = (
        "from importlib.resources import files\n"
        "config = files('samtune.bundles') / 'sam_finetune' / 'configs' / 'train.yaml'\n"
        "schema = files('samtune.preprocessing') / 'schemas' / 'manifest.schema.json'\n"
        "print(config.is_file(), schema.is_file())"
    )
    assert python(code, installed, tmp_path) == "True True"


def test_command_runs_from_the_wheel(installed: Path, tmp_path: Path):
    code = "import sys; from samtune.cli import main; sys.exit(main(['weights', '--help']))"
    assert "usage: samtune weights" in python(code, installed, tmp_path)
