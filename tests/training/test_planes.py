"""Runs that cut one scan along several axes: the mean of their probabilities in the volume."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes
from scipy import ndimage

from samtune.peft.adapter_file import save_adapter
from samtune.training.ensemble import open_runs
from samtune.training.network import build_network
from samtune.training.postprocess import LARGEST, CandidateScores, clean, write_choice
from samtune.training.predict import predict
from samtune.training.run_folder import load_run

VALUES = np.array([0, 1, 3])
SHAPE = (11, 8, 6)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Anisotropic, oblique, its array axes posterior, superior and right, all sizes different."""
    path = tmp_path_factory.mktemp("oblique") / "scan.nii.gz"
    to_world = np.array([[0, 0, 3.0], [-1.0, 0, 0], [0, 1.5, 0]])
    angle = np.deg2rad(14)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn[:, [2, 0, 1]][[2, 0, 1]] @ turn @ to_world
    affine[:3, 3] = (7, -20, 4)
    assert aff2axcodes(affine) == ("P", "S", "R")
    image = np.random.default_rng(0).normal(60, 10, SHAPE)
    image[3:8, 1:5, 1:4] += 60
    image[2:6, 4:7, 3:6] += 120
    nib.save(nib.Nifti1Image(image.astype(np.float32), affine), path)
    return path


@pytest.fixture
def make_run(loud_run, tmp_path):
    """A copy of the loud run, cut or read otherwise."""

    def make(name, axis, *, adapter="best", sigmoid=False, image_size=64, **slicing):
        path = tmp_path / name
        shutil.copytree(loud_run, path)
        record = json.loads((path / "run.json").read_text())
        network = load_run(path).network(adapter)
        if image_size != 128:
            tensors = dict(network.state_dict())
            network = build_network(
                image_size=image_size, num_classes=2, peft=network.peft["method"], decoder="full"
            )
            network.class_names = ["front", "back"]
            own = network.state_dict()  # but for what is of the size, such as attention offsets
            tensors = {k: v for k, v in tensors.items() if v.shape == own[k].shape}
            network.load_state_dict(tensors, strict=False)
            record["network"]["image_size"] = image_size
        if sigmoid:
            network.activation = record["network"]["activation"] = "sigmoid"
            record["task"]["channels"] = [
                {"name": "front", "labels": [1], "painted": 1},
                {"name": "back", "labels": [3], "painted": 3},
            ]
        save_adapter(path / "adapter_best.safetensors", network, peft=network.peft)
        record["data"] |= {"axis": axis, "slicing": slicing}
        (path / "run.json").write_text(json.dumps(record))
        return path

    return make


def volume(path):
    return np.asarray(nib.load(path).dataobj)


def segment(run, scan, out, **options):
    """Label and probabilities on the scan's grid."""
    options |= {"probabilities": "nii.gz", "device": "cpu"}
    (file,) = predict(run, scan, out, **options)
    image, written = nib.load(scan), nib.load(out / "probabilities" / file.name)
    for one in (nib.load(file), written):
        np.testing.assert_array_equal(one.affine, image.affine)
    return volume(file), np.asarray(written.dataobj)


def test_a_run_and_itself_along_the_same_axis_are_that_run(make_run, scan, tmp_path):
    """``auto`` takes the largest spacing's axis, here 0."""
    auto, given = make_run("auto", "auto"), make_run("given", 0)
    label, probabilities = segment(auto, scan, tmp_path / "alone")
    twice, mean = segment(auto, scan, tmp_path / "twice", ensemble=[given])
    np.testing.assert_array_equal(twice, label)
    np.testing.assert_array_equal(mean, probabilities)
    record = json.loads((tmp_path / "twice/predictions.json").read_text())
    assert record["settings"]["cuts"] == [
        {"axis": "auto", "num_runs": 1},
        {"axis": 0, "num_runs": 1},
    ]


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"sigmoid": True},
        {"spacing_mm": [1.5, 1.2], "tile_size": 9, "tile_overlap": 2},
        {"image_size": 128},
    ],
    ids=["softmax", "sigmoid", "stored", "image_size"],
)
def test_the_mean_is_taken_on_the_scans_grid(make_run, scan, tmp_path, other):
    sigmoid = other.get("sigmoid", False)
    first = make_run("first", 0, sigmoid=sigmoid)
    second = make_run("second", 2, **other)
    labels, alone = zip(
        *(segment(run, scan, tmp_path / f"alone_{run.name}") for run in (first, second)),
        strict=True,
    )
    label, found = segment(first, scan, tmp_path / "both", ensemble=second, statistics=True)
    mean = np.mean(alone, axis=0, dtype=np.float64)
    assert label.shape == SHAPE
    assert found.shape == (*SHAPE, 2 if sigmoid else 3)
    np.testing.assert_allclose(found, mean, rtol=0, atol=1e-6)
    if sigmoid:
        expected = np.where(mean[..., 1] > 0.5, 3, np.where(mean[..., 0] > 0.5, 1, 0))
        clear = (abs(mean - 0.5) > 1e-5).all(-1)
    else:
        expected = VALUES[mean.argmax(-1)]
        top = np.sort(mean, -1)
        clear = top[..., -1] - top[..., -2] > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(label[clear], expected[clear])
    assert set(np.unique(label)) == {0, 1, 3}
    assert all((label != one).mean() > 0.02 for one in labels)

    with (tmp_path / "both/qc.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    own = mean[..., 1 if sigmoid else 2]  # of the class 3, painted last
    confidence = own[label == 3].mean()
    assert float(row["back_mean_confidence"]) == pytest.approx(confidence, abs=1e-3)
    assert float(row["back_volume_ml"]) == pytest.approx((label == 3).sum() * 4.5e-3, rel=1e-3)
    assert (tmp_path / "both/statistics.csv").is_file()


def test_each_run_counts_once(make_run, scan, tmp_path):
    """Two of one cut and one of another: the mean of the two has twice the weight."""
    pair = [make_run("one", 0), make_run("two", 0, adapter="last")]
    other = make_run("other", 2)
    (_, two), (_, one) = (
        segment(pair[0], scan, tmp_path / "pair", ensemble=pair[1:]),
        segment(other, scan, tmp_path / "alone"),
    )
    members = [other, pair[1]]
    _, found = segment(pair[0], scan, tmp_path / "all", ensemble=members)
    np.testing.assert_allclose(found, (2 * two + one) / 3, rtol=0, atol=1e-6)
    assert abs(found - (two + one) / 2).max() > 1e-2


def test_what_was_chosen_on_validation_is_applied_to_the_mean(make_run, scan, tmp_path):
    runs = [make_run("first", 0), make_run("second", 2)]
    plain, _ = segment(runs[0], scan, tmp_path / "plain", ensemble=runs[1:])
    mask = np.zeros((30, 30, 30), bool)
    mask[:15, :15, :15] = mask[20:, 20:, 15:] = True  # too large for the other steps
    for run in runs:
        scores = CandidateScores({1: "front", 3: "back"})
        truth = clean(mask, LARGEST, (1, 1, 1)).astype(np.uint8)
        scores.add("x", mask.astype(np.uint8), truth, (1, 1, 1))
        write_choice(load_run(run), "best", scores)
    cleaned, _ = segment(runs[0], scan, tmp_path / "cleaned", ensemble=runs[1:])
    parts, number = ndimage.label(plain == 1, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    assert number > 1
    assert (cleaned == 1).sum() == sizes.max()
    np.testing.assert_array_equal(cleaned == 3, plain == 3)
    assert (plain[cleaned == 1] == 1).all()


def test_configs_that_read_one_cut_name_the_command_for_several(make_run):
    first, second = make_run("first", 0), make_run("second", 2)
    with pytest.raises(ValueError, match=r"differ in axis 0 and 2: .* samtune predict RUN"):
        open_runs(first, second)
    assert [run.axis for run in open_runs(first, second, planes=True)] == [0, 2]
