"""MONAI Label's monaibundle app with a built-out bundle, over HTTP, in an environment of its own.

``MONAILABEL_PYTHON`` names a Python with ``monailabel`` and what samtune needs; see
docs/releasing.md.
"""

import importlib.util
import os
from pathlib import Path

import pytest

from samtune.training.predict import predict
from samtune.training.release.materialise import materialise

SCRIPT = Path(__file__).resolve().parents[3] / "scripts/monai_label_check.py"
PYTHON = os.environ.get("MONAILABEL_PYTHON")


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="MONAILABEL_PYTHON names no Python with monailabel")
def test_its_answers_are_those_of_predict(released, scored_run, tiny_volumes, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    full = materialise(released, tmp_path / released.name)
    scans = sorted((tiny_volumes / "images").iterdir())  # each of another orientation
    options = {"device": "cpu", "progress": False}
    expected = predict(scored_run, scans, tmp_path / "expected", **options)
    with check.server(PYTHON, full, scans, tmp_path) as url:
        for label in expected:
            check.ask(url, full.name, label.name.removesuffix(".nii.gz"), tmp_path / label.name)
    for label in expected:
        assert check.compare(tmp_path / label.name, label) == 0, capsys.readouterr().out
