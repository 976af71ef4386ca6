"""``import peft`` from the repository root is Hugging Face's, never our folder."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest


def has_distribution(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]  # -c puts the current folder first on sys.path
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("folder", ["peft", "scripts"])
def test_folder_has_no_init(repo_root: Path, folder: str):
    assert (repo_root / folder).is_dir()
    assert not (repo_root / folder / "__init__.py").exists()


@pytest.mark.skipif(not has_distribution("peft"), reason="Hugging Face peft is not installed")
def test_import_peft_from_the_root_is_hugging_faces(repo_root: Path):
    done = python("import peft; print(hasattr(peft, 'LoraConfig'), peft.__file__)", repo_root)
    assert done.returncode == 0, done.stderr
    found, path = done.stdout.split(maxsplit=1)
    assert found == "True"
    assert Path(path.strip()).parent != repo_root / "peft"


def test_samtune_peft_is_our_folder(repo_root: Path):
    done = python("import samtune.peft; print(*samtune.peft.__path__)", repo_root)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == repo_root / "peft"
