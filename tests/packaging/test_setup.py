"""setup.py is the one list of packages and dependencies; all else agrees with it."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from samtune import __version__
from samtune.commands import doctor


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def setup(repo_root: Path) -> ModuleType:
    return load(repo_root / "setup.py", "samtune_setup")


def name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def pins(repo_root: Path) -> dict[str, str]:
    lines = (repo_root / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {name_of(name): version for name, version in pairs}


def test_every_folder_with_code_is_a_package(repo_root: Path, setup: ModuleType):
    not_installed = {"tests", "scripts", "docs", "examples", "build", "dist", "runs"}
    folders = {
        file.parent.relative_to(repo_root).as_posix()
        for top in repo_root.iterdir()
        if top.is_dir() and not top.name.startswith(".") and top.name not in not_installed
        # An environment of any name is not ours.
        if not top.name.endswith(".egg-info") and not (top / "pyvenv.cfg").exists()
        for file in top.rglob("*.py")
    }
    assert {"samtune", "samtune/commands", "peft", "networks"} <= folders
    assert folders <= set(setup.package_folders().values())


def test_package_names_follow_their_folders(setup: ModuleType):
    packages = setup.package_folders()
    assert packages["samtune"] == "samtune"
    assert packages["samtune.commands"] == "samtune/commands"
    assert packages["samtune.peft"] == "peft"
    assert packages["samtune.bundles"] == "bundles"
    assert all(name == "samtune" or name.startswith("samtune.") for name in packages)


def test_deeper_folders_become_sub_packages(
    tmp_path: Path, setup: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "peft" / "layers").mkdir(parents=True)
    (tmp_path / "peft" / "layers" / "linear.py").touch()
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    assert setup.package_folders()["samtune.peft.layers"] == "peft/layers"


def test_version_is_the_one_of_the_package(setup: ModuleType):
    assert setup.version() == __version__


def test_citation_has_the_version(repo_root: Path):
    assert yaml.safe_load((repo_root / "CITATION.cff").read_text())["version"] == __version__


def test_dev_contains_the_other_extras(setup: ModuleType):
    # scripts/setup_env.sh takes an environment with `dev` for one with all extras, but for services
    # that are large and tested by a stand-in.
    left_out = ("dev", "mlflow", "wandb")
    others = {req for name, reqs in setup.EXTRAS.items() if name not in left_out for req in reqs}
    assert others <= set(setup.EXTRAS["dev"])


def test_requirements_and_environment_are_up_to_date(repo_root: Path):
    command = [sys.executable, "scripts/make_requirements.py", "--check"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_check_finds_a_stale_file(
    repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    script = load(repo_root / "scripts" / "make_requirements.py", "make_requirements")
    (tmp_path / "setup.py").write_text((repo_root / "setup.py").read_text())
    monkeypatch.setattr(script, "ROOT", tmp_path)
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0
    (tmp_path / "requirements.txt").write_text("torch\n")
    assert script.main(["--check"]) == 1
    assert "requirements.txt" in capsys.readouterr().err
    assert (tmp_path / "requirements.txt").read_text() == "torch\n"


def test_environment_lists_core_and_python(repo_root: Path, setup: ModuleType):
    environment = yaml.safe_load((repo_root / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    assert python == f"python{setup.PYTHON_REQUIRES}"
    assert pip["pip"][: len(setup.CORE)] == setup.CORE


def test_constraints_pin_every_dependency_exactly(repo_root: Path, setup: ModuleType):
    # what the tests run with: the tracking services are not among it
    extras = [reqs for name, reqs in setup.EXTRAS.items() if name not in ("mlflow", "wandb")]
    named = {name_of(req) for reqs in [setup.CORE, *extras] for req in reqs}
    assert named <= set(pins(repo_root))


def test_pre_commit_runs_the_pinned_ruff(repo_root: Path):
    config = yaml.safe_load((repo_root / ".pre-commit-config.yaml").read_text())
    revisions = {repo["repo"].rsplit("/", 1)[1]: repo["rev"] for repo in config["repos"]}
    assert revisions["ruff-pre-commit"] == "v" + pins(repo_root)["ruff"]


def test_lowest_python_is_the_same_everywhere(repo_root: Path, setup: ModuleType):
    tools = tomllib.loads((repo_root / "pyproject.toml").read_text())["tool"]
    low, high = (f"{major}.{minor}" for major, minor in (doctor.PYTHON_FROM, doctor.PYTHON_BELOW))
    assert f">={low},<{high}" == setup.PYTHON_REQUIRES
    assert tools["mypy"]["python_version"] == low
    assert tools["ruff"]["target-version"] == "py" + low.replace(".", "")


def test_doctor_looks_at_every_core_dependency(setup: ModuleType):
    assert {name_of(name) for name in doctor.REQUIRED} == {name_of(req) for req in setup.CORE}
