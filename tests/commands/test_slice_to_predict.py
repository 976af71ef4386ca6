"""From raw images of three kinds to label files of the same shape: slice, train, predict."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from samtune.cli import main
from samtune.networks import ARCHITECTURES, build_sam
from samtune.peft.adapter_file import save_adapter
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.volumes import read_grid, read_label
from samtune.training.comparison_grid import draw_comparison_grid
from samtune.training.report import CasePictures
from samtune.training.run_folder import load_run
from tests.tiny_encoders import SMALL_TINY_VIT

CHILDREN = {"01": "train", "02": "val", "03": "test"}
BSCAN = (96, 160)  # depth, width: a quarter of what devices save
PIXEL_MM, PAGE_MM = 0.5, 3.0


@dataclass(frozen=True)
class Dataset:
    """A raw dataset.

    Attributes:
        options: of ``samtune slice``, without ``--out``.
        scan: an image of the test split.
        shape: of the image, as read.
        written: name of its label file.
        split: expected, case to split.
    """

    options: list[str]
    scan: Path
    shape: tuple[int, int, int]
    written: str
    split: dict[str, str]


def chase_as_salt(root: Path, repo_root: Path, rng: np.random.Generator) -> Dataset:
    """Real fundus photographs in SALT's tree; both eyes of a child are in one split."""
    source = repo_root.parent / "shared/data/retina_chase"
    if not source.is_dir():
        pytest.skip("needs real photographs in ../shared/data/retina_chase")
    rows = [("imgs", "split")]
    (root / "images").mkdir()
    (root / "masks").mkdir()
    for child, split in CHILDREN.items():
        for eye in "LR":
            stem = f"Image_{child}{eye}"
            shutil.copyfile(source / f"images/{stem}.jpg", root / f"images/{stem}.jpg")
            shutil.copyfile(source / f"masks/{stem}.png", root / f"masks/{stem}_mask.png")
            rows.append((f"{stem}.jpg", split))
    with (root / "data_split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return Dataset(
        [str(root), "--modality", "rgb", "--patient-regex", r"_(\d\d)[LR]$"],
        root / "images/Image_03R.jpg",
        (960, 999, 1),
        "Image_03R.png",
        {f"Image_{child}{eye}": split for child, split in CHILDREN.items() for eye in "LR"},
    )


def make_bscan(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A retina with three layers, speckle and a pocket of fluid, and the fluid's mask."""
    depth, across = np.mgrid[: BSCAN[0], : BSCAN[1]].astype(float)
    middle = BSCAN[1] * rng.uniform(0.4, 0.6)
    surface = 30 + 6 * np.cos((across - middle) / 40) - 8 * np.exp(-(((across - middle) / 12) ** 2))
    below = depth - surface
    signal = np.full(BSCAN, 12.0)  # vitreous
    for start, end, brightness in ((0, 8, 150), (8, 34, 80), (34, 40, 200)):
        signal[(below >= start) & (below < end)] = brightness
    choroid = below >= 40
    signal[choroid] = 60 * np.exp(-(below[choroid] - 40) / 15)
    fluid = ((across - middle) / 18) ** 2 + ((below - 22) / 7) ** 2 < 1
    signal[fluid] = 20
    speckle = rng.gamma(4, 0.25, BSCAN)
    image = np.clip(gaussian_filter(signal * speckle, 0.6), 0, 255).astype(np.uint8)
    return image, fluid


def oct_folder(root: Path, repo_root: Path, rng: np.random.Generator) -> Dataset:
    """B-scans as PNG, their fluid blue in a colour mask; two scans an eye."""
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    split = {}
    for eye in range(4):
        for number in range(2):
            image, fluid = make_bscan(rng)
            Image.fromarray(image).save(root / f"images/amd_{eye}_{number}.png")
            colours = fluid[..., None] * np.array([0, 0, 255], np.uint8)
            Image.fromarray(colours).save(root / f"masks/amd_{eye}_{number}.png")
            split[f"amd_{eye}_{number}"] = ("train", "train", "val", "test")[eye]
    table = root / "split.csv"
    table.write_text("case,split\n" + "".join(f"{case},{name}\n" for case, name in split.items()))
    description = root / "mine.yaml"
    description.write_text(
        "source:\n  {title: t, url: u, licence: l, modality: oct, layout: pairs,\n"
        "   patient: 'amd_(\\d+)_', label_rule: {colours: {1: '#0000ff'}}, class_names: {1: fluid}}"
    )
    return Dataset(
        [str(root), "--dataset", str(description), "--split-csv", str(table)],
        root / "images/amd_3_1.png",
        (*BSCAN, 1),
        "amd_3_1.png",
        split,
    )


def tiff_stacks(root: Path, repo_root: Path, rng: np.random.Generator) -> Dataset:
    """16-bit stacks as ImageJ saves them: pages six times as far apart as pixels."""
    pages, rows, columns = 5, 40, 56
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for number in range(3):
        z, y, x = np.mgrid[:pages, :rows, :columns]
        at = rng.uniform((2, 15, 20), (3, 25, 36))
        distance = [(z - at[0]) * PAGE_MM, (y - at[1]) * PIXEL_MM, (x - at[2]) * PIXEL_MM]
        inside = sum(one**2 for one in distance) < 5**2
        image = gaussian_filter(np.where(inside, 3000.0, 800.0), (0, 1, 1))
        stored = (image + rng.normal(0, 150, image.shape)).clip(0).astype(np.uint16)
        for folder, array in (("images", stored), ("labels", inside.astype(np.uint8))):
            tifffile.imwrite(
                root / folder / f"cell_{number}.tif",
                array,
                imagej=True,
                resolution=(1 / PIXEL_MM, 1 / PIXEL_MM),
                metadata={"axes": "ZYX", "spacing": PAGE_MM, "unit": "mm"},
            )
    return Dataset(
        [
            *(str(root / "images"), "--labels", str(root / "labels"), "--modality", "mr"),
            *("--split-counts", "1", "1", "1", "--seed", "0"),
        ],
        root / "images/cell_0.tif",
        (rows, columns, pages),
        "cell_0.nii.gz",
        {},
    )


@pytest.fixture
def tiny_weights(monkeypatch, tmp_path) -> Path:
    """File of an untrained TinyViT of 32 pixels, architecture ``tiny``.

    A run on ``checkpoint: random`` predicts nothing: its weights are kept nowhere.
    """
    monkeypatch.setitem(ARCHITECTURES, "tiny", SMALL_TINY_VIT)
    path = tmp_path / "tiny.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(build_sam("tiny", "random").state_dict(), path)
    return path


def few_steps(run_bundle, slices: Path, weights: Path, runs: Path) -> Path:
    """Train a run for an epoch."""
    run_bundle(
        "train",
        "training",
        arch="tiny",
        checkpoint=str(weights),
        normalization="medsam",
        dataset_dir=str(slices),
        runs_dir=str(runs),
        run_name="few_steps",
        epochs=1,
        batch_size=2,
        views=2,
        rank=2,
        device="cpu",
    )
    return runs / "few_steps"


@pytest.mark.parametrize("make", [chase_as_salt, oct_folder, tiff_stacks])
def test_predictions_have_the_shape_of_raw_images(
    make: Callable[..., Dataset],
    repo_root: Path,
    rng: np.random.Generator,
    tiny_weights: Path,
    run_bundle,
    tmp_path,
    capsys,
):
    """A few steps on the slices, then the raw image again: its own grid comes back."""
    (tmp_path / "raw").mkdir()
    data = make(tmp_path / "raw", repo_root, rng)
    slices = tmp_path / "slices"
    assert main(["slice", *data.options, "-o", str(slices), "--workers", "1", "-q"]) == 0
    manifest = load_manifest(slices)
    if data.split:
        assert {case: one.split for case, one in manifest.cases.items()} == data.split
    assert any(record.labels for record in manifest.select("train"))
    run = str(few_steps(run_bundle, slices, tiny_weights, tmp_path / "runs"))
    capsys.readouterr()
    out = tmp_path / "pred"
    assert main(["predict", run, str(data.scan), "-o", str(out), "--device", "cpu", "-q"]) == 0
    assert capsys.readouterr().out == f"{out / data.written}\n"
    label, scan = read_label(out / data.written), read_grid(data.scan)
    assert label.shape == scan.shape == data.shape
    assert set(np.unique(label.array)) <= {0, 1}
    np.testing.assert_allclose(label.affine, scan.affine, atol=1e-6)
    if scan.has_spacing:
        assert label.spacing == scan.spacing == (PIXEL_MM, PIXEL_MM, PAGE_MM)


def test_samtune_evaluate_scores_the_bundles_pictures_as_the_bundle_does(
    rng: np.random.Generator, tiny_weights: Path, run_bundle, loud, tmp_path
):
    """JPEG images with PNG labels: evaluate.yaml and inference.yaml write what is scored again."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        label = np.zeros((24, 32), np.uint8)
        top, left = rng.integers(2, 10, 2)
        label[top : top + 10, left : left + 14] = 1
        Image.fromarray(label).save(tmp_path / f"labels/case_{number}.png")
        noisy = (label * 150 + rng.integers(20, 60, label.shape)).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / f"images/case_{number}.jpg")
    slices, images = tmp_path / "slices", tmp_path / "images"
    options = ["--labels", str(tmp_path / "labels"), "--modality", "oct", "--class-names", "1:spot"]
    options += ["--split-counts", "1", "1", "2", "--workers", "1", "-q"]
    assert main(["slice", str(images), *options, "-o", str(slices)]) == 0
    run = few_steps(run_bundle, slices, tiny_weights, tmp_path / "runs")
    network = load_run(run).network()
    loud(network, slices)
    save_adapter(run / "adapter_best.safetensors", network, peft=network.peft)
    run_bundle("evaluate", run_dir=str(run), device="cpu", tolerance_mm=[2.0])
    bundle = list(csv.DictReader((run / "metrics_test.csv").read_text().splitlines()))
    assert len(bundle) == 2
    assert all(0 < float(row["dice"]) < 1 for row in bundle)
    cases = sorted(row["case"] for row in bundle)
    written = sorted(path.name for path in (run / "predictions_test").iterdir())
    assert written == [f"{case}.png" for case in cases]
    predictions = {case: run / f"predictions_test/{case}.png" for case in cases}
    pictures = CasePictures(load_manifest(slices), predictions)  # of the report
    with Image.open(predictions[cases[0]]) as label:
        np.testing.assert_array_equal(pictures(cases[0]).prediction[0], np.asarray(label))
    folders = {"run": run / "predictions_test"}
    grid = draw_comparison_grid(
        load_manifest(slices), folders, {"worst": cases[0]}, tmp_path / "grid.png"
    )
    assert grid == [tmp_path / "grid.png"]
    scans = [str(images / f"{case}.jpg") for case in cases]
    new = tmp_path / "new"
    run_bundle("inference", run_dir=str(run), images=scans, output_dir=str(new), device="cpu")
    assert sorted(path.name for path in new.iterdir()) == written
    for folder in (run / "predictions_test", new):
        table = tmp_path / f"{folder.name}.csv"
        options = ["--ref", str(tmp_path / "labels"), "--slices", str(slices)]
        options += ["--labels", "1:spot", "--tolerance-mm", "2", "-q"]
        assert main(["evaluate", "--pred", str(folder), *options, "-o", str(table)]) == 0
        assert list(csv.DictReader(table.read_text().splitlines())) == bundle
