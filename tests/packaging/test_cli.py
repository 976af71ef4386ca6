"""The ``samtune`` command: which verb runs, and which exit code an outcome gives."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from samtune import __version__, cli


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A verb ``try`` whose ``run`` a test sets."""
    module = ModuleType("samtune_test_verb")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--number", type=int, default=0)

    module.add_arguments = add_arguments  # type: ignore[attr-defined]
    module.run = lambda args: args.number  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = cli.Verb(module.__name__, "try it", "samtune try --number 3")
    monkeypatch.setitem(cli.VERBS, "try", entry)
    return module


def raising(error: BaseException):
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def exit_code(argv: list[str]) -> object:
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    return stop.value.code


def test_version(capsys: pytest.CaptureFixture[str]):
    assert exit_code(["--version"]) == 0
    assert capsys.readouterr().out == f"samtune {__version__}\n"


def test_help_names_every_verb_and_imports_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(cli, "import_module", lambda name: pytest.fail(f"imported {name}"))
    assert exit_code(["--help"]) == 0
    out = capsys.readouterr().out
    verbs = {"slice", "inspect", "split", "evaluate", "predict", "export", "weights", "methods"}
    verbs |= {"text", "doctor", "convert", "compare", "report", "release", "verify"}
    verbs |= {"crossval", "init", "postprocess"}
    assert verbs == set(cli.VERBS)
    words = [line.split()[0] for line in out.splitlines() if line.startswith("    ")]
    assert set(cli.VERBS) <= set(words)


def test_only_the_chosen_verb_is_imported(repo_root: Path):
    code = (
        "import sys; from samtune import cli\n"
        "try: cli.main(['doctor', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith('samtune.commands.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "['samtune.commands.doctor']"


@pytest.mark.parametrize("name", sorted(cli.VERBS))
def test_help_of_a_verb_has_an_example(name: str, capsys: pytest.CaptureFixture[str]):
    assert exit_code([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: samtune {name}" in out
    assert f"samtune {name} " in out.split("example", 1)[1]


@pytest.mark.parametrize("argv", [[], ["carve"], ["doctor", "--jso"], ["try", "--number", "x"]])
def test_wrong_usage_exits_with_2(
    verb: ModuleType, argv: list[str], capsys: pytest.CaptureFixture[str]
):
    assert exit_code(argv) == 2
    assert "usage: samtune" in capsys.readouterr().err


def test_exit_code_is_what_run_returns(verb: ModuleType):
    assert cli.main(["try"]) == 0
    assert cli.main(["try", "--number", "3"]) == 3


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, FileExistsError, PermissionError])
def test_expected_error_is_one_line(
    verb: ModuleType, error: type[Exception], capsys: pytest.CaptureFixture[str]
):
    verb.run = raising(error("case 'a': found 1, expected 2"))  # type: ignore[attr-defined]
    assert cli.main(["try"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "samtune try: case 'a': found 1, expected 2\n"
    assert captured.out == ""


@pytest.mark.parametrize("argv", [["--debug", "try"], ["try", "--debug"]])
def test_debug_adds_the_trace(
    verb: ModuleType, argv: list[str], capsys: pytest.CaptureFixture[str]
):
    verb.run = raising(ValueError("bad"))  # type: ignore[attr-defined]
    assert cli.main(argv) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("samtune try: bad\n")


def test_a_bug_is_not_dressed_up_as_bad_input(verb: ModuleType):
    verb.run = raising(ZeroDivisionError("bug"))  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


def test_interrupt(verb: ModuleType, capsys: pytest.CaptureFixture[str]):
    verb.run = raising(KeyboardInterrupt())  # type: ignore[attr-defined]
    assert cli.main(["try"]) == 130
    assert capsys.readouterr().err == "samtune try: interrupted\n"


def test_missing_module_of_a_verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(
        cli.VERBS, "gone", cli.Verb("samtune.commands.gone", "gone", "samtune gone")
    )
    assert cli.main(["gone"]) == 1
    assert "samtune.commands.gone" in capsys.readouterr().err


def test_missing_package_points_to_doctor(verb: ModuleType, capsys: pytest.CaptureFixture[str]):
    verb.run = raising(ModuleNotFoundError("No module named 'ants'", name="ants"))  # type: ignore[attr-defined]
    assert cli.main(["try"]) == 1
    assert "No module named 'ants'; 'samtune doctor'" in capsys.readouterr().err


def test_python_m_samtune_is_the_command(repo_root: Path):
    command = [sys.executable, "-m", "samtune", "--version"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"samtune {__version__}\n")
