"""One training a folder: two real processes, however the first one ends."""

import errno
import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from samtune.training.run_lock import RunLock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
LOCK = ".samtune.lock"
SECONDS = 20  # for a process to end


@pytest.fixture(scope="module")
def start():
    """Call it with a folder: another process takes its lock and keeps it."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.training.lock_holder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
        text=True,
    ) as parent:
        ours = []

        def call(path, **options):
            parent.stdin.write(json.dumps({"path": str(path), **options}) + "\n")
            parent.stdin.flush()
            answer = json.loads(parent.stdout.readline())
            ours.extend(pid for pid in (answer["pid"], answer["worker"]) if pid)
            return answer

        yield call
        for pid in ours:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_second_process_is_refused_until_the_first_has_ended(start, tmp_path, name):
    run = tmp_path / "runs/one"
    first = start(run)
    assert first["error"] is None
    with pytest.raises(OSError, match=r"runs/one' is being trained by another process") as caught:
        RunLock(run, seconds=0.1).acquire()
    assert "choose another run_name" in str(caught.value)
    os.kill(first["pid"], getattr(signal, name))
    lock = RunLock(run, seconds=SECONDS)  # a lock file that was left does no harm
    lock.acquire()
    assert start(run)["error"] is not None
    lock.release()
    assert start(run)["error"] is None


def test_a_worker_that_outlives_a_killed_run_holds_nothing(start, tmp_path):
    first = start(tmp_path, worker=True)
    os.kill(first["pid"], signal.SIGKILL)
    lock = RunLock(tmp_path, seconds=SECONDS)
    lock.acquire()
    os.kill(first["worker"], 0)  # it lives
    lock.release()


def test_within_one_process_a_folder_may_be_held_twice(start, tmp_path, monkeypatch):
    run = tmp_path / "one"
    first, second = RunLock(run), RunLock(run)
    first.acquire()
    monkeypatch.chdir(tmp_path)
    relative = RunLock("one")
    for lock in (second, relative, first):
        lock.acquire()
    first.release()
    first.release()
    relative.release()
    assert start(run)["error"] is not None
    second.release()
    assert start(run)["error"] is None


def test_nothing_is_left_and_a_folder_that_stayed_empty_is_removed(tmp_path):
    lock = RunLock(tmp_path / "runs/one")
    lock.acquire()
    assert (tmp_path / "runs/one").is_dir()
    lock.release()
    assert not (tmp_path / "runs").exists()
    lock.acquire()
    (tmp_path / "runs/one/run.json").touch()
    lock.release()
    assert [file.name for file in (tmp_path / "runs/one").iterdir()] == ["run.json"]


def test_it_ends_with_its_owner(start, tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    assert (tmp_path / LOCK).exists()
    del lock
    gc.collect()
    assert not (tmp_path / LOCK).exists()
    assert start(tmp_path)["error"] is None


def test_of_several_processes_of_one_training_the_first_holds_it(start, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert start(tmp_path)["error"] is None
    RunLock(tmp_path, seconds=0.1).acquire()
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(OSError, match="is being trained by another process"):
        RunLock(tmp_path, seconds=0.1).acquire()


def test_a_file_is_no_folder_of_a_run(tmp_path):
    (tmp_path / "one").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"one' is a file, expected the folder of a run"):
        RunLock(tmp_path / "one").acquire()


def test_without_locks_in_the_file_system_it_warns_and_goes_on(tmp_path, monkeypatch, caplog):
    def refuse(self, *args, **options):
        raise OSError(errno.ENOSYS, "no flock")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    lock = RunLock(tmp_path / "one")
    lock.acquire()
    assert "on a file system without locks" in caplog.text
    assert (tmp_path / "one").is_dir()
    lock.release()
