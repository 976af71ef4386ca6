"""Prompted training by the bundle: the overlay, its runs, and how they are evaluated."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import create_workflow
from safetensors.torch import load_file

from samtune.cli import main
from samtune.peft.adapter_file import read_adapter
from samtune.preprocessing.slice_file import read_slice_file
from samtune.training.oracle import PromptedSegmenter
from samtune.training.paths import bundle_root
from samtune.training.predict import predict
from samtune.training.prompted import PromptedInferer
from samtune.training.run_folder import load_run
from samtune.training.segment_slice import segment_slice

SETTINGS = {"epochs": 2, "batch_size": 2, "views": 2, "rank": 2, "dropout": 0.2, "device": "cpu"}


def train(slices, runs, name, **changes):
    """``train.yaml`` with the overlay."""
    configs = f"{bundle_root('sam_finetune')}/configs"
    workflow = create_workflow(
        config_file=[f"{configs}/train.yaml", f"{configs}/prompted.yaml"],
        run_id="training",
        logging_file=False,
        **{**SETTINGS, **changes},
        dataset_dir=str(slices),
        runs_dir=str(runs),
        run_name=name,
    )
    workflow.run()
    workflow.finalize()
    return runs / name


@pytest.fixture(scope="module")
def box_run(mini_slices, packaged_weights, tmp_path_factory):
    """Two epochs of box prompts, and the run as a kill after the first would have left it."""
    from samtune.training.checkpoint import RunCheckpoint

    runs = tmp_path_factory.mktemp("prompted")
    save = RunCheckpoint._save

    def save_and_copy(handler, engine):
        save(handler, engine)
        if engine.state.epoch == 1:
            shutil.copytree(handler.path, runs / "after_epoch_1")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunCheckpoint, "_save", save_and_copy)
        return train(mini_slices, runs, "box", prompts="box")


def equal(run, other):
    found, expected = (load_file(path / "adapter_last.safetensors") for path in (run, other))
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in found
    )


def test_again_and_resumed_it_ends_with_the_same_bytes(box_run, mini_slices, tmp_path):
    again = train(mini_slices, tmp_path, "again", prompts="box")
    assert equal(again, box_run)
    shutil.copytree(box_run.parent / "after_epoch_1", tmp_path / "box")
    torch.manual_seed(99)
    assert equal(train(mini_slices, tmp_path, "box", prompts="box"), box_run)


def test_adapter_run_and_curve_tell_the_prompts(box_run):
    adapter = read_adapter(box_run / "adapter_last.safetensors")
    assert adapter.base["prompts"] == "box"
    assert "mask_decoder.mask_tokens.weight" in adapter.tensors
    assert not any(name.startswith("class_head") for name in adapter.tensors)
    settings = json.loads((box_run / "run.json").read_text())["settings"]
    assert settings["prompts"]["kind"] == "box"
    assert settings["prompts"]["scheme"]["jitter_px"] == [0, 20]
    with (box_run / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"val_dice_front", "val_dice_back", "val_dice_whole"} < set(rows[0])


def test_other_prompts_are_another_run(box_run, mini_slices):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of MONAI's, around ours
        train(mini_slices, box_run.parent, "box", prompts="hybrid")
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert "prompts.kind was 'box', now 'hybrid'" in str(error)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_is_evaluated_with_the_boxes_of_zero_shot(
    box_run, mini_slices, run_bundle, tmp_path, monkeypatch
):
    given = []
    infer, forward = PromptedInferer.__call__, PromptedSegmenter.forward

    def spy_infer(self, image, network, *args, owners, **keywords):
        given.append((image, keywords["boxes"]))
        return infer(self, image, network, *args, owners=owners, **keywords)

    def spy_forward(self, image, boxes, *args, **keywords):
        given.append((image, boxes))
        return forward(self, image, boxes, *args, **keywords)

    monkeypatch.setattr(PromptedInferer, "__call__", spy_infer)
    run_bundle("evaluate", run_dir=str(box_run), output_dir=str(tmp_path / "a"), device="cpu")
    monkeypatch.setattr(
        PromptedSegmenter, "forward", lambda *a, **k: spy_forward(a[0], *a[1:], *k.values())
    )
    zero = {"dataset_dir": str(mini_slices), "output_dir": str(tmp_path / "b"), "device": "cpu"}
    run_bundle("zero_shot", **zero, image_size=128)
    (image, boxes), (image_b, boxes_b) = given
    assert torch.equal(image, image_b)
    assert torch.equal(boxes.nan_to_num(), boxes_b.nan_to_num())
    protocol = json.loads((tmp_path / "a/metrics_test.json").read_text())["protocol"]
    assert protocol["prompt"] == "oracle_box"
    assert protocol["fine_tuned"] is True
    tables = [str(tmp_path / name / "metrics_test.csv") for name in ("b", "a")]
    assert [row["name"] for row in rows_of(Path(tables[0]))] == [
        row["name"] for row in rows_of(Path(tables[1]))
    ]
    run_bundle("evaluate", run_dir=str(box_run), adapter="none", device="cpu")
    untouched = box_run / "untouched/metrics_test.csv"
    assert rows_of(untouched) == rows_of(Path(tables[0]))
    companion = json.loads(untouched.with_suffix(".json").read_text())
    assert companion["protocol"]["fine_tuned"] is False
    assert main(["compare", *tables, "--out", str(tmp_path / "compared"), "--names", "b", "a"]) == 0


def test_without_prompts_it_says_so(box_run, tmp_path, tiny_volumes):
    with pytest.raises(ValueError, match=r"was trained with prompts \(box\)"):
        predict(box_run, tiny_volumes / "images", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert main(["export", str(box_run), "--out", str(tmp_path / "exported")]) != 0
    assert not (tmp_path / "exported").exists()


def test_one_slice_by_a_box(box_run, mini_slices):
    network = load_run(box_run).network("last")
    (file,) = sorted((mini_slices / "slices").glob("case_0_000.npz"))
    images, _ = read_slice_file(file)
    height, width = images.shape[1:3]
    logits = segment_slice(network, images[0], boxes=[(2, 2, width - 2, height - 2)])
    assert logits.shape == (1, height, width)
    assert np.isfinite(logits).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["point", "hybrid", "clicks"])
def test_other_kinds_train_and_are_evaluated(
    kind, mini_slices, packaged_weights, run_bundle, tmp_path
):
    runs = [
        train(mini_slices, tmp_path, name, prompts=kind, epochs=1, clicks=1, refinements=1)
        for name in ("a", "b")
    ]
    assert equal(*runs)
    run_bundle("evaluate", run_dir=str(runs[0]), device="cpu")
    protocol = json.loads((runs[0] / "metrics_test.json").read_text())["protocol"]
    names = {"point": "centre_point", "hybrid": "oracle_hybrid", "clicks": "clicks_3"}
    assert protocol["prompt"] == names[kind]
    assert len(rows_of(runs[0] / "metrics_test.csv")) == 3


@pytest.mark.slow
def test_each_part_of_a_class_can_be_a_prompt_of_its_own(
    mini_slices, packaged_weights, run_bundle, tmp_path
):
    scheme = {"box": "tight", "regions": "all", "one_per": "region", "jitter_px": [0, 2]}
    run = train(mini_slices, tmp_path, "parts", prompts="box", prompt_scheme=scheme, epochs=1)
    run_bundle("evaluate", run_dir=str(run), device="cpu")
    protocol = json.loads((run / "metrics_test.json").read_text())["protocol"]
    assert protocol["prompt_scheme"]["one_per"] == "region"
