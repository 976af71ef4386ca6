"""Pixels that nobody judged, on their way from the slice file to loss and score."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose

from samtune.preprocessing.label_map import LabelMap
from samtune.preprocessing.label_steps import LabelSteps
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.prompt_schemes import PromptScheme, make_prompts
from samtune.preprocessing.prompt_transforms import collate_prompts
from samtune.preprocessing.slice_file import read_slice_file, write_slice_file
from samtune.preprocessing.slice_transforms import (
    IGNORED,
    IGNORED_REGION,
    LoadSliced,
    ToFramed,
    ToTargetd,
)
from samtune.preprocessing.slice_volumes import slice_volumes
from samtune.training.augmentation import PRESETS, random_transforms
from samtune.training.case_dice import CaseDice
from samtune.training.class_weights import class_weights
from samtune.training.features import SliceDataset
from samtune.training.joined import join
from samtune.training.losses import class_loss
from samtune.training.prompt_plan import prompt_plan
from samtune.training.prompted import PreparePrompts, PromptedSlices
from samtune.training.slice_data import slice_items
from samtune.training.task import task_of


@pytest.fixture
def make_slices(tmp_path):
    """One case of three slices of 8 x 10 pixels: class 1, in part unjudged (255)."""

    def make(name="slices", class_name="organ", ignore=255, value=1):
        root = tmp_path / name
        label = np.zeros((8, 10, 3), np.uint8)
        label[1:7, 2:6, :] = value
        label[3:5, :, 1:] = ignore
        image = np.random.default_rng(0).normal(100, 9, label.shape).astype(np.float32)
        for folder, array in (("images", image), ("labels", label)):
            (root / folder).mkdir(parents=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / "a.nii.gz")
        slice_volumes(
            root / "images",
            root / "labels",
            modality="mr",
            out=root / "slices",
            axis=2,
            class_names={value: class_name},
            label_steps=LabelSteps(LabelMap(), ignore_label=ignore),
            split_counts=(1, 0, 0),
            workers=1,
            progress=False,
        )
        return load_manifest(root / "slices")

    return make


@pytest.fixture
def manifest(make_slices):
    return make_slices()


def stored(manifest, row):
    return read_slice_file(manifest.path(row))[1][row.position]


def test_the_ignored_value_is_no_class_and_becomes_no_channel(manifest):
    assert task_of(manifest).classes == {1: "organ"}
    for row, item in zip(manifest.slices, slice_items(manifest, "train"), strict=True):
        assert item["ignore_label"] == 255
        loaded = LoadSliced([1])(item)
        label = stored(manifest, row)
        expected = np.where(label == 255, IGNORED, label.astype(int))
        np.testing.assert_array_equal(loaded["label"][0], expected)
        assert "ignore_label" not in loaded  # which not every folder of a batch has
    assert (label == 255).any()


def test_a_target_of_regions_marks_them_in_every_channel(manifest):
    item = LoadSliced([1])(slice_items(manifest, "train")[2])
    target = ToTargetd([[1], [1]])(item)["label"]
    unjudged = item["label"][0] == IGNORED
    assert target.dtype == torch.uint8
    for channel in target:
        np.testing.assert_array_equal(channel == IGNORED_REGION, unjudged)
        np.testing.assert_array_equal(channel == 1, item["label"][0] == 1)


def test_a_value_cannot_be_ignored_and_a_class(tmp_path):
    label = np.full((1, 3, 3), 2, np.uint8)
    write_slice_file(tmp_path / "a.npz", label, label)
    item = {"file": str(tmp_path / "a.npz"), "ignore_label": 2}
    with pytest.raises(ValueError, match=r"a\.npz': 2 is the ignore label and among the classes"):
        LoadSliced([1, 2])(item)


@pytest.mark.parametrize("channels", [None, [[1]]])
@pytest.mark.parametrize("preset", PRESETS)
def test_resizing_and_augmentation_make_no_new_value(
    manifest, make_network, tmp_path, channels, preset
):
    marked = IGNORED if channels is None else IGNORED_REGION
    transform = Compose([LoadSliced([1]), ToFramed(32, "medsam"), ToTargetd(channels)])
    data = SliceDataset(
        slice_items(manifest, "train"),
        transform,
        network=make_network(num_classes=1),
        random_transforms=random_transforms(preset, normalization="medsam"),
        views=5,
        cache_dir=tmp_path / "features",  # where labels are packed
    )
    found = set()
    for epoch in range(6):
        data.set_epoch(epoch)
        label = data[2]["label"]
        assert set(label.unique().tolist()) <= {marked, 0, 1}
        found |= set(label.unique().tolist())
    assert found == {marked, 0, 1}


def test_validation_leaves_them_out(manifest):
    task = task_of(manifest)
    metric = CaseDice(manifest, task)
    for row in manifest.slices:
        label = stored(manifest, row)
        # right where it was judged, and wrong in two different ways elsewhere
        pred = np.where(label == 255, row.index % 2, label)
        metric._stream.add("a", row.index, pred.astype(np.uint8))
    metric._stream._flush()
    assert metric.compute() == 1.0


def test_joined_folders_each_have_their_own(make_slices):
    """2 is the ignored value of the first folder and a class of the second."""
    first, second = make_slices("x", "organ", ignore=2), make_slices("y", "vessel", 255, value=2)
    joined = join([first, second])
    load = LoadSliced(task_of(joined).class_values)
    items = [load(item) for item in slice_items(joined, "train")]
    for item in items:
        assert item["annotated"].sum() == 1
        assert set(item["label"].unique().tolist()) - {0, IGNORED} == {
            int(item["annotated"].nonzero()) + 1
        }
    assert sum(bool((item["label"] == IGNORED).any()) for item in items) == 4
    metric = CaseDice(joined, task_of(joined))
    for case in joined.cases:
        for row in joined.select(case=case):
            label = stored(joined, row)
            own, ignore = (1, 2) if joined.part(case).manifest is first else (2, 255)
            pred = np.where(label == own, joined.joint_values(case)[own], 0)
            pred[label == ignore] = joined.joint_values(case)[own]
            metric._stream.add(case, row.index, pred.astype(np.uint8))
    metric._stream._flush()
    assert metric.compute() == 1.0


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_batch_of_them_trains(manifest, make_network, activation):
    channels = None if activation == "softmax" else [[1]]
    transform = Compose([LoadSliced([1]), ToFramed(32, "medsam"), ToTargetd(channels)])
    items = [transform(item) for item in slice_items(manifest, "train")]
    network = make_network(num_classes=1)
    logits = network(torch.stack([item["image"] for item in items]))
    logits.retain_grad()
    label = torch.stack([item["label"] for item in items])
    class_loss(activation)(logits, label).backward()
    unjudged = (label < 0) | (label == IGNORED_REGION)
    assert unjudged.any()
    assert not logits.grad[:, 1:][unjudged].any()
    assert (logits.grad[:, 1:][~unjudged] != 0).all()


def test_inverse_frequency_counts_judged_pixels_alone(manifest):
    labels = np.stack([stored(manifest, row) for row in manifest.slices])
    judged = np.count_nonzero(labels != 255)
    assert judged < labels.size
    expected = [judged / (2 * np.count_nonzero(labels == value)) for value in (0, 1)]
    found = class_weights("inverse_frequency", manifest, task_of(manifest))
    assert found == pytest.approx(expected)


def test_inverse_frequency_of_joined_folders_that_ignore_other_values(make_slices):
    first, second = make_slices("x", "organ", ignore=2), make_slices("y", "organ")
    joined = join([first, second])
    found = class_weights("inverse_frequency", joined, task_of(joined))
    own = class_weights("inverse_frequency", first, task_of(first))
    assert found == pytest.approx(own)  # the same pixels twice


def test_prompted_training_is_told_which_pixels_were_judged(manifest, make_network):
    plan = prompt_plan("clicks", task_of(manifest))
    data = PromptedSlices(
        slice_items(manifest, "train"),
        Compose([LoadSliced([1]), ToFramed(32, "medsam")]),
        network=make_network(num_classes=1),
        cache=False,
        prompts=plan,
    )
    batch = collate_prompts([data[index] for index in range(3)])
    unjudged = batch["label"] == IGNORED
    assert unjudged[1:].flatten(1).any(1).all()
    for training in (True, False):
        prepare = PreparePrompts(plan, data, training=training)
        _, target, _, keywords = prepare(batch, torch.device("cpu"))
        torch.testing.assert_close(keywords["clicks"].judged, ~unjudged[:, 0])
    _, target, _, _ = PreparePrompts(plan, data, training=True)(batch, torch.device("cpu"))
    assert torch.equal(target["judged"], ~unjudged)
    assert torch.equal(target["targets"], batch["targets"][:, :, 0])
    whole = {**batch, "label": batch["label"].clamp(min=0)}
    _, target, _, keywords = PreparePrompts(plan, data, training=True)(whole, torch.device("cpu"))
    assert torch.equal(target, batch["targets"][:, :, 0])
    assert keywords["clicks"].judged is None


def test_points_outside_a_class_are_drawn_where_somebody_judged():
    label = np.full((6, 6), IGNORED)
    label[2:4, 2:4] = 1
    label[0, :3] = 0
    scheme = PromptScheme(num_points=1, num_background=3)
    prompts = make_prompts(label, [[1]], scheme, np.random.default_rng(0))
    outside = prompts.points[prompts.point_labels == 0]
    assert sorted(outside.tolist()) == [[0, 0], [1, 0], [2, 0]]
