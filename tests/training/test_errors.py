"""What a user of ``python -m monai.bundle`` sees of an error."""

import logging
import sys
from itertools import pairwise

import pytest
from ignite.engine import Engine

from samtune.training.errors import ENGINES, quiet_end, root_cause, short_tracebacks


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
    for name in ENGINES:
        monkeypatch.setattr(logging.getLogger(f"ignite.engine.engine.{name}"), "filters", [])


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


def test_ignite_does_not_say_it_before_the_command_does(hook, monkeypatch, caplog):
    def step(engine, batch):
        raise ValueError("scan 3 is damaged")

    class SliceTrainer(Engine):
        pass

    monkeypatch.setattr(sys, "argv", ["/somewhere/monai/bundle/__main__.py", "run"])
    short_tracebacks()
    engine = SliceTrainer(step)
    engine.logger.error("another error")
    with pytest.raises(ValueError, match="scan 3"):
        engine.run([0])
    assert [record.message for record in caplog.records] == ["another error"]


def test_an_engine_is_quiet_where_the_caller_tells_of_its_end(monkeypatch):
    def step(engine, batch):
        raise ValueError("scan 3 is damaged")

    class SliceTrainer(Engine):
        pass

    # its own handler: a bundle that another test ran turns loggers off or filters them
    logger, told = logging.getLogger(f"{Engine.__module__}.SliceTrainer"), []
    monkeypatch.setattr(logger, "disabled", False)
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(logger, "handlers", [handler := logging.Handler()])
    monkeypatch.setattr(handler, "emit", lambda record: told.append(record.getMessage()))
    with pytest.raises(ValueError, match="scan 3"), quiet_end():
        SliceTrainer(step).run([0])
    assert not [line for line in told if "exception" in line]
    with pytest.raises(ValueError, match="scan 3"):
        SliceTrainer(step).run([0])
    assert [line for line in told if "terminating due to exception: scan 3" in line]


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
