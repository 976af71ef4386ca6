"""Cropped, resampled and tiled slices through slicing, prediction and scoring, and back."""

import logging
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from samtune.preprocessing.intensity import Intensity, apply
from samtune.preprocessing.label_map import LabelMap
from samtune.preprocessing.label_steps import LabelSteps
from samtune.preprocessing.manifest import Manifest, load_manifest
from samtune.preprocessing.slice_file import read_slice_file
from samtune.preprocessing.slice_settings import Slicing
from samtune.preprocessing.slice_transforms import LoadSliced, ToClassMapd
from samtune.preprocessing.slice_volumes import slice_volumes
from samtune.preprocessing.volumes import read_volume
from samtune.training.case_dice import CaseDice
from samtune.training.case_stream import image_volume, reference_volume
from samtune.training.raw_slices import RawSlices
from samtune.training.slice_data import slice_items
from samtune.training.task import task_of

SHAPE = (12, 18, 5)
AFFINES = {
    "a": np.diag([0.5, 0.75, 3.0, 1.0]),
    "b": np.array([[0, 0, -3.0, 4], [-0.75, 0, 0, 2], [0, 0.5, 0, 1], [0, 0, 0, 1]]),
}
SLICINGS = {
    "crop": Slicing(crop_margin=1),
    "spacing": Slicing(spacing_mm=(0.6, 1.1)),
    "tiles": Slicing(tile_size=7, tile_overlap=2),
    "all": Slicing(spacing_mm=(0.4, 1.1), crop_margin=2.0, crop_unit="mm", tile_size=5),
}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("volumes")
    for number, (case, affine) in enumerate(AFFINES.items()):
        rng = np.random.default_rng(number)
        label = np.zeros(SHAPE, dtype=np.uint8)
        label[3:8, 4:15, 1:4] = 1
        label[5:7, 6:9, 2] = 2
        for folder, array in (
            ("images", rng.normal(100, 30, SHAPE).astype(np.float32)),
            ("labels", label),
        ):
            (root / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), root / folder / f"{case}.nii.gz")
    return root


@pytest.fixture
def cut(volumes, tmp_path) -> Callable[..., Manifest]:
    def call(slicing: Slicing | None = None, **options) -> Manifest:
        out = tmp_path / "out"
        options = {"split_counts": (2, 0, 0), "workers": 1, "modality": "mr", **options}
        images, labels = volumes / "images", options.pop("labels", volumes / "labels")
        report = slice_volumes(
            images, labels, out=out, slicing=slicing, progress=False, force=True, **options
        )
        assert not report.failed
        return load_manifest(out)

    return call


def label_of(volumes: Path, case: str) -> np.ndarray:
    return np.asarray(nib.load(volumes / "labels" / f"{case}.nii.gz").dataobj)


@pytest.mark.parametrize("layout", ["slice", "volume"])
@pytest.mark.parametrize("name", SLICINGS)
def test_the_label_of_a_case_comes_back_exactly_from_its_slice_files(cut, volumes, name, layout):
    manifest = cut(SLICINGS[name], layout=layout)
    for case, record in manifest.cases.items():
        assert record.geometry.plane is not None
        np.testing.assert_array_equal(reference_volume(manifest, case), label_of(volumes, case))
    tiles = {case: record.geometry.num_tiles for case, record in manifest.cases.items()}
    rows = manifest.select(case="a")
    assert len(rows) == 5 * tiles["a"]
    assert [(row.index, row.tile) for row in rows] == [
        (index, tile) for index in range(5) for tile in range(tiles["a"])
    ]


def test_the_image_comes_back_where_it_was_kept(cut, volumes):
    scaled = apply(read_volume(volumes / "images/b.nii.gz").array, Intensity.for_modality("mr"))
    np.testing.assert_array_equal(image_volume(cut(SLICINGS["tiles"]), "b"), scaled)
    cropped = image_volume(cut(SLICINGS["crop"]), "b")
    inside = label_of(volumes, "b") > 0
    np.testing.assert_array_equal(cropped[inside], scaled[inside])
    assert cropped[0, 0, 0] == 0 != scaled[0, 0, 0]


def test_only_training_cases_are_cropped_and_the_limits_are_those_of_the_whole_volume(cut):
    manifest = cut(Slicing(crop_margin=0), split_counts=(1, 0, 1))
    planes = {record.split: record.geometry.plane for record in manifest.cases.values()}
    assert planes["test"] is None
    assert planes["train"] is not None
    assert planes["train"].crop is not None
    record = next(row for row in manifest.slices if row.split == "train")
    assert read_slice_file(manifest.path(record))[0].shape[1:] == planes["train"].stored_hw


@pytest.mark.parametrize("name", ["spacing", "tiles"])
@pytest.mark.parametrize("case_index", [0, 1])
def test_prediction_cuts_raw_scans_as_the_training_data_was(
    cut, volumes, tmp_path, name, case_index
):
    manifest = cut(SLICINGS[name], intensity=Intensity.for_modality("mr", scope="slice", bits=16))
    raw = RawSlices(
        volumes / "images",
        intensity=manifest.settings["intensity"],
        axis=None,
        slicing=manifest.settings["slicing"],
        transform=dict,
        out=tmp_path / "pred",
    )
    assert len(raw) == len(manifest.slices)
    items = slice_items(manifest, "train")
    load = LoadSliced([1, 2])
    for position, item in enumerate(items):
        stored, again = load(item), raw[position]
        assert [again[key] for key in ("case", "index", "tile")] == [
            stored[key] for key in ("case", "index", "tile")
        ]
        np.testing.assert_array_equal(again["image"], stored["image"])
    case = "ab"[case_index]
    assert raw.geometry(case) == manifest.cases[case].geometry


def test_a_crop_is_left_out_of_prediction_with_a_note(cut, volumes, tmp_path, caplog):
    manifest = cut(SLICINGS["all"])
    with caplog.at_level(logging.INFO):
        raw = RawSlices(
            volumes / "images",
            intensity=manifest.settings["intensity"],
            axis=None,
            slicing=manifest.settings["slicing"],
            transform=dict,
            out=tmp_path / "pred",
        )
    assert "cropped to 2 mm round the label; whole slices are predicted" in caplog.text
    plane = raw.geometry("a").plane
    assert plane is not None
    assert (plane.crop, plane.tile) == (None, (5, 0))


@pytest.mark.parametrize("name", SLICINGS)
def test_a_perfect_prediction_scores_1_however_slices_were_stored(cut, volumes, name):
    """Logits that are the stored label's, through reading, blending, resizing and scoring."""
    if name in ("spacing", "all"):  # whole enlargement: nearest and bilinear agree on every pixel
        manifest = cut(Slicing(spacing_mm=(0.1, 0.15), tile_size=40, tile_overlap=8))
    else:
        manifest = cut(SLICINGS[name])
    task = task_of(manifest)
    metric = CaseDice(manifest, task)
    read, load = ToClassMapd(task.class_values), LoadSliced(task.class_values)
    for item in map(load, slice_items(manifest, "train")):
        label = item["label"][0]
        size = max(label.shape)
        frame = torch.zeros(3, size, size)
        for channel in (1, 2):
            frame[channel, : label.shape[0], : label.shape[1]] = (label == channel) * 20.0 - 10
        out = read({**item, "pred": frame})
        metric._stream.add(item["case"], item["index"], out["pred"], item.get("tile"))
    metric._stream._flush()
    assert metric.compute() == 1.0
    assert set(metric.per_case) == {"a", "b"}


def test_labels_are_mapped_cleaned_and_ignored_on_their_way_into_the_slices(cut, volumes):
    steps = LabelSteps(LabelMap.parse(["1=>3:organ;2=>255"]), ignore_label=255)
    manifest = cut(label_steps=steps)
    assert manifest.settings["class_names"] == {"3": "organ"}
    assert manifest.settings["label_values"] == manifest.case_labels() == [3]
    label = label_of(volumes, "a")
    expected = np.where(label == 2, 255, np.where(label == 1, 3, 0))
    np.testing.assert_array_equal(reference_volume(manifest, "a"), expected)
    assert LabelSteps.from_dict(manifest.settings["label_steps"]) == steps
    steps = LabelSteps(min_pixels=6)  # the six of class 2 stay, at 7 they go
    np.testing.assert_array_equal(reference_volume(cut(label_steps=steps), "a"), label)
    gone = reference_volume(cut(label_steps=LabelSteps(min_pixels=7)), "a")
    np.testing.assert_array_equal(gone, np.where(label == 2, 0, label))


def test_volume_layout_with_3_channels_is_what_sam_lora_reads(cut, volumes):
    manifest = cut(Slicing(channels=3), layout="volume")
    with np.load(manifest.root / "slices/a.npz", allow_pickle=False) as archive:
        assert set(archive.files) == {"imgs", "gts"}
        imgs, gts = archive["imgs"], archive["gts"]
    assert (imgs.shape, imgs.dtype) == ((5, 12, 18, 3), np.uint8)
    assert (gts.shape, gts.dtype) == ((5, 12, 18), np.uint8)
    for channel in (0, 1, 2):
        np.testing.assert_array_equal(imgs[..., channel], imgs[..., 0])
    grey = cut(layout="volume")
    with np.load(grey.root / "slices/a.npz") as archive:
        np.testing.assert_array_equal(archive["imgs"], imgs[..., 0])


def test_steps_that_need_labels_are_refused_without_them(cut):
    for options in ({"slicing": Slicing(crop_margin=1)}, {"label_steps": LabelSteps(min_voxels=2)}):
        with pytest.raises(ValueError, match="needs labels"):
            cut(**options, labels=None)
    with pytest.raises(ValueError, match="intensity is of modality ct, asked for is mr"):
        cut(intensity=Intensity.for_modality("ct"))
