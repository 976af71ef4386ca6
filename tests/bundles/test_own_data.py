"""Training on a MONAI datalist, and on the example's Dataset."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import create_workflow
from monai.metrics import DiceMetric
from PIL import Image

from samtune.preprocessing.slice_file import write_slice_file
from samtune.training.errors import root_cause
from samtune.training.folds import open_run_slices
from samtune.training.own_data import DatalistDataset, own_manifest, read_pair
from samtune.training.paths import bundle_root
from samtune.training.raw_slices import RawSlices
from samtune.training.run_folder import load_run

TINY = {
    **{"arch": "lite_medsam", "checkpoint": "random", "image_size": 32, "device": "cpu"},
    **{"epochs": 1, "batch_size": 2, "views": 2, "rank": 1, "blocks": "last:1"},
    **{"decoder": "lora"},
}


@pytest.fixture
def train(tmp_path):
    def call(*files, **settings):
        configs = f"{bundle_root('sam_finetune')}/configs"
        workflow = create_workflow(
            config_file=[f"{configs}/train.yaml", f"{configs}/own_data.yaml", *map(str, files)],
            run_id="training",
            logging_file=False,
            **{**TINY, "runs_dir": str(tmp_path / "runs"), "run_name": "own", **settings},
        )
        workflow.run()
        return workflow, tmp_path / "runs/own"

    return call


@pytest.fixture
def datalist(tmp_path, rng):
    """Four pictures in colour and grey, and one slice file, with masks of 0, 1 and 2."""
    root = tmp_path / "images"
    root.mkdir()
    entries = []
    for number, shape in enumerate([(20, 24), (24, 20, 3), (16, 16), (18, 30)]):
        label = np.zeros(shape[:2], np.uint8)
        label[4:12, 3:9], label[4:12, 9:14] = 1, 2
        image = rng.integers(0, 60, shape) + 70 * (label if len(shape) == 2 else label[..., None])
        Image.fromarray(image.astype(np.uint8)).save(root / f"{number}.png")
        Image.fromarray(label).save(root / f"{number}_label.png")
        entries.append({"image": f"{number}.png", "label": f"{number}_label.png"})
    write_slice_file(root / "4.npz", image.astype(np.uint8)[None], label[None])
    entries.append({"image": "4.npz", "label": "4.npz"})
    file = root / "datalist.json"
    file.write_text(json.dumps({"training": entries[:3], "validation": entries[3:]}))
    return file


def last_iteration(path):
    return json.loads((path / "resources.json").read_text())["commands"][-1]["last_iteration"]


def test_two_steps_on_a_datalist(train, datalist, tiny_volumes, tmp_path):
    scan = tiny_volumes / "images/case_0.nii.gz"
    _, path = train(datalist=str(datalist), classes={1: "left", 2: "right"})
    record = json.loads((path / "run.json").read_text())
    assert record["task"]["classes"] == {"1": "left", "2": "right"}
    assert record["data"]["split"] == {
        **{"train": ["train_0", "train_1", "train_2"], "val": ["val_0", "val_1"]}
    }
    assert record["data"]["dataset_dir"] == str(datalist)
    assert last_iteration(path) == 2
    with (path / "curve.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert 0 <= float(row["val_dice"]) <= 1
    # what needs scans or slices says what is missing
    with pytest.raises(ValueError, match="trained on a dataset of its own"):
        RawSlices(scan, intensity=load_run(path).intensity, axis=None, transform=dict, out=tmp_path)
    with pytest.raises(ValueError, match="name a folder of slices to score it on"):
        open_run_slices([load_run(path)])
    # other data is another run
    content = json.loads(datalist.read_text())
    content["training"].pop()
    datalist.write_text(json.dumps(content))
    with pytest.raises((RuntimeError, FileExistsError)) as caught:
        train(datalist=str(datalist), classes={1: "left", 2: "right"})
    assert "the slices are others" in str(root_cause(caught.value))


def test_what_a_datalist_holds(datalist):
    dataset = DatalistDataset(datalist, "training")
    image, label = read_pair(dataset, 0, "a")
    np.testing.assert_array_equal(image, np.asarray(Image.open(datalist.parent / "0.png")))
    np.testing.assert_array_equal(label, np.asarray(Image.open(datalist.parent / "0_label.png")))
    image, _ = read_pair(dataset, 1, "b")
    np.testing.assert_array_equal(image, np.asarray(Image.open(datalist.parent / "1.png")))
    last = DatalistDataset(datalist, "validation")
    pictures, slices = read_pair(last, 0, "c"), read_pair(last, 1, "d")
    for one, other in zip(pictures, slices, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_example_trains_and_validates_as_monai_counts(train, repo_root, monkeypatch):
    folder = repo_root / "examples/own_dataset"
    monkeypatch.syspath_prepend(str(folder))
    small = {"own::train::number": 4, "own::validate::number": 3}
    workflow, path = train(folder / "discs.yaml", **small, run_name="own")
    assert last_iteration(path) == 2
    dice = workflow.parser.get_parsed_content("validate::dice")
    assert list(dice.per_case) == ["val_0", "val_1", "val_2"]
    assert dice.class_names == ["disc", "core"]
    discs = sys.modules["discs"].Discs(3, 1)
    evaluator = workflow.parser.get_parsed_content("validate::evaluator")
    seen = {}

    def keep(engine):
        for item, out in zip(engine.state.batch, engine.state.output, strict=True):
            seen[item["case"]] = torch.as_tensor(out["pred"])

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, keep)
    evaluator.run()
    metric = DiceMetric(ignore_empty=False)
    for number in range(3):
        label = torch.as_tensor(discs[number]["label"])
        pred = seen[f"val_{number}"]
        assert pred.shape == label.shape == (64, 64)  # own pixels, not the network's 32
        masks = [torch.stack([one == value for value in (1, 2)]) for one in (pred, label)]
        expected = metric(*(one[None].float() for one in masks))[0].numpy()
        expected[~(masks[0] | masks[1]).flatten(1).any(1).numpy()] = np.nan  # in neither
        found = [dice.per_case[f"val_{number}"][name] for name in ("disc", "core")]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    sys.modules.pop("discs")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": {1: "a", 2: "b"}}, "datalist: null; expected a JSON file"),
        ({"datalist": "none.json", "classes": {1: "a"}}, "'none.json' does not exist"),
        ({"datalist": True}, "classes: None; expected the names of label values"),
        ({"datalist": True, "classes": {1: "a"}, "data::fold": 0}, "is not dealt into folds"),
        ({"datalist": True, "classes": {1: "a"}}, "label values [2] are not among the classes"),
        ({"datalist": True, "classes": {1: "a", 2: "b"}, "neighbours": 1}, "neighbours: 1; items"),
        (
            {"datalist": True, "classes": {1: "a", 2: "b"}, "labelled_only": True},
            "labelled_only needs a folder of slices",
        ),
        (
            {"datalist": True, "classes": {1: "a", 2: "b"}, "class_weights": "inverse_frequency"},
            "has no geometry: class_weights inverse_frequency needs a folder of slices",
        ),
    ],
)
def test_wrong_settings(train, datalist, settings, message):
    given = dict(settings)
    if given.get("datalist") is True:
        given["datalist"] = str(datalist)
    with pytest.raises((RuntimeError, ValueError, FileNotFoundError)) as caught:
        train(**given)
    assert message in str(root_cause(caught.value))


GOOD = np.zeros((4, 5), np.uint8)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"image": GOOD}, "item x: expected a mapping with image and label"),
        ((GOOD, GOOD, GOOD), "or a pair of them"),
        ((GOOD[None, None], GOOD), r"image is \(1, 1, 4, 5\)"),
        ((GOOD, GOOD.T), r"image is \(4, 5\), label \(5, 4\)"),
        ((GOOD, GOOD.astype(float)), "label is float64, expected whole numbers"),
        ((GOOD, GOOD.astype(int) - 1), "label is int64, expected whole numbers from 0"),
        ((GOOD + 1.5, GOOD), "floats of an image must be from 0 to 1"),
        ((GOOD * np.nan, GOOD), "floats of an image must be from 0 to 1"),
        ((GOOD.astype(np.int32), GOOD), "image is int32, expected uint8, uint16 or floats"),
    ],
)
def test_items_that_cannot_be_used(item, message):
    with pytest.raises(ValueError, match=message):
        read_pair([item], 0, "x")


def test_items_of_any_layout():
    image = np.arange(20, dtype=np.uint8).reshape(4, 5)
    for given in (image, image[None], torch.from_numpy(image)):
        found, label = read_pair([(given, GOOD[None] > 0)], 0, "x")
        np.testing.assert_array_equal(found, image)
        assert label.dtype == np.uint8
    colour = np.stack([image, image + 1, image + 2])
    found, _ = read_pair([{"image": colour, "label": GOOD}], 0, "x")
    np.testing.assert_array_equal(found, np.stack([image, image + 1, image + 2], -1))
    found, _ = read_pair([(np.full((4, 5), 0.5), GOOD)], 0, "x")
    np.testing.assert_allclose(found / 257, 127.5)  # as 8 bits


def test_an_empty_dataset():
    with pytest.raises(ValueError, match="the dataset for split 'val' is empty"):
        own_manifest([(GOOD, GOOD)], [], classes={1: "a"})
