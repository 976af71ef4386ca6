"""``samtune doctor``: the report, and exit 1 as soon as something needed is missing."""

import importlib.metadata
import json
import platform
from pathlib import Path

import pytest

from samtune import cli
from samtune.commands import doctor
from samtune.networks import weights


def test_json_report_has_what_is_installed(capsys: pytest.CaptureFixture[str]):
    code = cli.main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == 0, report["problems"]
    assert report["python"] == platform.python_version()
    assert report["packages"]["monai"] == importlib.metadata.version("monai")
    assert list(report["packages"]) == list(doctor.REQUIRED)
    assert report["devices"][0]["device"] == "cpu"
    assert report["cores"] >= 1
    assert Path(report["weights"]["lite_medsam"]["path"]).is_file()


def test_text_report_names_every_package(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = {line.split()[0] for line in lines}
    assert {"samtune", "python", "device", "cores", "memory", "weights", *doctor.REQUIRED} <= words


def test_missing_package_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(doctor.REQUIRED, "no-such-package", "no_such_package")
    assert cli.main(["doctor", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["packages"]["no-such-package"] is None
    assert "samtune doctor: package 'no-such-package' does not import" in captured.err


@pytest.mark.parametrize("error", [FileNotFoundError, ValueError])
def test_bad_weights_are_an_error_with_the_finders_words(
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def find_weights(arch: str) -> Path:
        raise error(f"{arch} is altered")

    monkeypatch.setattr(weights, "find_weights", find_weights)
    assert cli.main(["doctor", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["weights"]["lite_medsam"]["error"] == "lite_medsam is altered"
    assert "lite_medsam is altered" in captured.err


def test_a_python_that_is_too_old_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "REQUIRED", {})
    monkeypatch.setattr(doctor, "PYTHON_FROM", (99, 0))
    assert any(problem.startswith("python ") for problem in doctor.collect()["problems"])
