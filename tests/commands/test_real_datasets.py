"""Real data in the trees of public datasets: the same slices, whatever the tree."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from samtune.cli import main
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.slice_file import read_slice_file
from samtune.preprocessing.volumes import read_image

CASES = ("hippocampus_001", "hippocampus_007", "hippocampus_015")
SPLIT = ("--split-counts", "1", "1", "1")


@pytest.fixture
def data(repo_root: Path) -> Path:
    path = repo_root.parent / "shared/data"
    if not path.is_dir():
        pytest.skip("needs real data in ../shared/data")
    return path


def run(folder: Path, out: Path, *options: str):
    argv = [str(folder), "-o", str(out), "--workers", "1", "-q", *options]
    assert main(["slice", *argv]) == 0
    return load_manifest(out)


def contents(manifest):
    """Name of each slice file with its two arrays as bytes."""
    arrays = {row.file: read_slice_file(manifest.path(row)) for row in manifest.slices}
    return {name: (imgs.tobytes(), gts.tobytes()) for name, (imgs, gts) in arrays.items()}


def test_hippocampus_as_decathlon_nnunet_and_folders(data, tmp_path, capsys):
    source = data / "mr_hippocampus"
    described = {"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}
    pairs = []
    for case in CASES:
        for folder, sub in (("imagesTr", "images"), ("labelsTr", "labels")):
            suffix = "_0000" if folder == "imagesTr" else ""
            for target in (
                f"msd/{folder}/{case}",
                f"nnunet/{folder}/{case}{suffix}",
                f"plain/{sub}/{case}",
            ):
                path = tmp_path / f"{target}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / sub / f"{case}.nii.gz", path)
        pairs.append({"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"})
    (tmp_path / "msd/dataset.json").write_text(
        json.dumps({**described, "modality": {"0": "MRI"}, "training": pairs, "test": []})
    )
    version_2 = {
        "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "numTraining": 3,
        "channel_names": {"0": "MRI"},
        "file_ending": ".nii.gz",
    }
    (tmp_path / "nnunet/dataset.json").write_text(json.dumps(version_2))

    plain = run(
        tmp_path / "plain/images",
        tmp_path / "a",
        "--labels",
        str(tmp_path / "plain/labels"),
        "--modality",
        "mr",
        *SPLIT,
    )
    decathlon = run(tmp_path / "msd", tmp_path / "b", "--dataset", "msd_hippocampus", *SPLIT)
    nnunet = run(tmp_path / "nnunet", tmp_path / "c", "--modality", "mr", *SPLIT)
    expected = contents(plain)
    assert len(expected) > 90
    assert contents(decathlon) == expected
    assert contents(nnunet) == expected
    for manifest in (decathlon, nnunet):
        assert manifest.settings["class_names"] == {"1": "Anterior", "2": "Posterior"}
        assert {c: r.split for c, r in manifest.cases.items()} == {
            c: r.split for c, r in plain.cases.items()
        }

    assert main(["inspect", str(tmp_path / "nnunet"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["layout"], report["slices"], report["problems"]) == ("nnunet", len(expected), [])
    counts = {label["name"]: label["pixels"] for label in report["labels"]}
    for value, name in ((1, "Anterior"), (2, "Posterior")):
        assert counts[name] == sum(
            int((np.asarray(nib.load(source / f"labels/{case}.nii.gz").dataobj) == value).sum())
            for case in CASES
        )


def write_nifti(path: Path, picture: Image.Image) -> None:
    """A picture as a volume of one slice: rows and columns become i and j."""
    array = np.asarray(picture.convert("L"))[:, :, None]
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])), path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".png"])
def test_chase_as_salt_split_by_child(data, tmp_path, suffix):
    children = {"01": "train", "02": "train", "03": "val", "04": "test"}
    rows, pixels = [("imgs", "split")], {}
    for child, split in children.items():
        for eye in "LR":
            stem = f"Image_{child}{eye}"
            image = Image.open(data / f"retina_chase/images/{stem}.jpg").resize((120, 125))
            mask = Image.open(data / f"retina_chase/masks/{stem}.png").convert("L")
            mask = mask.resize((120, 125), Image.Resampling.NEAREST)
            pixels[stem] = int((np.asarray(mask) > 0).sum())
            for folder, picture, name in (("images", image, stem), ("masks", mask, f"{stem}_mask")):
                path = tmp_path / "d" / folder / f"{name}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if suffix == ".png":
                    picture.save(path)
                else:
                    write_nifti(path, picture)
            rows.append((f"{stem}{suffix}", split))
    with (tmp_path / "d/data_split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    if suffix == ".png":
        try:
            read_image(tmp_path / "d/images/Image_01L.png")
        except ValueError as error:
            pytest.skip(f"no reader for .png: {error}")
    description = "source: {title: t, url: u, licence: l, modality: oct, patient: '_(..)[LR]'}"
    (tmp_path / "chase.yaml").write_text(description)
    manifest = run(tmp_path / "d", tmp_path / "o", "--dataset", str(tmp_path / "chase.yaml"))
    assert {case: record.split for case, record in manifest.cases.items()} == {
        f"Image_{child}{eye}": split for child, split in children.items() for eye in "LR"
    }
    assert {row.case: sum(row.labels.values()) for row in manifest.slices} == pixels

    rows[1] = (rows[1][0], "test")  # one eye of the first child
    with (tmp_path / "d/data_split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    argv = ["slice", str(tmp_path / "d"), "-o", str(tmp_path / "p"), "-q"]
    assert main([*argv, "--dataset", str(tmp_path / "chase.yaml")]) == 1
    assert not (tmp_path / "p").exists()
