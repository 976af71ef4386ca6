"""A description and an overlay for each public dataset: a miniature of its tree, sliced."""

import argparse
import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from monai.bundle import ConfigParser
from PIL import Image

from samtune.cli import main
from samtune.commands import slice as slice_command
from samtune.preprocessing.dataset_description import find_descriptions, read_description
from samtune.preprocessing.intensity import MODALITIES
from samtune.preprocessing.layouts import LAYOUTS
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.volumes import read_image

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles/sam_finetune/configs"
DESCRIPTIONS = find_descriptions(CONFIGS / "data")
SALT = ("rose", "arcade", "drive", "dias", "xray_angio")
# number, files' stem, channels, label values with their names, in the words of dataset.json
MSD = {
    "msd_brain_tumour": ("BRATS", ["FLAIR", "T1w", "t1gd", "T2w"], ["edema", "core", "enhancing"]),
    "msd_heart": ("la", ["MRI"], ["left atrium"]),
    "msd_liver": ("liver", ["CT"], ["liver", "cancer"]),
    "msd_hippocampus": ("hippocampus", ["MRI"], ["Anterior", "Posterior"]),
    "msd_prostate": ("prostate", ["T2", "ADC"], ["PZ", "TZ"]),
    "msd_lung": ("lung", ["CT"], ["cancer"]),
    "msd_pancreas": ("pancreas", ["CT"], ["pancreas", "cancer"]),
    "msd_hepatic_vessel": ("hepaticvessel", ["CT"], ["Vessel", "Tumour"]),
    "msd_spleen": ("spleen", ["CT"], ["spleen"]),
    "msd_colon": ("colon", ["CT"], ["colon cancer primaries"]),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_every_key_of_an_overlay_is_in_the_base(name):
    base = yaml.safe_load((CONFIGS / "train.yaml").read_text())
    overlay = yaml.safe_load(DESCRIPTIONS[name].read_text())
    assert {key.split("::")[0] for key in overlay} <= set(base)
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.yaml"), str(DESCRIPTIONS[name])])
    assert parser.get_parsed_content("dataset_dir") == f"./slices/{name}"
    assert parser.get_parsed_content("run_name") == name


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_description_is_complete_and_in_the_documentation(name):
    description = read_description(DESCRIPTIONS[name])
    assert description.layout in LAYOUTS
    text = (ROOT / "docs/datasets.md").read_text()
    heads = [line.removeprefix("### ").split(", ") for line in text.splitlines() if "###" in line]
    assert any(name in head for head in heads)
    assert description.url.removesuffix(f"/{description.url.rsplit('/')[-1]}") in text
    assert description.licence.split(" (")[0] in text.lower() or description.licence in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "expected a section 'source'"),
        ("a: [", "not valid YAML"),
        ("source: {title: t}", r"missing \['licence', 'modality', 'url'\]"),
        ("source: {title: t, url: u, licence: l, modality: ct, x: 1}", r"unknown \['x'\]"),
        ("source: {title: t, url: u, licence: l, modality: ct, window: 3}", "window is 3"),
        ("source: {title: t, url: u, licence: l, modality: ct, label_rule: red}", "label_rule is"),
        ("source: {title: t, url: u, licence: l, modality: 4}", "modality is 4; expected text"),
    ],
)
def test_a_broken_description_is_named(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"x.yaml: .*{message}"):
        read_description(tmp_path / "x.yaml")


def run(name: str, folder: Path, out: Path):
    """``samtune slice`` by the description; skipped where this build cannot read the dataset."""
    description = read_description(DESCRIPTIONS[name])
    parser = argparse.ArgumentParser()
    slice_command.add_arguments(parser)
    options = vars(parser.parse_args(["x", "-o", "y"]))
    for key in ("label_map", "label_rule"):
        if getattr(description, key) is not None and key not in options:
            pytest.skip(f"samtune slice has no option for {key}")
    if description.modality not in MODALITIES:
        pytest.skip(f"no modality {description.modality}")
    for path in folder.rglob("*.*"):
        if path.suffix in (".png", ".jpg"):
            try:
                read_image(path)
            except ValueError as error:
                pytest.skip(f"no reader for {path.suffix}: {error}")
            break
    assert main(["slice", str(folder), "--dataset", name, "-o", str(out), "--workers", "1"]) == 0
    return load_manifest(out)


def picture(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def vessel(rng, size=(12, 10)):
    """An 8 bit picture and its mask, 0 and 255."""
    mask = np.zeros(size, np.uint8)
    mask[4:6] = 255
    return rng.integers(0, 256, size).astype(np.uint8), mask


@pytest.mark.parametrize("name", SALT)
def test_salt_packed_miniature(name, tmp_path, rng):
    rows = [("imgs", "split")]
    for number, split in enumerate(("train", "train", "val", "test")):
        image, mask = vessel(rng)
        stem = f"{number:02d}_x"
        picture(tmp_path / f"d/images/{stem}.png", image)
        picture(tmp_path / f"d/masks/{stem}{'_mask' if number % 2 else ''}.png", mask)
        rows.append((f"{stem}.png", split))
    with (tmp_path / "d/data_split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    manifest = run(name, tmp_path / "d", tmp_path / "o")
    assert [record.split for record in manifest.cases.values()] == ["train", "train", "val", "test"]
    assert manifest.settings["class_names"] == {"1": "vessel"}
    assert {tuple(row.labels.items()) for row in manifest.slices} == {((1, 20),)}


def test_chase_miniature(tmp_path, rng):
    for child in range(1, 7):
        for eye in "LR":
            image, mask = vessel(rng)
            picture(tmp_path / f"d/images/Image_{child:02d}{eye}.jpg", np.stack([image] * 3, -1))
            picture(tmp_path / f"d/masks/Image_{child:02d}{eye}.png", mask)
    manifest = run("chase", tmp_path / "d", tmp_path / "o")
    splits = {case: record.split for case, record in manifest.cases.items()}
    assert len(splits) == 12
    assert all(splits[f"Image_{n:02d}L"] == splits[f"Image_{n:02d}R"] for n in range(1, 7))
    assert set(splits.values()) == {"train", "val", "test"}
    assert manifest.settings["label_values"] == [1]


def coloured(colors, size=(12, 10)):
    mask = np.zeros((*size, 3), np.uint8)
    for number, color in enumerate(colors):
        mask[2 * number] = color
    return mask


def test_oct_amd_miniature(tmp_path, rng, capsys):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    for person in ("1084498", "2291508", "2945668"):
        for scan in (1, 5):
            picture(tmp_path / f"d/images/amd_{person}_{scan}.jpg", vessel(rng)[0])
            picture(tmp_path / f"d/masks/amd_{person}_{scan}.png", coloured(colors))
    manifest = run("oct_amd", tmp_path / "d", tmp_path / "o")
    assert {tuple(row.labels.items()) for row in manifest.slices} == {((1, 10), (2, 10), (3, 10))}
    splits = {case: record.split for case, record in manifest.cases.items()}
    assert splits["amd_2291508_1"] == splits["amd_2291508_5"]
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "d"), "--dataset", "oct_amd", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["patients"] == 3
    assert [(one["name"], one["pixels"]) for one in report["labels"]] == [
        ("drusen", 60),
        ("scar", 60),
        ("fluid", 60),
    ]


def test_macular_hole_miniature(tmp_path, rng):
    for split, person in (("Train", "1258159"), ("Val", "1416874"), ("Testing", "7041462")):
        name = f"vid_{person}_1.png"
        picture(tmp_path / f"d/{split}_original_images/{name}", vessel(rng)[0])
        picture(tmp_path / f"d/{split}_masks_images/{name}", coloured([(255, 0, 0)]))
    manifest = run("macular_hole", tmp_path / "d", tmp_path / "o")
    splits = {case: record.split for case, record in manifest.cases.items()}
    assert splits == {"vid_1258159_1": "train", "vid_1416874_1": "val", "vid_7041462_1": "test"}
    assert {tuple(row.labels.items()) for row in manifest.slices} == {((1, 10),)}


def volume(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])), path)


def labels(number, shape=(6, 5, 4)):
    """Each of the values 1 to ``number`` in a row of every slice."""
    array = np.zeros(shape, np.uint8)
    for value in range(1, number + 1):
        array.reshape(-1, shape[2])[value] = value
    return array


@pytest.mark.parametrize("name", MSD)
def test_decathlon_miniature(name, tmp_path, rng):
    stem, channels, classes = MSD[name]
    names = [f"{stem}_{number:03d}.nii.gz" for number in (1, 4, 7)]
    for file in names:
        image = rng.normal(60, 200, (6, 5, 4, len(channels))).astype(np.float32)
        volume(tmp_path / "d/imagesTr" / file, image if len(channels) > 1 else image[..., 0])
        volume(tmp_path / "d/labelsTr" / file, labels(len(classes)))
    described = {
        "name": stem,
        "tensorImageSize": "4D" if len(channels) > 1 else "3D",
        "modality": {str(index): channel for index, channel in enumerate(channels)},
        "labels": {"0": "background", **{str(n): c for n, c in enumerate(classes, 1)}},
        "numTraining": 3,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
        "test": [],
    }
    (tmp_path / "d/dataset.json").write_text(json.dumps(described))
    if len(channels) > 1:
        try:
            read_image(tmp_path / "d/imagesTr" / names[0], frame=0)
        except ValueError as error:
            pytest.skip(f"no reader for a frame of a 4D file: {error}")
    manifest = run(name, tmp_path / "d", tmp_path / "o")
    assert manifest.settings["class_names"] == {str(n): c for n, c in enumerate(classes, 1)}
    assert manifest.settings["label_values"] == list(range(1, len(classes) + 1))
    assert len(manifest.slices) == 12
    assert manifest.settings["modality"] == ("ct" if channels == ["CT"] else "mr")
    if name == "msd_lung":
        assert manifest.settings["intensity"]["window_level"] == -600


def test_flare_miniature(tmp_path, rng):
    for number in (1, 2, 3):
        case = f"FLARE22_Tr_{number:04d}"
        image = rng.normal(40, 300, (6, 5, 4)).astype(np.int16)
        volume(tmp_path / f"d/imagesTr/{case}_0000.nii.gz", image)
        volume(tmp_path / f"d/labelsTr/{case}.nii.gz", labels(13))
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "numTraining": 3}
    (tmp_path / "d/dataset.json").write_text(json.dumps(described))
    manifest = run("flare", tmp_path / "d", tmp_path / "o")
    assert list(manifest.cases) == [f"FLARE22_Tr_{number:04d}" for number in (1, 2, 3)]
    assert manifest.settings["label_values"] == list(range(1, 14))
    assert manifest.settings["class_names"]["13"] == "left kidney"
