"""nnU-Net and Decathlon: their documented trees, and what goes wrong with them."""

import pytest

from samtune.preprocessing.layouts import (
    LAYOUTS,
    LayoutOptions,
    choose_channel,
    list_dataset,
    recognise,
)

NNUNET = (
    "imagesTr/a_1_0000.nii.gz",
    "imagesTr/a_1_0001.nii.gz",
    "imagesTr/b_0000.nii.gz",
    "imagesTr/b_0001.nii.gz",
    "labelsTr/a_1.nii.gz",
    "labelsTr/b.nii.gz",
)
V2 = {
    "channel_names": {"0": "T2", "1": "ADC"},
    "labels": {"background": 0, "PZ": 1, "TZ": 2, "ignore": 3},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
MSD = {
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
    "training": [
        {"image": "./imagesTr/h_007.nii.gz", "label": "./labelsTr/h_007.nii.gz"},
        {"image": "./imagesTr/h_001.nii.gz", "label": "./labelsTr/h_001.nii.gz"},
    ],
    "test": ["./imagesTs/h_002.nii.gz"],
}
MSD_FILES = (
    "imagesTr/h_001.nii.gz",
    "imagesTr/h_007.nii.gz",
    "imagesTr/._h_001.nii.gz",
    "labelsTr/h_001.nii.gz",
    "labelsTr/h_007.nii.gz",
    "imagesTs/h_002.nii.gz",
)


def test_nnunet_channels_are_one_case(tree, rows):
    root = tree(*NNUNET, files={"dataset.json": V2})
    assert recognise(root).layout == "nnunet"
    found = list_dataset(root)
    assert rows(root, found.cases) == [
        (
            "a_1",
            ["imagesTr/a_1_0000.nii.gz", "imagesTr/a_1_0001.nii.gz"],
            ["labelsTr/a_1.nii.gz"],
            None,
        ),
        ("b", ["imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz"], ["labelsTr/b.nii.gz"], None),
    ]
    assert found.class_names == {1: "PZ", 2: "TZ"}
    assert found.ignore_label == 3
    assert (found.channel_names, found.modality) == (("T2", "ADC"), "mr")


@pytest.mark.parametrize("channel", ["1", "ADC"])
def test_a_channel_is_chosen_by_number_or_name(tree, rows, channel):
    root = tree(*NNUNET, files={"dataset.json": V2})
    found = choose_channel(list_dataset(root), channel)
    assert [images for _, images, _, _ in rows(root, found.cases)] == [
        ["imagesTr/a_1_0001.nii.gz"],
        ["imagesTr/b_0001.nii.gz"],
    ]


@pytest.mark.parametrize(
    ("channel", "message"),
    [(None, r"2 channels \(0 T2, 1 ADC\); choose one with --channel"), ("2", "no channel '2'")],
)
def test_a_channel_is_not_guessed(tree, channel, message):
    root = tree(*NNUNET, files={"dataset.json": V2})
    with pytest.raises(ValueError, match=message):
        choose_channel(list_dataset(root), channel)


def test_nnunet_without_dataset_json_and_with_test_labels(tree, rows):
    root = tree("imagesTr/a_0000.png", "labelsTr/a.png", "imagesTs/b_0000.png", "labelsTs/b.png")
    found = list_dataset(root)
    assert found.layout == "nnunet"
    assert rows(root, found.cases) == [
        ("a", ["imagesTr/a_0000.png"], ["labelsTr/a.png"], None),
        ("b", ["imagesTs/b_0000.png"], ["labelsTs/b.png"], "test"),
    ]


def test_nnunet_test_images_without_labels_are_counted(tree):
    root = tree("imagesTr/a_0000.nii", "labelsTr/a.nii", "imagesTs/b_0000.nii")
    found = list_dataset(root)
    assert [one.case for one in found.cases] == ["a"]
    assert found.left_out == ["imagesTs/b_0000.nii: no labelsTs"]


def test_nnunet_what_is_missing_is_listed(tree):
    root = tree(
        *NNUNET,
        "imagesTr/c_0000.nii.gz",
        "imagesTr/d_0000.nii.gz",
        "imagesTr/d_0001.nii.gz",
        "labelsTr/e.nii.gz",
        files={"dataset.json": V2},
    )
    found = list_dataset(root)
    assert [one.case for one in found.cases] == ["a_1", "b"]
    assert found.unpaired == [
        "imagesTr/c: no channel 0001",
        "imagesTr/d_0000.nii.gz: no label labelsTr/d",
        "labelsTr/e.nii.gz: no image imagesTr/e_0000",
    ]
    with pytest.raises(ValueError, match="3 files without their counterpart: imagesTr/c: no chan"):
        LAYOUTS["nnunet"].cases(root)


def test_nnunet_lists_of_dataset_json(tree, rows):
    entry = {"images": ["x/a.nii.gz"], "label": "y/a_seg.nii.gz"}
    root = tree("x/a.nii.gz", "y/a_seg.nii.gz", files={"dataset.json": {"dataset": {"a": entry}}})
    assert rows(root, list_dataset(root).cases) == [("a", ["x/a.nii.gz"], ["y/a_seg.nii.gz"], None)]
    (root / "y/a_seg.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"case 'a': no such file: .*a_seg\.nii\.gz"):
        list_dataset(root)


def test_regions_give_no_class_names(tree):
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    root = tree("imagesTr/a_0000.nii", "labelsTr/a.nii", files={"dataset.json": {"labels": labels}})
    assert list_dataset(root).class_names == {}


def test_msd_takes_the_listed_pairs(tree, rows):
    root = tree(*MSD_FILES, files={"dataset.json": MSD})
    assert recognise(root).layout == "msd"
    found = list_dataset(root)
    assert rows(root, found.cases) == [
        ("h_001", ["imagesTr/h_001.nii.gz"], ["labelsTr/h_001.nii.gz"], None),
        ("h_007", ["imagesTr/h_007.nii.gz"], ["labelsTr/h_007.nii.gz"], None),
    ]
    assert found.class_names == {1: "Anterior", 2: "Posterior"}
    assert found.modality == "mr"
    assert found.left_out == ["./imagesTs/h_002.nii.gz: a test image, no label"]
    assert found.unpaired == []


def test_msd_what_is_missing_or_not_listed_is_named(tree):
    root = tree(*MSD_FILES, "imagesTr/h_009.nii.gz", files={"dataset.json": MSD})
    (root / "labelsTr/h_007.nii.gz").unlink()
    found = list_dataset(root)
    assert [one.case for one in found.cases] == ["h_001"]
    assert found.unpaired == [
        "labelsTr/h_007.nii.gz: listed in dataset.json, not there",
        "imagesTr/h_009.nii.gz: not listed in dataset.json",
    ]


def test_msd_modalities_are_frames_of_one_file(tree):
    described = {**MSD, "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}
    root = tree(*MSD_FILES, files={"dataset.json": described})
    found = choose_channel(list_dataset(root), "t1gd")
    assert {one.frame for one in found.cases} == {2}


def test_nnunet_version_1_is_not_taken_for_msd(tree):
    """Its dataset.json lists training pairs too, without the channel numbers of the files."""
    names = [
        name.replace("h_0", "h0").replace(".nii", "_0000.nii")
        if "images" in name
        else name.replace("h_0", "h0")
        for name in MSD_FILES
        if "._" not in name
    ]
    text = {
        "training": [{"image": "./imagesTr/h01.nii.gz", "label": "./labelsTr/h01.nii.gz"}],
        "labels": MSD["labels"],
        "modality": {"0": "CT"},
    }
    root = tree(*names, files={"dataset.json": text})
    assert recognise(root).layout == "nnunet"
    assert list_dataset(root).modality == "ct"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object, found list"),
        ('{"labels": [1]}', "'labels' is list"),
        ('{"labels": {"a": "b"}}', "label 'a': 'b'; expected a value and a name"),
        ('{"modality": {"x": "CT"}}', "expected channel to name"),
    ],
)
def test_a_broken_dataset_json_is_named(tree, text, message):
    root = tree(*NNUNET, files={"dataset.json": text})
    with pytest.raises(ValueError, match=f"dataset.json: .*{message}"):
        recognise(root)


def test_options_that_other_layouts_take_are_ignored(tree):
    root = tree(*NNUNET, files={"dataset.json": V2})
    assert len(list_dataset(root, "nnunet", LayoutOptions(patient=r"^(\w)")).cases) == 2
