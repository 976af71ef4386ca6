"""The bundle as its users run it, on a tiny task with the packaged LiteMedSAM."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from samtune.peft.adapter_file import read_adapter
from samtune.preprocessing.manifest import load_manifest
from samtune.training.network import build_network
from samtune.training.predict import predict
from tests.conftest import slice_tiny

CONFIGS = Path(__file__).resolve().parents[2] / "bundles/sam_finetune/configs"
NAMES = ("train", "evaluate", "inference", "zero_shot")
WIDTHS = (128, 128, *[160] * 6, 320, 320)  # of LiteMedSAM's attention blocks
HEAD = 256 + 2 * (256 * 256 + 256) + 256 * 32 + 32 + 1  # a class: token, hypernetwork, bias


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def volume(path):
    return np.asarray(nib.load(path).dataobj)


def root_cause(error):
    """MONAI wraps what a component of a config raises."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


# Training


def test_a_run_leaves_adapters_checkpoint_curve_and_events(tiny_run):
    names = {path.name for path in tiny_run.path.iterdir()}
    assert names >= {
        *("adapter_best.safetensors", "adapter_last.safetensors", "checkpoint.pt"),
        *("curve.csv", "run.json", "config.yaml", "resources.json", "tensorboard"),
    }
    assert any((tiny_run.path / "tensorboard").glob("events.out.tfevents.*"))
    rows = read(tiny_run.path / "curve.csv")
    assert list(rows[0]) == [
        *("epoch", "iteration", "train_loss", "learning_rate", "val_dice"),
        *("val_dice_front", "val_dice_back", "seconds"),
    ]
    assert [(row["epoch"], row["iteration"]) for row in rows] == [
        ("1", "2"),
        ("2", "4"),
        ("3", "6"),
    ]
    assert all(np.isfinite(float(row["train_loss"])) for row in rows)
    record = json.loads((tiny_run.path / "run.json").read_text())
    assert record["settings"]["peft"]["rank"] == 2
    assert record["settings"]["epochs"] == 3
    adapter = read_adapter(tiny_run.path / "adapter_last.safetensors")
    assert adapter.extra["epoch"] == 3
    assert adapter.extra["task"] == record["task"]
    assert sum(t.numel() for t in adapter.tensors.values()) == record["parameters"]["trainable"]


def test_trained_parameters_have_gradients_and_changed_all_others_are_bit_identical(tiny_run):
    network = tiny_run.workflow.parser.get_parsed_content("network")
    fresh = build_network(num_classes=2, peft={"name": "lora", **_lora(tiny_run)}).state_dict()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    state = network.state_dict()
    assert state.keys() == fresh.keys()
    assert any(name.endswith("running_var") for name in fresh)
    for name, value in state.items():
        assert torch.equal(value, fresh[name]) is (name not in trained), name
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert not [
        name for name, p in network.named_parameters() if p.grad is not None and name not in trained
    ]


def _lora(tiny_run):
    config = read_adapter(tiny_run.path / "adapter_last.safetensors").peft["method"]
    return {key: value for key, value in config.items() if key != "name"}


def test_a_run_that_was_killed_goes_on_to_the_same_weights_bit_for_bit(
    tiny_run, run_bundle, tmp_path
):
    shutil.copytree(tiny_run.after_epoch_1, tmp_path / "whole")
    assert torch.load(tmp_path / "whole/checkpoint.pt")["epoch"] == 1
    torch.manual_seed(99)  # another process
    settings = {**tiny_run.settings, "runs_dir": str(tmp_path), "run_name": "whole"}
    run_bundle("train", "training", **settings)
    expected = load_file(tiny_run.path / "adapter_last.safetensors")
    found = load_file(tmp_path / "whole/adapter_last.safetensors")
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    rows, whole = read(tmp_path / "whole/curve.csv"), read(tiny_run.path / "curve.csv")
    assert [{**row, "seconds": ""} for row in rows] == [{**row, "seconds": ""} for row in whole]


def test_it_also_goes_on_with_features_on_disk_and_worker_processes(tiny_run, run_bundle, tmp_path):
    shutil.copytree(tiny_run.after_epoch_1, tmp_path / "whole")
    settings = {**tiny_run.settings, "runs_dir": str(tmp_path), "run_name": "whole"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, Python >= 3.12
        run_bundle(
            "train", "training", **settings, cache_dir=str(tmp_path / "features"), num_workers=1
        )
    expected = load_file(tiny_run.path / "adapter_last.safetensors")
    found = load_file(tmp_path / "whole/adapter_last.safetensors")
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    manifest = load_manifest(tiny_run.settings["dataset_dir"])
    count = 2 * len(manifest.select("train")) + len(manifest.select("val"))
    assert len(list((tmp_path / "features").rglob("*.safetensors"))) == count


@pytest.mark.parametrize(
    ("overrides", "indices", "decoder"),
    [
        ({"rank": 2, "blocks": "all", "decoder": "frozen", "cache": False}, range(10), 0),
        (
            {"rank": 4, "blocks": [0, 3], "decoder": "lora", "labelled_only": True},
            (0, 3),
            # q and v of self-attention (256 to 256) and two cross attentions (256 to 128), twice;
            # of one cross attention at the end
            2 * 4 * (2 * (512 + 2 * 384) + 384),
        ),
        ({"rank": 3, "blocks": "last:1", "decoder": "full", "targets": ["v"]}, (9,), None),
    ],
)
def test_overrides_act_and_any_folder_will_do(
    mini_slices, packaged_weights, run_bundle, tmp_path, monkeypatch, overrides, indices, decoder
):
    if overrides["blocks"] == "last:1":  # inside the bundle; else where the default slices lie
        monkeypatch.chdir(CONFIGS.parent)
        paths = {"dataset_dir": str(mini_slices), "runs_dir": str(tmp_path / "runs")}
    else:
        monkeypatch.chdir(tmp_path)
        shutil.copytree(mini_slices, tmp_path / "runs/quickstart/slices")
        paths = {}
    short = {"epochs": 1, "views": 2, "device": "cpu", "val_interval": 2}
    run_bundle("train", "training", **short, **paths, **overrides)
    adapter = read_adapter(tmp_path / "runs/lora/adapter_best.safetensors")
    assert not (tmp_path / "runs/lora/.samtune.lock").exists()
    method = adapter.peft["method"]
    targets = overrides.get("targets", ["q", "v"])
    assert (method["rank"], method["targets"]) == (overrides["rank"], targets)
    assert method["blocks"] == overrides["blocks"]
    assert adapter.peft["decoder"] == overrides["decoder"]
    assert adapter.base["image_size"] == 128
    counts = {"image_encoder": 0, "class_head": 0, "mask_decoder": 0}
    for name, tensor in adapter.tensors.items():
        counts[name.split(".")[0]] += tensor.numel()
    assert counts["image_encoder"] == sum(
        2 * len(targets) * overrides["rank"] * WIDTHS[block] for block in indices
    )
    assert counts["class_head"] == 2 * HEAD
    if decoder is not None:
        assert counts["mask_decoder"] == decoder
    record = json.loads((tmp_path / "runs/lora/run.json").read_text())
    assert record["parameters"]["trainable"] == sum(counts.values())
    (row,) = read(tmp_path / "runs/lora/curve.csv")
    assert row["val_dice"]  # the last epoch is validated whatever the interval


def test_image_size_is_an_override_too(mini_slices, packaged_weights, run_bundle, tmp_path):
    paths = {"dataset_dir": str(mini_slices), "runs_dir": str(tmp_path)}
    run_bundle("train", "network_def", **paths, image_size=256, device="cpu")  # built, not trained
    record = json.loads((tmp_path / "lora/run.json").read_text())
    assert record["network"]["image_size"] == record["settings"]["image_size"] == 256


def test_training_as_a_command_from_the_repository(
    mini_slices, packaged_weights, repo_root, tmp_path
):
    command = [sys.executable, "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", "bundles/sam_finetune/configs/train.yaml"]
    command += ["--dataset_dir", str(mini_slices), "--runs_dir", str(tmp_path)]
    command += ["--epochs", "1", "--views", "2", "--blocks", "last:1", "--rank", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=repo_root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"trainable [\d,]+ of [\d,]+ parameters", done.stderr)
    assert "Cannot find the metadata" not in done.stderr + done.stdout
    adapter = read_adapter(tmp_path / "lora/adapter_last.safetensors")
    assert (adapter.peft["method"]["rank"], adapter.peft["method"]["blocks"]) == (3, "last:1")


# Evaluation and inference


@pytest.fixture(scope="module")
def evaluated(loud_run, run_bundle):
    run_bundle("evaluate", run_dir=str(loud_run), device="cpu")
    return loud_run


def test_evaluation_scores_each_case_of_the_split(evaluated, tiny_slices):
    rows = read(evaluated / "metrics_test.csv")
    assert list(rows[0]) == [
        *("case", "label", "name", "status", "dice", "iou", "nsd_1mm", "hd95_mm"),
        *("volume_ref_ml", "volume_pred_ml", "volume_error_ml"),
        *("assd_mm", "sensitivity", "precision"),
    ]
    manifest = load_manifest(tiny_slices)
    cases = sorted({record.case for record in manifest.select("test")})
    assert [(row["case"], row["label"], row["name"]) for row in rows] == [
        (case, label, name)
        for case in cases
        for label, name in (("1", "front"), ("3", "back"), ("1+3", "whole"))
    ]
    for row in rows:
        assert row["status"] == "ok"
        assert 0 < float(row["dice"]) < 1
        assert np.isfinite(float(row["hd95_mm"]))
    companion = json.loads((evaluated / "metrics_test.json").read_text())
    assert companion["protocol"]["prompt"] == "none"
    assert companion["protocol"]["num_cases"] == 2
    summary = read(evaluated / "metrics_test_summary.csv")
    assert [row["name"] for row in summary] == ["front", "back", "whole"]


def test_scores_are_those_of_the_written_predictions(evaluated, tiny_volumes):
    for row in read(evaluated / "metrics_test.csv"):
        file = f"{row['case']}.nii.gz"
        values = [int(value) for value in row["label"].split("+")]
        pred = np.isin(volume(evaluated / "predictions_test" / file), values)
        ref = np.isin(volume(tiny_volumes / "labels" / file), values)
        dice = 2 * (pred & ref).sum() / (pred.sum() + ref.sum())
        assert float(row["dice"]) == pytest.approx(dice)
        assert float(row["volume_ref_ml"]) == pytest.approx(ref.sum() * 5 / 1000)  # 5 mm3 voxels


def test_a_raw_scan_is_predicted_as_its_slices_were(evaluated, tiny_volumes, tmp_path):
    """No skew between what the slicer wrote and what inference makes of the scan."""
    predicted = sorted((evaluated / "predictions_test").iterdir())
    scans = [tiny_volumes / "images" / path.name for path in predicted]
    written = predict(evaluated, scans, tmp_path, device="cpu")
    for one, other in zip(written, predicted, strict=True):
        assert set(np.unique(volume(one))) == {0, 1, 3}
        np.testing.assert_array_equal(volume(one), volume(other))


def test_inference_config_and_predict_give_equal_bytes(
    loud_run, run_bundle, tiny_volumes, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "scans"
    folder.mkdir()
    for case in ("case_1", "case_2"):
        shutil.copy(tiny_volumes / f"images/{case}.nii.gz", folder)
    run_bundle("inference", run_dir=str(loud_run), images="scans", device="cpu")
    written = predict(loud_run, folder, tmp_path / "other", device="cpu")
    assert [path.name for path in written] == ["case_1.nii.gz", "case_2.nii.gz"]
    for path in written:
        assert (tmp_path / "predictions" / path.name).read_bytes() == path.read_bytes()
        label, scan = nib.load(path), nib.load(folder / path.name)
        assert label.shape == scan.shape
        np.testing.assert_array_equal(label.affine, scan.affine)
        for key in ("sform_code", "qform_code", "xyzt_units"):
            assert label.header[key] == scan.header[key]


def test_the_untouched_model_with_oracle_boxes(
    tiny_slices, packaged_weights, run_bundle, tmp_path, tiny_volumes
):
    out = str(tmp_path / "zero")
    run_bundle(
        "zero_shot", dataset_dir=str(tiny_slices), output_dir=out, image_size=128, device="cpu"
    )
    rows = read(tmp_path / "zero/metrics_test.csv")
    assert [row["name"] for row in rows] == ["front", "back", "whole"] * 2
    # bright rectangles in their own boxes
    assert all(float(row["dice"]) > 0.5 for row in rows)
    companion = json.loads((tmp_path / "zero/metrics_test.json").read_text())
    assert companion["protocol"]["prompt"] == "oracle_box"
    assert companion["protocol"]["fine_tuned"] is False
    for path in (tmp_path / "zero/predictions_test").iterdir():
        label = nib.load(tiny_volumes / "labels" / path.name)
        pred = nib.as_closest_canonical(nib.load(path))
        assert nib.load(path).shape == label.shape
        assert not np.asarray(pred.dataobj)[:, :, 2].any()  # no label in this slice: no prompt


# Errors


def test_without_slices_the_error_names_the_command(run_bundle, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        run_bundle("train", "training", dataset_dir=str(tmp_path / "none"), runs_dir=str(tmp_path))
    cause = root_cause(caught.value)
    assert isinstance(cause, FileNotFoundError)
    assert "samtune slice IMAGES --labels LABELS" in str(cause)
    assert list(tmp_path.iterdir()) == []


def test_another_configuration_of_a_run_names_the_keys(tiny_run, run_bundle):
    before = {path: path.read_bytes() for path in tiny_run.path.iterdir() if path.is_file()}
    settings = {**tiny_run.settings, "rank": 4, "learning_rate": 0.01}
    with pytest.raises(RuntimeError) as caught:
        run_bundle(
            "train", "training", **settings, runs_dir=str(tiny_run.path.parent), run_name="whole"
        )
    cause = root_cause(caught.value)
    assert isinstance(cause, FileExistsError)
    assert "learning_rate was 0.001, now 0.01; peft.rank was 2, now 4" in str(cause)
    assert before == {path: path.read_bytes() for path in tiny_run.path.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        ({"peft::name": "adalora"}, ValueError, "unknown PEFT method 'adalora'"),
        ({"peft::scale": 2}, ValueError, "has no hyper-parameter scale; it has: "),
        ({"device": "cuda:99"}, ValueError, "device 'cuda:99' is not on this machine"),
        ({"blocks": "last:99"}, ValueError, "blocks 'last:99' not understood"),
        ({"image_size": 102}, ValueError, "image_size 102 does not suit lite_medsam"),
        (
            {"views": 1},
            ValueError,
            "views is 1: with the feature cache, random transforms need views > 1",
        ),
        ({"classes": {1: "front"}}, ValueError, "label values [3] are not among the classes [1]"),
        ({"checkpoint": "x.pth"}, FileNotFoundError, "checkpoint 'x.pth' does not exist"),
        ({"rnak": 4}, ValueError, "there is no key 'rnak' in train.yaml, nearest is 'rank'"),
        ({"run_name": "../x"}, ValueError, "run_name must be the name of a folder below runs_dir"),
        ({"runs_dir": __file__}, OSError, "test_sam_finetune.py"),  # can't be written to
        ({"tracker": "neptune"}, ValueError, "tracker must be null, mlflow or wandb"),
        ({"max_minutes": 0}, ValueError, "max_minutes must be positive or null"),
    ],
)
def test_wrong_settings(
    mini_slices, packaged_weights, run_bundle, tmp_path, overrides, kind, message
):
    paths = {"dataset_dir": str(mini_slices), "runs_dir": str(tmp_path)}
    with pytest.raises((RuntimeError, kind)) as caught:
        run_bundle("train", "training", **{**paths, "device": "cpu", **overrides})
    cause = root_cause(caught.value)
    assert isinstance(cause, kind)
    assert message in str(cause)


@pytest.mark.parametrize("config", ["evaluate", "inference", "zero_shot"])
def test_a_misspelt_key_of_the_other_configs(run_bundle, config):
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run_bundle(config, bach_size=2)
    assert f"no key 'bach_size' in {config}.yaml, nearest is 'batch_size'" in str(
        root_cause(caught.value)
    )


def test_an_empty_split(run_bundle, tiny_volumes, tmp_path):
    slices = slice_tiny(tiny_volumes, tmp_path / "slices", (5, 0, 1))
    paths = {"dataset_dir": str(slices), "runs_dir": str(tmp_path)}
    with pytest.raises(RuntimeError) as caught:
        run_bundle("train", "training", **paths, checkpoint="random", arch="lite_medsam")
    assert "has no slices in split 'val', it has: test, train" in str(root_cause(caught.value))


def test_the_merged_config_is_saved(tiny_run):
    config = yaml.safe_load((tiny_run.path / "config.yaml").read_text())
    base = yaml.safe_load((CONFIGS / "train.yaml").read_text())
    given = {**tiny_run.settings, "runs_dir": str(tiny_run.path.parent), "run_name": "whole"}
    assert config == {**base, **given}


def test_evaluating_a_folder_that_is_no_run(run_bundle, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        run_bundle("evaluate", run_dir=str(tmp_path))
    assert "is not the folder of a run" in str(root_cause(caught.value))
