"""What a user of ``python -m monai.bundle`` sees of an error."""

import sys
from itertools import pairwise

import pytest

from samtune.training.errors import root_cause, short_tracebacks


def chain(*errors):
    """Each raised from the next one."""
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_root_cause_is_what_was_raised_first():
    cause = ValueError("the cause")
    assert root_cause(chain(RuntimeError("expression"), RuntimeError("part"), cause)) is cause


def test_an_error_with_a_reason_of_its_own_is_kept():
    error = chain(ValueError("no such setting"), KeyError("key"))
    assert root_cause(error) is error


@pytest.fixture
def hook(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)


def test_other_programs_keep_their_hook(hook, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest"])
    short_tracebacks()
    assert sys.excepthook is sys.__excepthook__


def test_the_bundle_command_ends_with_one_line(hook, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/monai/bundle/__main__.py", "run"])
    short_tracebacks()
    error = RuntimeError("Failed to instantiate")
    error.__cause__ = FileNotFoundError("'x.pth' does not exist")
    sys.excepthook(RuntimeError, error, None)
    assert capsys.readouterr().err.splitlines()[0] == "error: 'x.pth' does not exist"


def test_unexpected_errors_keep_their_trace(hook, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/monai/bundle/__main__.py", "run"])
    short_tracebacks()
    sys.excepthook(TypeError, TypeError("a bug"), None)
    assert "TypeError: a bug" in capsys.readouterr().err


def test_the_whole_trace_on_request(hook, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/monai/bundle/__main__.py", "run"])
    monkeypatch.setenv("SAMTUNE_TRACEBACK", "1")
    short_tracebacks()
    assert sys.excepthook is sys.__excepthook__


def test_an_interrupted_command_says_so_in_a_line(hook, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/monai/bundle/__main__.py", "run"])
    short_tracebacks()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.startswith("interrupted; ")
