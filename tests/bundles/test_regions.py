"""Regions that overlap, named classes and a warm start, through the bundle, on the tiny task."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from samtune.networks.text_embeddings import save_text_embeddings
from samtune.peft.adapter_file import read_adapter, save_adapter
from samtune.training.predict import predict
from samtune.training.run_folder import load_run

CHANNELS = {"whole": [1, 3], "back": [3]}


@pytest.fixture(scope="module")
def region_run(mini_slices, packaged_weights, run_bundle, tmp_path_factory):
    """Settings and folder of a run whose channels are nested regions."""
    runs = tmp_path_factory.mktemp("regions")
    path = runs / "names.safetensors"
    generator = torch.Generator().manual_seed(0)
    vectors = {name: torch.randn(4, generator=generator) for name in CHANNELS}
    save_text_embeddings(path, vectors, {"model": "tiny", "template": "{}"})
    settings = {
        "dataset_dir": str(mini_slices),
        "runs_dir": str(runs),
        "epochs": 1,
        "views": 2,
        "rank": 2,
        "blocks": "last:1",
        "device": "cpu",
        "activation": "sigmoid",
        "channels": CHANNELS,
        "text_embeddings": str(path),
    }
    workflow = run_bundle("train", "training", **settings, run_name="regions")
    return settings, runs / "regions", workflow


def test_a_run_records_its_regions(region_run):
    _, path, _ = region_run
    record = json.loads((path / "run.json").read_text())
    assert record["settings"]["activation"] == "sigmoid"
    assert record["network"]["class_names"] == ["whole", "back"]
    assert record["task"]["channels"] == [
        {"name": "whole", "labels": [1, 3], "painted": 1},
        {"name": "back", "labels": [3], "painted": 3},
    ]
    adapter = read_adapter(path / "adapter_last.safetensors")
    assert adapter.base["activation"] == "sigmoid"
    assert adapter.base["class_names"] == ["whole", "back"]
    assert "class_head.text_embeddings" in adapter.tensors
    assert adapter.tensors["class_head.text_projection.weight"].any()  # trained
    with (path / "curve.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert {"val_dice_whole", "val_dice_back"} <= set(row)
    assert np.isfinite(float(row["train_loss"]))


def test_targets_are_the_regions(region_run):
    _, _, workflow = region_run
    batch = next(iter(workflow.parser.get_parsed_content("train::dataloader")))
    whole, back = batch["label"].unbind(1)
    assert whole.any()
    assert (whole >= back).all()  # nested
    assert (whole > back).any()


def paint_all(network, path, order):
    """Give the classes of a run constant logits: those of ``order`` above 0 everywhere."""
    with torch.no_grad():
        for hypernetwork in network.class_head.hypernetworks:
            hypernetwork.layers[-1].weight.zero_()
            hypernetwork.layers[-1].bias.zero_()
        network.class_head.bias.copy_(torch.tensor(order))
    save_adapter(path, network, peft=network.peft)


@pytest.mark.parametrize(("bias", "values"), [((1.0, -1.0), [1]), ((1.0, 0.5), [3])])
def test_predictions_are_painted_in_order(region_run, tiny_volumes, tmp_path, bias, values):
    _, run, _ = region_run
    copy = shutil.copytree(run, tmp_path / "run")
    paint_all(load_run(run).network("last"), copy / "adapter_best.safetensors", bias)
    scan = tiny_volumes / "images/case_1.nii.gz"
    (file,) = predict(copy, scan, tmp_path / "out", device="cpu")
    label = nib.load(file)
    assert label.shape == nib.load(scan).shape
    assert np.unique(np.asarray(label.dataobj)).tolist() == values


def test_regions_are_scored(region_run, run_bundle):
    _, path, _ = region_run
    run_bundle("evaluate", run_dir=str(path), adapter="last", device="cpu")
    with (path / "metrics_test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["name"]) for row in rows] == [
        ("1", "front"),
        ("3", "back"),
        ("1+3", "whole"),
    ]


def test_another_run_starts_from_it_by_class_name(region_run, run_bundle):
    """Classes ``front`` and ``back`` with softmax take ``back`` from the run of regions."""
    settings, path, _ = region_run
    file = path / "adapter_last.safetensors"
    plain = {k: v for k, v in settings.items() if k not in ("activation", "channels")}
    plain |= {"text_embeddings": None, "init_adapter": str(file), "run_name": "started"}
    plain["learning_rate"] = 0.0  # what is saved is the start
    workflow = run_bundle("train", "training", **plain)
    network = workflow.parser.get_parsed_content("network_def")
    assert network.joined.joined == ("back",)
    assert network.joined.new == ("front",)
    assert network.activation == "softmax"
    record = json.loads((path.parent / "started/run.json").read_text())
    assert record["settings"]["init_adapter"] == str(file)
    source = load_file(file)
    found = load_file(path.parent / "started/adapter_last.safetensors")
    assert found.keys() == source.keys() - {
        "class_head.text_embeddings",
        "class_head.text_projection.weight",
    }
    named = source["class_head.text_projection.weight"] @ source["class_head.text_embeddings"][1]
    back = source["class_head.tokens"][1] + named  # without text its token has the names' part
    torch.testing.assert_close(found["class_head.tokens"][1], back)
    adapted = [name for name in found if name.startswith("image_encoder.")]
    assert adapted
    assert all(torch.equal(found[name], source[name]) for name in adapted)


def test_channels_without_sigmoid_are_refused(mini_slices, packaged_weights, run_bundle, tmp_path):
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run_bundle(
            "train",
            "training",
            dataset_dir=str(mini_slices),
            runs_dir=str(tmp_path),
            channels=CHANNELS,
            device="cpu",
        )
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert "activation 'sigmoid'" in str(error)
