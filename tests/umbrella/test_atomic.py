"""Files appear whole or not at all."""

import os

import pytest

from samtune.atomic import append, partial_path, whole_file, write_atomically


def test_folder_is_made_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "table.csv"
    path.parent.mkdir()
    partial_path(path).write_bytes(b"left by a killed run")
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    path.write_bytes(b"old")

    def refuse(*_):
        raise OSError(28, "disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match=r"disk full.*table\.csv"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_several_writers_do_not_share_the_file_they_fill(tmp_path, monkeypatch):
    path = tmp_path / "cache.bin"
    with whole_file(path, several_writers=True) as mine:
        mine.write_bytes(b"mine")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with whole_file(path, several_writers=True) as other:
            assert other != mine
            other.write_bytes(b"other")
        assert path.read_bytes() == b"other"
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_append_adds_and_names_the_file_in_an_error(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"old,")
    append(path, b"new")
    assert path.read_bytes() == b"old,new"
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        append(tmp_path, b"new")
