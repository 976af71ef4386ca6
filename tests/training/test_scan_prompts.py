import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.model_frame import image_to_frame, logits_to_slice
from samtune.preprocessing.prepare import prepare_case
from samtune.preprocessing.prompts import tight_box
from samtune.preprocessing.slicing import volume_to_slices
from samtune.preprocessing.volumes import read_volume
from samtune.preprocessing.voxel_prompts import VoxelPrompt
from samtune.training.predict import predict
from samtune.training.scan_prompts import (
    PromptedModel,
    ScanPrompter,
    model_of_run,
    predict_prompted,
    untouched_model,
)

CLASSES = {1: "front", 3: "back"}


@pytest.fixture
def model(make_network):
    intensity = Intensity.for_modality("mr").to_dict()
    return PromptedModel(make_network().eval(), intensity, classes=CLASSES)


@pytest.fixture
def scan(tiny_volumes):
    return tiny_volumes / "images/case_2.nii.gz"  # stored as PSR


@pytest.fixture
def label(tiny_volumes):
    return np.asarray(nib.load(tiny_volumes / "labels/case_2.nii.gz").dataobj)


@torch.no_grad()
def test_a_box_in_the_files_voxels_is_the_box_of_the_slice_that_training_saw(
    model, scan, label, tmp_path
):
    """By hand: slice and label through the slicer, its tight box through the network's forward."""
    slices, geometry = prepare_case(
        read_volume(scan), case="x", intensity=Intensity.for_modality("mr"), axis=None
    )
    sliced = volume_to_slices(label, geometry)
    number = int(np.flatnonzero((sliced == 3).any((1, 2)))[0])
    image, mask = slices[number], sliced[number] == 3
    frame = image_to_frame(torch.tensor(image)[None], 32, "medsam")
    box = torch.tensor(tight_box(mask), dtype=torch.float32) * 32 / max(image.shape)
    logits, _ = model.network(frame[None], boxes=box[None, None])
    expected = logits_to_slice(logits[0], image.shape)[0]

    prompter = ScanPrompter(model, scan, tmp_path)
    cut = 1  # the file's S axis
    k = next(k for k in range(label.shape[cut]) if (label.take(k, cut) == 3).any())
    if prompter.plane.index(k) != number:
        k = label.shape[cut] - 1 - number
    own = (label.take(k, cut) == 3).T
    prompt = VoxelPrompt(k, 3, tuple(map(float, tight_box(own))))
    # content_size rounds the short side: half a frame's pixel
    torch.testing.assert_close(prompter.logits(prompt), expected, rtol=0.02, atol=0.02)
    np.testing.assert_array_equal(prompter.plane.view(slices[number]), prompter.picture(k))
    assert prompter.mask(prompt).shape == own.shape


@torch.no_grad()
def test_points_and_box_are_one_prompt_and_the_encoder_runs_once_a_slice(
    model, scan, tmp_path, monkeypatch
):
    calls = []
    encode = model.network.encode
    monkeypatch.setattr(model.network, "encode", lambda *a: (calls.append(1), encode(*a))[1])
    prompter = ScanPrompter(model, scan, tmp_path)
    box, points = (2.0, 3.0, 9.0, 10.0), ((5.0, 6.0, 1), (0.0, 0.0, 0))
    found = [
        prompter.logits(VoxelPrompt(1, 1, *one))
        for one in ((box,), (None, points), (box, points), (None, points[:1]))
    ]
    assert len(calls) == 1
    assert len({float(one.sum()) for one in found}) == 4  # each of them counts
    prompter.logits(VoxelPrompt(0, 1, box))
    assert len(calls) == 2


class Fixed:
    """Stands for a prompter's network: a disc around a box's centre, larger for class 3."""

    def __init__(self, prompter):
        self.shape = prompter.geometry.slices_shape[1:]

    def __call__(self, prompt):
        rows, cols = np.mgrid[: self.shape[0], : self.shape[1]]
        distance = (rows - 8) ** 2 + (cols - 8) ** 2
        return torch.tensor((5.0 * prompt.value) ** 2 - distance) * prompt.value


def test_classes_are_joined_and_compete_in_the_label_file(model, scan, tmp_path, monkeypatch):
    monkeypatch.setattr(ScanPrompter, "logits", lambda self, prompt: Fixed(self)(prompt))
    box = (1.0, 1.0, 5.0, 5.0)
    prompts = {"case_2": [VoxelPrompt(0, 1, box), VoxelPrompt(2, 1, box), VoxelPrompt(2, 3, box)]}
    (file,) = predict_prompted(model, scan, prompts, tmp_path)
    written, image = nib.load(file), nib.load(scan)
    assert file.name == scan.name
    np.testing.assert_array_equal(written.affine, image.affine)
    values = [set(np.unique(np.asarray(written.dataobj).take(k, 1))) for k in range(3)]
    assert values == [{0, 1}, {0}, {0, 3}]  # of the two, 3 has the larger logit everywhere
    table = (tmp_path / "qc.csv").read_text().splitlines()
    assert table[1].startswith("case_2,ok,case_2.nii.gz,false,")


def test_a_resumed_command_does_not_take_the_file_for_its_own(model, scan, tmp_path, loud_run):
    (file,) = predict(loud_run, scan, tmp_path, statistics=True, probabilities="npz")
    before = file.read_bytes()
    predict_prompted(model, scan, [VoxelPrompt(1, 1, (2.0, 2.0, 12.0, 12.0))], tmp_path)
    assert file.read_bytes() != before
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == ["case_2.nii.gz", "qc.csv"]  # the others were of the labels before
    predict(loud_run, scan, tmp_path, resume=True)
    assert file.read_bytes() == before


def test_a_single_slice_is_drawn(model, scan, tmp_path):
    prompts = [VoxelPrompt(1, 1, (2.0, 2.0, 12.0, 12.0))]
    files = predict_prompted(model, scan, prompts, tmp_path, overlays=True)
    assert [file.name for file in files] == ["case_2.nii.gz", "case_2_slice_001.png"]
    with Image.open(files[1]) as picture:
        assert picture.mode == "RGB"


def test_a_colour_picture_is_prompted_in_columns_and_rows(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    colour = PromptedModel(model.network, Intensity.for_modality("rgb").to_dict())
    prompter = ScanPrompter(colour, tmp_path / "photo.png", tmp_path / "out")
    assert prompter.plane.size_xy == (30, 20)
    np.testing.assert_array_equal(prompter.picture(0), pixels)
    prompt = VoxelPrompt(0, 2, (20.0, 5.0, 29.0, 12.0))
    files = predict_prompted(
        colour, tmp_path / "photo.png", [prompt], tmp_path / "out", overlays=True
    )
    assert [file.name for file in files] == ["photo.png", "photo_slice_000.png"]
    mask = prompter.mask(prompt)
    with Image.open(files[0]) as label:
        np.testing.assert_array_equal(np.asarray(label), 2 * mask)


def test_what_is_wrong_is_said_before_anything_is_written(model, scan, tmp_path, tiny_volumes):
    out = tmp_path / "out"
    box = (0.0, 0.0, 1.0, 1.0)
    prompts = {"case_2": [VoxelPrompt(0, 1, box), VoxelPrompt(9, 1, box)]}
    with pytest.raises(ValueError, match=r"scan 'case_2', prompt 2: slice 9 is not in 0 to 2"):
        predict_prompted(model, scan, prompts, out)
    one = [VoxelPrompt(0, 1, box)]
    given = {f"case_{number}": one for number in range(2, 6)}
    with pytest.raises(ValueError, match="no prompts for scans: case_0, case_1; there are some"):
        predict_prompted(model, tiny_volumes / "images", given, out)
    with pytest.raises(ValueError, match=r"of no scan: 'case-2' \(nearest: 'case_2'\), 'b'; the "):
        predict_prompted(model, scan, {"case-2": one, "b": one}, out)
    with pytest.raises(ValueError, match=r"of no scan: 'case_7' .*; the scans are: case_2$"):
        predict_prompted(model, scan, {"case_2": one, "case_7": one}, out)
    with pytest.raises(ValueError, match="one list of prompts is of one scan, got 6"):
        predict_prompted(model, tiny_volumes / "images", [VoxelPrompt(0, 1, box)], out)
    tiled = PromptedModel(model.network, model.intensity, slicing={"tile_size": 8})
    with pytest.raises(ValueError, match="is cut into tiles"):
        ScanPrompter(tiled, scan, out)
    with pytest.raises(ValueError, match="modality must be"):
        untouched_model(modality="us")
    assert not out.exists()


def test_runs_and_the_packaged_model_take_prompts(loud_run, scan, label, tmp_path):
    own = (label.take(0, 1) == 3).T
    k = 0 if own.any() else label.shape[1] - 1
    own = (label.take(k, 1) == 3).T
    prompt = VoxelPrompt(k, 3, tuple(map(float, tight_box(own))))
    untouched = untouched_model("lite_medsam", modality="mr", image_size=128, device="cpu")
    mask = ScanPrompter(untouched, scan, tmp_path).mask(prompt)
    assert 2 * (mask & own).sum() / (mask.sum() + own.sum()) > 0.5  # a bright rectangle in its box
    trained = model_of_run(loud_run, device="cpu")
    assert trained.classes == CLASSES
    assert ScanPrompter(trained, scan, tmp_path).mask(prompt).shape == own.shape


def test_a_scan_may_not_be_overwritten(model, scan, tmp_path):
    shutil.copy(scan, tmp_path)
    with pytest.raises(ValueError, match="would be overwritten by its prediction"):
        ScanPrompter(model, tmp_path / scan.name, tmp_path)
