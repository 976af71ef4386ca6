"""SIGKILL at any moment, then the same command again: the folder of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = """
import sys
from pathlib import Path
from samtune.preprocessing.slice_volumes import slice_volumes
slice_volumes(Path(sys.argv[1]), Path(sys.argv[2]), modality="mr", out=Path(sys.argv[3]),
              axis=2, workers=int(sys.argv[4]), progress=False)
"""


def kill_when(out: Path, entries: int, arguments: list[str], repo_root: Path) -> bool:
    """Start slicing and kill it once ``out`` holds that many entries; False if it was quicker."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=repo_root,
        env={**os.environ, "PYTHONPATH": str(repo_root)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if sum(len(files) + len(folders) for _, folders, files in os.walk(out)) >= entries:
            process.kill()
            break
        time.sleep(0.0005)
    return process.wait() == -signal.SIGKILL


@pytest.fixture
def killed_again_and_again(run, cases, tmp_path, read_all, repo_root):
    def check(moments: int) -> int:
        run(out=tmp_path / "whole")
        whole = read_all(tmp_path / "whole")
        chance = random.Random(0)
        killed = 0
        for number in range(moments):
            out = tmp_path / f"out{number}"
            workers = 1 + number % 2
            arguments = [str(cases[0]), str(cases[1]), str(out), str(workers)]
            killed += kill_when(out, chance.randint(1, len(whole)), arguments, repo_root)
            run(out=out, workers=workers)
            assert read_all(out) == whole
        return killed

    return check


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_run_killed_at_three_moments_is_completed_to_the_same_bytes(killed_again_and_again):
    assert killed_again_and_again(3) >= 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_run_killed_at_twenty_moments_is_completed_to_the_same_bytes(killed_again_and_again):
    assert killed_again_and_again(20) >= 15
