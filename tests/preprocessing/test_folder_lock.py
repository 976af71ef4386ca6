import subprocess
import sys
from pathlib import Path

import pytest

from samtune.preprocessing.folder_lock import LOCK_NAME, locked_case, locked_folder

HOLDER = """
import sys
from pathlib import Path
from samtune.preprocessing.folder_lock import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path, repo_root):
    """Another process that holds ``tmp_path/out``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=repo_root,
        env={"PYTHONPATH": str(repo_root)},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_second_writer_gets_a_clear_error_and_writes_nothing(holder, run, tmp_path):
    with pytest.raises(OSError, match="out: another samtune process is writing there; wait for"):
        run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK_NAME]


def test_a_killed_holder_leaves_nothing_that_is_in_the_way(holder, run, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / "out" / LOCK_NAME).exists()  # the file is there, the lock is not
    assert run().done == ["a", "b", "c"]
    assert not (tmp_path / "out" / LOCK_NAME).exists()


def test_the_lock_leaves_no_file_and_no_empty_folder(tmp_path):
    with locked_folder(tmp_path / "new"):
        assert (tmp_path / "new" / LOCK_NAME).exists()
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    with locked_folder(tmp_path / "there"):
        pass
    assert list((tmp_path / "there").iterdir()) == []


def test_a_case_is_waited_for_and_then_given_up(tmp_path):
    path: Path = tmp_path / "cases/a.json"
    with (
        locked_case(path),
        pytest.raises(OSError, match=r"has been writing this case for 0\.1 s"),
        locked_case(path, seconds=0.1),
    ):
        pass
    with locked_case(path, seconds=0.1):
        pass
    assert list(path.parent.iterdir()) == []
