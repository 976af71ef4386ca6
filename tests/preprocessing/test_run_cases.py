import builtins
import os
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import psutil
import pytest

from samtune.preprocessing.run_cases import Scheduler, run_cases
from samtune.preprocessing.slice_volumes import slice_volumes

SLEEPER = """
import time
from samtune.preprocessing.run_cases import Scheduler, run_cases
def main():
    print("go", flush=True)
    list(run_cases(time.sleep, [(120,)] * 2, Scheduler(workers=2), progress=False))
main()
"""


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_case_is_called_once(workers):
    outcomes = list(
        run_cases(square, [(n,) for n in range(6)], Scheduler(workers=workers), progress=False)
    )
    assert sorted(value for value, _ in outcomes) == [0, 1, 4, 9, 16, 25]
    assert (os.getpid() in {pid for _, pid in outcomes}) == (workers == 1)
    assert list(run_cases(square, [], Scheduler(), progress=False)) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell that a parent is gone")
def test_workers_end_with_a_killed_parent(repo_root):
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=repo_root,
        env={**os.environ, "PYTHONPATH": str(repo_root)},
    )
    assert process.stdout.readline() == "go\n"
    parent = psutil.Process(process.pid)
    workers: list[psutil.Process] = []
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and len(workers) < 3:  # two, and loky's tracker
        time.sleep(0.1)
        workers = parent.children(recursive=True)
    time.sleep(1)  # both are in their case now
    assert len(workers) >= 3
    process.kill()
    process.wait()
    process.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"kind": "threads"}, "scheduler must be processes or dask, got 'threads'"),
        ({"kind": "dask"}, "scheduler dask and the address of a Dask scheduler .* go together"),
        ({"address": "tcp://a:1"}, "go together"),
    ],
)
def test_unusable_schedulers_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Scheduler(**changes)


def test_without_dask_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "distributed":
            raise ImportError("No module named 'distributed'", name=name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'samtune\[cluster\]'"):
        list(run_cases(square, [(1,)], Scheduler("dask", address="tcp://a:1"), progress=False))


def test_a_dask_cluster_takes_the_same_call(run, tmp_path, read_all):
    distributed = pytest.importorskip("distributed", reason="extra 'cluster' is not installed")
    run(out=tmp_path / "whole")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        report = run(scheduler="dask", address=cluster.scheduler_address, workers=None)
    assert report.done == ["a", "b", "c"]
    assert read_all(tmp_path / "out") == read_all(tmp_path / "whole")


def test_memory_is_that_of_one_case(tmp_path, save_volume):
    array = np.random.default_rng(0).normal(100, 20, (128, 128, 24)).astype(np.float32)
    peaks = {}
    for number in (1, 6):
        images = tmp_path / f"images{number}"
        for case in range(number):
            save_volume(images / f"{case}.nii.gz", array)
        tracemalloc.start()
        slice_volumes(
            images, modality="mr", out=tmp_path / f"out{number}", workers=1, progress=False
        )
        peaks[number] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[1] > array.nbytes  # arrays are counted
    assert peaks[6] < 1.2 * peaks[1]
