"""``samtune init``: a config that ``train.yaml`` takes, and that is never overwritten by chance."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from monai.bundle import create_workflow

from samtune.cli import main
from samtune.preprocessing.manifest import load_manifest
from samtune.training.paths import bundle_root
from samtune.training.user_config import suggested_size


def test_the_config_is_that_of_the_slices(tiny_slices, tmp_path, capsys):
    assert main(["init", "heart-2", "--data", str(tiny_slices), "--out", str(tmp_path / "c")]) == 0
    file = tmp_path / "c/heart-2.yaml"
    assert str(file) in capsys.readouterr().out
    config = yaml.safe_load(file.read_text())
    assert config == {
        **{"run_name": "heart-2", "dataset_dir": str(tiny_slices)},
        **{"classes": {1: "front", 3: "back"}, "regions": {"whole": "1+3"}},
        **{"arch": "auto", "checkpoint": None, "image_size": 128, "batch_size": 8},
    }
    base = yaml.safe_load((Path(bundle_root("sam_finetune")) / "configs/train.yaml").read_text())
    assert set(config) <= set(base)
    assert "2 train, 2 val, 2 test" in file.read_text()


def test_train_yaml_takes_it(tiny_slices, tmp_path):
    """Its own check of keys included; a class name that YAML would read otherwise stays one."""
    root = tmp_path / "slices"
    shutil.copytree(tiny_slices, root)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["settings"]["class_names"] = {"1": "no", "3": "vein: left, [2]"}
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert main(["init", "x", "--data", str(root), "--out", str(tmp_path)]) == 0
    workflow = create_workflow(
        config_file=[f"{bundle_root('sam_finetune')}/configs/train.yaml", f"{tmp_path}/x.yaml"],
        run_id="training",
        logging_file=False,
        **{"runs_dir": str(tmp_path), "arch": "lite_medsam", "checkpoint": "random"},
    )
    record = json.loads((tmp_path / "x/run.json").read_text())
    assert record["task"]["classes"] == {"1": "no", "3": "vein: left, [2]"}
    assert record["task"]["regions"] == {"whole": [1, 3]}
    assert workflow.parser.get_parsed_content("network_def").image_size == 128


def test_names_that_monai_would_change_are_left_to_the_slices(tiny_slices, tmp_path):
    root = tmp_path / "slices"
    root.mkdir()
    manifest = json.loads((tiny_slices / "manifest.json").read_text())
    manifest["settings"]["class_names"] = {"1": "no. #1", "3": "back"}
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert main(["init", "x", "--data", str(root), "--out", str(tmp_path)]) == 0
    config = yaml.safe_load((tmp_path / "x.yaml").read_text())
    assert (config["classes"], config["regions"]) == ("auto", "auto")


def test_what_is_there_stays(tiny_slices, tmp_path, capsys):
    command = ["init", "x", "--data", str(tiny_slices), "--out", str(tmp_path)]
    (tmp_path / "x.yaml").write_text("mine")
    assert main(command) == 1
    assert "x.yaml' is there already" in capsys.readouterr().err
    assert (tmp_path / "x.yaml").read_text() == "mine"
    assert main([*command, "--force"]) == 0
    assert "run_name: x" in (tmp_path / "x.yaml").read_text()


@pytest.mark.parametrize("name", ["../x", "a b", "", ".x", "a/b"])
def test_names_of_files_only(tiny_slices, tmp_path, capsys, name):
    assert main(["init", name, "--data", str(tiny_slices), "--out", str(tmp_path / "c")]) == 1
    assert "name must be of letters" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_an_unknown_folder(tmp_path, capsys):
    folder = tmp_path / "none"
    assert main(["init", "x", "--data", str(folder), "--out", str(tmp_path)]) == 1
    assert f"no slices (manifest.json) in {folder}" in capsys.readouterr().err
    assert not (tmp_path / "x.yaml").exists()


@pytest.mark.parametrize(("side", "size"), [(60, 128), (128, 128), (129, 256), (900, 512)])
def test_image_size_by_the_longer_side(tiny_slices, monkeypatch, side, size):
    manifest = load_manifest(tiny_slices)
    kind = type(next(iter(manifest.cases.values())).geometry)
    monkeypatch.setattr(kind, "slices_shape", property(lambda self: (3, 20, side)))
    assert suggested_size(manifest) == (size, side)
