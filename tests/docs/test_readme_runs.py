"""README's commands, run one after the other as a reader would, with less training."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.commands import Command, shown_commands

ROOT = Path(__file__).parents[2]
# part of a command: why it isn't run here
NOT_RUN = {
    "git clone": "needs a published repository",
    "cd samtune": "of the clone",
    "scripts/quickstart.sh": "is run by hand for benchmarks/RESULTS.md: 13 minutes, its own .venv",
    "-m venv": "makes an environment: scripts/setup_env.sh is how the tests themselves got theirs",
    ".venv/bin/activate": "of that environment",
    "pip install": "into that environment",
}
# an epoch on small features in place of several on large ones
LESS = "--epochs 1 --image_size 32 --views 1 --augmentation none --batch_size 16"
# a run whose predictions are empty can't be released
ENOUGH = "--epochs 3 --image_size 64 --views 1 --augmentation none --batch_size 8"


def readme() -> list[Command]:
    return [command for command in shown_commands(ROOT) if command.page == "README.md"]


def is_run(command: Command) -> bool:
    text = shlex.join(command.words)
    return not any(part in text for part in NOT_RUN)


def test_each_reason_is_still_needed():
    texts = [shlex.join(command.words) for command in readme()]
    assert all(any(part in text for text in texts) for part in NOT_RUN)


def test_all_stages_are_run():
    """Counted, so that a block that the parser loses is missed."""
    words = [command.words for command in readme() if is_run(command)]
    verbs = [each[1] for each in words if each[0] == "samtune"]
    assert " ".join(verbs) == "doctor slice init evaluate compare report predict release verify"
    assert len(words) - len(verbs) == 6  # three trainings, evaluate, zero_shot, inference


@pytest.mark.slow
def test_readme_runs_from_slices_to_a_release(tmp_path: Path):
    """From a checkout whose outputs go elsewhere: nothing is written into the real one."""
    (tmp_path / "bundles").mkdir()
    for name in ("examples", "scripts", "bundles/sam_finetune"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = []
    for command in readme():
        if not is_run(command):
            continue
        words = list(command.words)
        if "training" in words:
            options = shlex.split(ENOUGH if "first" in words else LESS)
            pairs = dict(zip(options[::2], options[1::2], strict=True))
            for key, value in pairs.items():
                if key in words:
                    words[words.index(key) + 1] = value
                else:
                    words += [key, value]
        if "--rank" in words:  # more blocks than a minute has room for
            words[words.index("--blocks") + 1] = "last:2"
        program = [sys.executable, "-m", "samtune"] if words[0] == "samtune" else [sys.executable]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        ended = subprocess.run(
            [*program, *words[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-500:]}\n{ended.stderr[-2000:]}"
        done.append(command)
    assert len(done) == 15
    assert (tmp_path / "configs/hippocampus.yaml").is_file()
