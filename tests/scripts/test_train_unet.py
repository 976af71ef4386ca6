import csv
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch

from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.slice_volumes import slice_volumes
from samtune.preprocessing.volumes import read_label
from samtune.training.case_stream import image_volume, reference_volume

# File axes of the test case run inferior, right, posterior; the training case is RAS.
IRP = np.array([[0, 1, 0, -4], [0, 0, -1.5, 9], [-2, 0, 0, 7], [0, 0, 0, 1]])
COLUMNS = (
    "case,label,name,status,dice,iou,nsd_1mm,hd95_mm,volume_ref_ml,volume_pred_ml,"
    "volume_error_ml,assd_mm,sensitivity,precision"
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts/train_unet.py"
    spec = importlib.util.spec_from_file_location("train_unet", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny volumes: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def slices(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Case ``a`` to train on, case ``b`` to test: label 2 is brighter than label 5."""
    shapes = {"a": (12, 10, 9), "b": (8, 11, 13)}
    affines = {"a": np.diag([1, 1.5, 2, 1]), "b": IRP}
    for case, shape in shapes.items():
        label = np.zeros(shape, np.uint8)
        label[2:5, 3:7, 2:6], label[5:7, 3:7, 2:6] = 2, 5
        image = (rng.normal(60, 5, shape) + 60 * (label == 5) + 120 * (label == 2)).astype("f4")
        for folder, array in (("images", image), ("labels", label)):
            path = tmp_path / folder / f"{case}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, affines[case]), path)
    split = tmp_path / "split.csv"
    split.write_text("case,split\na,train\nb,test\n")
    slice_volumes(
        tmp_path / "images",
        tmp_path / "labels",
        modality="mr",
        out=tmp_path / "slices",
        split_csv=split,
        class_names={2: "core", 5: "rim"},
        workers=1,
    )
    return tmp_path / "slices"


def test_writes_the_tables_of_an_evaluation_and_label_files(
    script: ModuleType, slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "unet"
    assert script.main(["--slices", str(slices), "--out", str(out), "--epochs", "2"]) == 0

    lines = (out / "metrics_test.csv").read_text().splitlines()
    assert lines[0] == COLUMNS
    rows = list(csv.DictReader(lines))
    assert [(r["case"], r["label"], r["name"]) for r in rows] == [
        ("b", "2", "core"),
        ("b", "5", "rim"),
        ("b", "2+5", "whole"),
    ]
    # 3 x 4 x 4 voxels of 1 x 1.5 x 2 mm
    assert float(rows[0]["volume_ref_ml"]) == pytest.approx(3 * 4 * 4 * 3 / 1000)
    companion = json.loads((out / "metrics_test.json").read_text())
    assert companion["complete"]
    assert companion["protocol"]["training"]["epochs"] == 2
    with (out / "metrics_test_summary.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["core", "rim", "whole"]

    pred = read_label(out / "predictions_test/b.nii.gz")
    reference = read_label(tmp_path / "labels/b.nii.gz")
    np.testing.assert_array_equal(pred.affine, reference.affine)
    for row, region in zip(rows, ([2], [5], [2, 5]), strict=True):
        p, r = np.isin(pred.array, region), np.isin(reference.array, region)
        assert float(row["dice"]) == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()))
    assert "2 epochs" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_scores(script: ModuleType, slices: Path, tmp_path: Path):
    def scores(name: str, seed: int) -> bytes:
        argv = ["--slices", str(slices), "--out", str(tmp_path / name)]
        assert script.main([*argv, "--epochs", "1", "--seed", str(seed), "--device", "cpu"]) == 0
        return (tmp_path / name / "metrics_test.csv").read_bytes()

    assert scores("one", 3) == scores("two", 3) != scores("other", 4)


def test_learns_two_classes_that_differ_in_brightness(script: ModuleType, slices: Path):
    manifest = load_manifest(slices)
    volumes = script.training_volumes(manifest, script.task_of(manifest))
    length = script.Length(minutes=None, epochs=25)
    network, _ = script.train(volumes, 2, length, seed=0, device=torch.device("cpu"))
    case = script.network_input(manifest, "a")
    pred = script.predict(network, case, (16, 16, 16))
    label = script.to_ras(reference_volume(manifest, "a"), manifest.cases["a"].geometry)
    for channel, value in ((1, 2), (2, 5)):
        p, r = pred == channel, label == value
        assert 2 * (p & r).sum() / (p.sum() + r.sum()) > 0.7


def test_minutes_end_training(script: ModuleType, slices: Path):
    manifest = load_manifest(slices)
    volumes = script.training_volumes(manifest, script.task_of(manifest))
    length = script.Length(minutes=0.5 / 60, epochs=1_000_000)
    _, took = script.train(volumes, 2, length, seed=0, device=torch.device("cpu"))
    assert 0.5 <= took["seconds"] < 5
    assert took["epochs"] >= 1


@pytest.mark.parametrize(
    ("minutes", "epochs", "expected"),
    [(2, None, 0.25), (None, 40, 0.1), (2, 40, 0.25), (2, 8, 0.5), (0.1, None, 1.0)],
)
def test_share_done_is_of_what_is_reached_first(
    script: ModuleType, minutes: float | None, epochs: int | None, expected: float
):
    length = script.Length(minutes=minutes, epochs=epochs)
    assert length.share_done(seconds=30, epochs=4) == pytest.approx(expected)


def test_an_epoch_sees_every_case_once(script: ModuleType):
    steps = [next_ for next_, _ in zip(script.batches(5, seed=0), range(6), strict=False)]
    assert [share for share, _ in steps] == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])
    orders = [[case for _, batch in steps[i : i + 3] for case in batch] for i in (0, 3)]
    assert [sorted(order) for order in orders] == [list(range(5))] * 2
    assert orders[0] != orders[1]


def test_volumes_are_the_source_files_in_ras_order_and_back(
    script: ModuleType, slices: Path, tmp_path: Path
):
    manifest = load_manifest(slices)
    geometry, label = manifest.cases["b"].geometry, reference_volume(manifest, "b")
    source = nib.load(tmp_path / "labels/b.nii.gz")
    np.testing.assert_array_equal(label, np.asarray(source.dataobj))
    ras = script.to_ras(label, geometry)
    np.testing.assert_array_equal(ras, np.asarray(nib.as_closest_canonical(source).dataobj))
    np.testing.assert_array_equal(script.from_ras(ras, geometry), label)
    # Intensities keep their order, so image and label lie on each other.
    image = image_volume(manifest, "b")
    assert image[label == 0].max() < image[label == 5].min() <= image[label == 5].max()
    assert image[label == 5].max() < image[label == 2].min()
    x = script.network_input(manifest, "b")
    assert x.shape == (1, *ras.shape)
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([(35, 51, 36)], (40, 56, 40)), ([(48, 1, 9), (8, 17, 3)], (48, 24, 16))],
)
def test_padded_size_holds_all_in_steps_of_8_and_at_least_16(
    script: ModuleType, sizes: list[tuple[int, int, int]], expected: tuple[int, int, int]
):
    assert script.padded_size(sizes) == expected


def test_padding_comes_after_the_volume(script: ModuleType):
    volume = torch.arange(1.0, 7).reshape(1, 1, 2, 3)
    padded = script.pad(volume, (2, 3, 5))
    assert padded.shape == (1, 2, 3, 5)
    torch.testing.assert_close(padded[:, :1, :2, :3], volume)
    assert padded.sum() == volume.sum()


def test_large_volumes_are_refused(script: ModuleType):
    with pytest.raises(ValueError, match=r"512x512x104 voxels.*up to 4000000"):
        script.padded_size([(512, 512, 100)])


def test_predictions_get_label_values_on_the_grid_of_the_case(
    script: ModuleType, slices: Path, tmp_path: Path
):
    manifest = load_manifest(slices)
    label = reference_volume(manifest, "b")
    image = image_volume(manifest, "b").astype("f4")
    image = (image - image.mean()) / image.std()
    low, high = (float(image[label == v].min()) - 1e-3 for v in (5, 2))  # classes by brightness

    class Thresholds(torch.nn.Conv3d):  # channel 1 is label 2, channel 2 is label 5
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x < low, x >= high, (x >= low) & (x < high)], dim=1).float()

    script.score(Thresholds(1, 1, 1), manifest, (16, 16, 16), tmp_path, {})
    np.testing.assert_array_equal(read_label(tmp_path / "predictions_test/b.nii.gz").array, label)


def test_slices_without_labels_are_refused_before_training(
    script: ModuleType, tmp_path: Path, slices: Path, capsys: pytest.CaptureFixture[str]
):
    bare = tmp_path / "bare"
    slice_volumes(tmp_path / "images", modality="mr", out=bare, split_counts=(1, 0, 1), workers=1)
    assert script.main(["--slices", str(bare), "--out", str(tmp_path / "unet")]) == 1
    assert "train_unet.py: " in (error := capsys.readouterr().err)
    assert "--labels" in error
    assert not (tmp_path / "unet").exists()


def test_minutes_must_be_positive(script: ModuleType, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_:
        script.main(["--slices", "s", "--out", "o", "--minutes", "0"])
    assert exit_.value.code == 2
    assert "--minutes and --epochs must be > 0" in capsys.readouterr().err
