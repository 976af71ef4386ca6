"""``samtune slice`` on dataset folders."""

import json

import nibabel as nib
import numpy as np
import pytest

from samtune.cli import main
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.slice_file import read_slice_file

OPTIONS = ("--modality", "mr", "--workers", "1")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])), path)


@pytest.fixture
def arrays():
    image = np.arange(5 * 6 * 3).reshape(5, 6, 3).astype(np.float32)
    label = np.zeros((5, 6, 3), np.uint8)
    label[:2, 1:4, 1] = 1
    return image, label


@pytest.fixture
def nnunet(tmp_path, arrays):
    """Three cases of two channels; the second channel is the first one upside down."""
    image, label = arrays
    for case in "abc":
        save(tmp_path / f"d/imagesTr/{case}_0000.nii.gz", image)
        save(tmp_path / f"d/imagesTr/{case}_0001.nii.gz", image.max() - image)
        save(tmp_path / f"d/labelsTr/{case}.nii.gz", label)
    described = {"channel_names": {"0": "T2", "1": "ADC"}, "labels": {"background": 0, "tumour": 1}}
    (tmp_path / "d/dataset.json").write_text(json.dumps(described))
    return tmp_path / "d"


def slices(folder, case):
    return np.concatenate(
        [read_slice_file(folder / row.file)[0] for row in load_manifest(folder).select(case=case)]
    )


def test_a_dataset_is_recognised_and_gives_the_slices_of_its_folders(nnunet, tmp_path, capsys):
    options = [*OPTIONS, "--split-counts", "1", "1", "1", "--channel"]
    assert main(["slice", str(nnunet), "-o", str(tmp_path / "o"), *options, "T2"]) == 0
    err = capsys.readouterr().err
    assert err.startswith(
        "layout nnunet: imagesTr with 6 files CASE_0000 ..., dataset.json, labels"
    )
    manifest = load_manifest(tmp_path / "o")
    assert manifest.settings["class_names"] == {"1": "tumour"}
    assert manifest.cases["a"].image_name == "a_0000.nii.gz"
    for channel in "01":  # the same through two folders, as before
        for path in (nnunet / "imagesTr").glob(f"*_000{channel}.nii.gz"):
            save_to = tmp_path / f"images{channel}" / path.name.replace(f"_000{channel}", "")
            save_to.parent.mkdir(exist_ok=True)
            save_to.write_bytes(path.read_bytes())
        out = tmp_path / f"plain{channel}"
        plain = [str(tmp_path / f"images{channel}"), "--labels", str(nnunet / "labelsTr")]
        assert main(["slice", *plain, "-o", str(out), *options[:-1]]) == 0
    np.testing.assert_array_equal(slices(tmp_path / "o", "b"), slices(tmp_path / "plain0", "b"))
    assert main(["slice", str(nnunet), "-o", str(tmp_path / "p"), *options, "1"]) == 0
    np.testing.assert_array_equal(slices(tmp_path / "p", "b"), slices(tmp_path / "plain1", "b"))
    assert not np.array_equal(slices(tmp_path / "p", "b"), slices(tmp_path / "o", "b"))


def test_several_channels_without_a_choice_are_an_error(nnunet, tmp_path, capsys):
    assert main(["slice", str(nnunet), "-o", str(tmp_path / "o"), *OPTIONS]) == 1
    assert "2 channels (0 T2, 1 ADC); choose one with --channel" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_unpaired_files_are_an_error_or_listed(nnunet, tmp_path, capsys):
    (nnunet / "labelsTr/b.nii.gz").unlink()
    argv = ["slice", str(nnunet), "-o", str(tmp_path / "o"), *OPTIONS, "--channel", "0"]
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert "1 files without their counterpart: imagesTr/b_0000.nii.gz: no label labelsTr/b" in err
    assert main([*argv, "--skip-unpaired"]) == 0
    err = capsys.readouterr().err
    assert "left out, unpaired: 1 files\n  imagesTr/b_0000.nii.gz: no label labelsTr/b\n" in err
    assert set(load_manifest(tmp_path / "o").cases) == {"a", "c"}


@pytest.fixture
def split_folders(tmp_path, rng):
    for name in ("train/p1", "train/p2", "val/p3", "test/p4"):
        path = tmp_path / "npz" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        imgs = rng.integers(0, 256, (2, 5, 4, 3)).astype(np.uint8)
        np.savez(path, imgs=imgs, gts=np.ones((2, 5, 4), np.uint8))
    return tmp_path / "npz"


def test_the_datasets_split_is_kept(split_folders, tmp_path):
    argv = ["slice", str(split_folders), "-o", str(tmp_path / "o"), "--modality", "oct", "-q"]
    assert main([*argv, "--workers", "1"]) == 0
    manifest = load_manifest(tmp_path / "o")
    splits = {case: record.split for case, record in manifest.cases.items()}
    assert splits == {"p1": "train", "p2": "train", "p3": "val", "p4": "test"}
    assert manifest.settings["split"] == {"rule": "given"}


def test_a_split_that_the_user_asks_for_goes_before_it(split_folders, tmp_path):
    argv = ["slice", str(split_folders), "-o", str(tmp_path / "o"), "--modality", "oct", "-q"]
    assert main([*argv, "--workers", "1", "--split-counts", "4", "0", "0"]) == 0
    assert {one.split for one in load_manifest(tmp_path / "o").cases.values()} == {"train"}


def test_a_named_layout_that_does_not_fit_says_so(split_folders, tmp_path, capsys):
    argv = ["slice", str(split_folders), "-o", str(tmp_path / "o"), *OPTIONS]
    assert main([*argv, "--input-layout", "msd"]) == 1
    assert "dataset.json: expected a list 'training'" in capsys.readouterr().err


def test_a_folder_of_volumes_is_images_whatever_lies_beside_them(tmp_path, arrays, capsys):
    save(tmp_path / "d/a.nii.gz", arrays[0])
    (tmp_path / "d/train.csv").write_text("a.nii.gz,a.nii.gz\n")
    assert main(["slice", str(tmp_path / "d"), "-o", str(tmp_path / "o"), *OPTIONS]) == 0
    assert not load_manifest(tmp_path / "o").settings["labelled"]
    assert capsys.readouterr().err == ""


def test_labels_by_rule(tmp_path, arrays):
    for case in "ab":
        save(tmp_path / f"i/{case}.nii.gz", arrays[0])
        save(tmp_path / f"l/{case}_seg.nii.gz", arrays[1])
    argv = ["slice", str(tmp_path / "i"), "--labels", str(tmp_path / "l"), *OPTIONS]
    assert main([*argv, "--pair", "{stem}_seg", "-o", str(tmp_path / "o")]) == 0
    assert load_manifest(tmp_path / "o").cases["a"].label_name == "a_seg.nii.gz"


def test_one_label_file_a_class(tmp_path, arrays):
    image, label = arrays
    for case in "ab":
        save(tmp_path / f"d/images/{case}.nii.gz", image)
        save(tmp_path / f"d/labels/{case}_liver.nii.gz", label)
        save(tmp_path / f"d/labels/{case}_cyst.nii.gz", label[::-1].copy())
    argv = ["slice", str(tmp_path / "d"), "-o", str(tmp_path / "o"), *OPTIONS]
    assert main([*argv, "--input-layout", "pairs", "--pair", "{stem}_{class}"]) == 0
    manifest = load_manifest(tmp_path / "o")
    assert manifest.settings["class_names"] == {"1": "cyst", "2": "liver"}
    gts = np.concatenate([read_slice_file(manifest.path(r))[1] for r in manifest.select(case="a")])
    expected = np.moveaxis(label[::-1] + 2 * label, 2, 0)
    np.testing.assert_array_equal(gts, expected)


def test_the_modality_is_needed_unless_a_description_has_it(split_folders, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["slice", str(split_folders), "-o", str(tmp_path / "o")])
    assert error.value.code == 2
    assert "arguments are required: --modality" in capsys.readouterr().err
    text = "source: {title: t, url: u, licence: l, modality: oct, patient: 'p(.)', spacing: none}"
    (tmp_path / "mine.yaml").write_text(text)
    argv = ["slice", str(split_folders), "-o", str(tmp_path / "o"), "--workers", "1"]
    assert main([*argv, "--dataset", str(tmp_path / "mine.yaml")]) == 0
    assert load_manifest(tmp_path / "o").settings["modality"] == "oct"


def test_an_unknown_dataset_lists_those_there_are(split_folders, tmp_path, capsys):
    argv = ["slice", str(split_folders), "-o", str(tmp_path / "o"), "--dataset", "chas"]
    assert main(argv) == 1
    assert "no dataset 'chas'; there are: arcade, chase" in capsys.readouterr().err
