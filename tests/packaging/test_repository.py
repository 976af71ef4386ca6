"""What no file of the repository may contain, and what the repository must."""

import os
import re
import subprocess
from pathlib import Path

import pytest

SKIPPED = {".git", ".venv", "build", "dist", "runs", "__pycache__"}
MAX_BYTES = 1_000_000
MAX_ADAPTER = 20_000_000

# Character classes keep this file from matching its own patterns.
FORBIDDEN = {
    "address of a package index": r"https?://\S*[p]ypi|https?://\S*/[s]imple\b|https?://\S*[c]onda",
    "choice of a package index": r"--(extra-)?[i]ndex-url|--[f]ind-links|PIP_[I]NDEX_URL",
    "path of somebody's machine": r"(?<![\w.])/([h]ome|[r]oot|[U]sers|[w]ork)/",
}


def repository_files(root: Path) -> list[Path]:
    """Files that git tracks or would track; without git, all but the skipped folders."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = []
        for folder, children, names in os.walk(root):
            children[:] = [c for c in children if c not in SKIPPED and not c.endswith("-info")]
            listed += [os.path.join(folder, name) for name in names]
    return [path for name in listed if name and (path := root / name).is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(repo_root: Path, what: str):
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in repository_files(repo_root):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:  # images, volumes
            continue
        relative = path.relative_to(repo_root)
        found += [f"{relative}:{n}" for n, line in enumerate(lines, 1) if pattern.search(line)]
    assert found == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("address of a package index", "see https://" + "py" + "pi.org/project/x"),
        ("address of a package index", "http://mirror/" + "simple"),
        ("choice of a package index", "pip install --" + "index-url x"),
        ("path of somebody's machine", "data: /" + "home/ada/data"),
    ],
)
def test_the_patterns_find_what_they_should(what: str, line: str):
    assert re.search(FORBIDDEN[what], line)


def test_no_large_files(repo_root: Path):
    files = [path for path in repository_files(repo_root) if path.suffix != ".safetensors"]
    assert [path for path in files if path.stat().st_size > MAX_BYTES] == []


def test_adapters_of_releases_alone_are_larger(repo_root: Path):
    adapters = [path for path in repository_files(repo_root) if path.suffix == ".safetensors"]
    assert {path.relative_to(repo_root).parts[0] for path in adapters} <= {"bundles"}
    assert [path for path in adapters if path.stat().st_size > MAX_ADAPTER] == []


def test_no_python_file_is_longer_than_400_lines(repo_root: Path):
    files = [path for path in repository_files(repo_root) if path.suffix == ".py"]
    assert files
    long = [path for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 400]
    assert long == []


def test_sample_data_is_whole(repo_root: Path):
    folder = repo_root / "examples" / "hippocampus_mr"
    images = sorted(path.name for path in (folder / "images").glob("*.nii.gz"))
    labels = sorted(path.name for path in (folder / "labels").glob("*.nii.gz"))
    assert len(images) == 20
    assert images == labels
    assert "CC BY-SA 4.0" in (folder / "LICENSE.txt").read_text()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < 2_000_000
