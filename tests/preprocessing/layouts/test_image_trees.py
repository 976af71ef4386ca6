"""SALT, finetune-SAM and pairs of folders."""

import pytest

from samtune.preprocessing.layouts import LayoutOptions, list_dataset, recognise

SPLIT = "imgs,split\na.png,train\nb.jpg,val\nc.png,test\n"


def test_salt_by_both_namings(tree, rows):
    """Masks of the same name (README) or STEM_mask.png (code)."""
    root = tree(
        "images/a.png",
        "images/b.jpg",
        "images/c.png",
        "masks/a.png",
        "masks/b_mask.png",
        "masks/c.tif",
        files={"data_split.csv": SPLIT},
    )
    assert recognise(root).layout == "salt"
    assert rows(root, list_dataset(root).cases) == [
        ("a", ["images/a.png"], ["masks/a.png"], "train"),
        ("b", ["images/b.jpg"], ["masks/b_mask.png"], "val"),
        ("c", ["images/c.png"], ["masks/c.tif"], "test"),
    ]


def test_salt_with_paths_and_other_words_in_the_csv(tree):
    text = "\ufeffid, imgs, split\n0, images/a.png, training\n1, b, Validation\n"
    root = tree(
        "images/a.png", "images/b.png", "masks/a.png", "masks/b.png", files={"data_split.csv": text}
    )
    assert [(one.case, one.split) for one in list_dataset(root).cases] == [
        ("a", "train"),
        ("b", "val"),
    ]


def test_salt_a_mask_of_each_naming_is_ambiguous(tree):
    root = tree(
        "images/a.png",
        "masks/a.png",
        "masks/a_mask.png",
        files={"data_split.csv": "imgs,split\na.png,train\n"},
    )
    with pytest.raises(ValueError, match=r"a\.png has several masks: a\.png, a_mask\.png; remove"):
        list_dataset(root)
    assert [one.label.name for one in list_dataset(root, "salt", LayoutOptions("stem")).cases] == [
        "a.png"
    ]


def test_salt_what_is_unpaired_is_listed(tree):
    root = tree(
        "images/a.png",
        "images/b.jpg",
        "images/x.png",
        "masks/a.png",
        "masks/y.png",
        files={"data_split.csv": SPLIT},
    )
    found = list_dataset(root)
    assert [one.case for one in found.cases] == ["a"]
    assert found.unpaired == [
        "images/b.jpg: no mask of that name or b_mask",
        "data_split.csv line 4: no image images/c.png",
        "images/x.png: not in data_split.csv",
        "masks/y.png: no image",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imgs,split\na.png,fold1\n", "line 2: 'a.png' has split 'fold1'; expected train, val or"),
        ("imgs,split\na.png,train\na,test\n", r"line 3: image 'a' \(also line 2\); expected each"),
    ],
)
def test_salt_a_split_without_a_meaning_is_refused(tree, text, message):
    root = tree("images/a.png", "masks/a.png", files={"data_split.csv": text})
    with pytest.raises(ValueError, match=message):
        list_dataset(root)


@pytest.mark.parametrize(
    "line",
    [
        "im/{0}.png,ma/{0}.png",
        "im/{0}.png, /ma/{0}.png",
        "im/{0}.png  ma/{0}.png",
        "im/{0}.png\t/ma/{0}.png",
    ],
)
def test_finetune_sam_lists_in_every_form(tree, rows, line):
    lists = {
        f"{split}.csv": line.format(name) + "\n"
        for split, name in (("train", "a"), ("val_5shot", "b"), ("test", "c"))
    }
    root = tree(*(f"{folder}/{name}.png" for folder in ("im", "ma") for name in "abc"), files=lists)
    assert recognise(root).layout == "finetune_sam"
    assert rows(root, list_dataset(root).cases) == [
        ("a", ["im/a.png"], ["ma/a.png"], "train"),
        ("b", ["im/b.png"], ["ma/b.png"], "val"),
        ("c", ["im/c.png"], ["ma/c.png"], "test"),
    ]


def test_finetune_sam_one_list_below_its_root(tree, rows):
    root = tree(
        "Demo/images/s1/1.png",
        "Demo/images/s2/1.png",
        "Demo/masks/s1/1.png",
        "Demo/masks/s2/1.png",
        files={
            "Demo/list.txt": (
                "Demo/images/s1/1.png,Demo/masks/s1/1.png\n\n"
                "Demo/images/s2/1.png,Demo/masks/s2/1.png\n"
            )
        },
    )
    found = list_dataset(root / "Demo/list.txt")
    assert rows(root, found.cases) == [
        ("s1_1", ["Demo/images/s1/1.png"], ["Demo/masks/s1/1.png"], None),
        ("s2_1", ["Demo/images/s2/1.png"], ["Demo/masks/s2/1.png"], None),
    ]


def test_finetune_sam_missing_ambiguous_and_doubled(tree):
    names = [f"{folder}/{name}.png" for folder in ("im", "ma") for name in "ab"]
    root = tree(*names, files={"train.csv": "im/a.png,ma/a.png\nim/b.png,ma/x.png\n"})
    assert list_dataset(root).unpaired == ["train.csv line 2: no file ma/x.png"]
    tree(files={"val.csv": "im/a.png,ma/a.png\n"})
    with pytest.raises(ValueError, match=r"val\.csv: line 1: 'im/a\.png' is listed twice, also in"):
        list_dataset(root)
    tree(files={"val.csv": "a.png,ma/b.png\n"})
    with pytest.raises(ValueError, match=r"'a\.png' could be .*im/a\.png, .*ma/a\.png; expected"):
        list_dataset(root, "finetune_sam")
    tree(files={"val.csv": "im/z.png,ma/z.png\n"})
    assert "val.csv line 1: no file im/z.png, ma/z.png" in list_dataset(root).unpaired
    tree(files={"val.csv": "im/b.png,ma/b.png\n", "more.csv": "im/b.png,ma/b.png\n"})
    with pytest.raises(ValueError, match=r"more\.csv does not say train, val or test"):
        list_dataset(root)


def test_pairs_in_two_folders(tree, rows):
    root = tree("Images/a.png", "Images/b.tif", "masks/a.gif", "masks/b.png")
    evidence = recognise(root)
    assert (evidence.layout, evidence.reasons) == (
        "pairs",
        ("Images/: 2 images", "masks/: 2 images"),
    )
    assert rows(root, list_dataset(root).cases) == [
        ("a", ["Images/a.png"], ["masks/a.gif"], None),
        ("b", ["Images/b.tif"], ["masks/b.png"], None),
    ]


def test_pairs_in_split_folders(tree, rows):
    """As DRIVE: the field-of-view masks lie beside the vessels."""
    root = tree(
        "training/images/21_training.tif",
        "training/1st_manual/21_manual1.gif",
        "training/mask/21_training_mask.gif",
        "test/images/01_test.tif",
        "test/1st_manual/01_manual1.gif",
        "test/mask/01_test_mask.gif",
    )
    with pytest.raises(ValueError, match=r"1st_manual/, mask/ could each be the folder of labels"):
        recognise(root)
    options = LayoutOptions(r"{id}_{part}=>{id}_manual1", labels="1st_manual")
    assert rows(root, list_dataset(root, "pairs", options).cases) == [
        ("01_test", ["test/images/01_test.tif"], ["test/1st_manual/01_manual1.gif"], "test"),
        (
            "21_training",
            ["training/images/21_training.tif"],
            ["training/1st_manual/21_manual1.gif"],
            "train",
        ),
    ]


def test_equal_names_in_two_splits_stay_apart(tree):
    root = tree(*(f"{s}/{f}/1.png" for s in ("train", "Testing") for f in ("images", "masks")))
    assert [(one.case, one.split) for one in list_dataset(root).cases] == [
        ("Testing_1", "test"),
        ("train_1", "train"),
    ]


def test_pairs_in_folders_named_by_split(tree, rows):
    root = tree(
        *(
            f"{split}_{kind}_images/{name}.png"
            for kind in ("original", "masks")
            for split, name in (("Train", "a"), ("Val", "b"), ("Testing", "a"))
        )
    )
    options = LayoutOptions(images="{split}_original_images", labels="{split}_masks_images")
    assert rows(root, list_dataset(root, "pairs", options).cases) == [
        ("test_a", ["Testing_original_images/a.png"], ["Testing_masks_images/a.png"], "test"),
        ("train_a", ["Train_original_images/a.png"], ["Train_masks_images/a.png"], "train"),
        ("val_b", ["Val_original_images/b.png"], ["Val_masks_images/b.png"], "val"),
    ]
    with pytest.raises(FileNotFoundError, match=r"no folder im_\{split\} for train, val or test"):
        list_dataset(root, "pairs", LayoutOptions(images="im_{split}", labels="m_{split}"))


def test_pairs_in_one_folder_need_a_rule(tree, rows):
    root = tree("1.pgm", "1_gt.pgm", "12.pgm", "12_gt.pgm", "readme.txt")
    assert recognise(root) is None
    options = LayoutOptions("{stem}_gt")
    assert rows(root, list_dataset(root, "pairs", options).cases) == [
        ("1", ["1.pgm"], ["1_gt.pgm"], None),
        ("12", ["12.pgm"], ["12_gt.pgm"], None),
    ]
    with pytest.raises(FileNotFoundError, match=r"1\.pgm, .*expected a folder of images"):
        list_dataset(root, "pairs")


def test_pairs_that_do_not_fit_suggest_a_rule(tree):
    root = tree("images/a.png", "images/b.png", "labels/a_seg.png", "labels/b_seg.png")
    with pytest.raises(
        ValueError,
        match=r"no cases here: images/a\.png: no label by rule 'stem'; "
        r"would pair all: --pair '\{stem\}_seg'",
    ):
        list_dataset(root)


def test_ambiguous_pairs_list_the_candidates(tree):
    root = tree("images/a1.png", "images/b1.png", "labels/1.png")
    with pytest.raises(ValueError, match=r"pairs a1\.png, b1\.png with 1\.png; expected one label"):
        list_dataset(root, "pairs", LayoutOptions("number"))


def test_folders_are_images_where_there_are_no_files(tree, rows):
    root = tree("images/p1/0.dcm", "images/p2/0.dcm", "labels/p1.nii.gz", "labels/p2.nii.gz")
    assert [row[1] for row in rows(root, list_dataset(root).cases)] == [
        ["images/p1"],
        ["images/p2"],
    ]


def test_patients_are_found_by_a_rule(tree):
    root = tree(
        *(f"{f}/Image_{n}{e}.png" for f in ("images", "masks") for n in ("01", "02") for e in "LR")
    )
    cases = list_dataset(root, options=LayoutOptions(patient=r"_(\d+)[LR]$")).cases
    assert [one.patient for one in cases] == ["01", "01", "02", "02"]
    with pytest.raises(ValueError, match=r"patient rule 'x' does not fit case 'Image_01L'"):
        list_dataset(root, options=LayoutOptions(patient="x"))
    with pytest.raises(ValueError, match=r"patient rule '\('"):
        list_dataset(root, options=LayoutOptions(patient="("))


def test_two_layouts_in_one_folder_are_an_error_that_lists_both(tree):
    root = tree(
        "images/a.png",
        "masks/a.png",
        files={
            "data_split.csv": "imgs,split\na.png,train\n",
            "train.csv": "images/a.png,masks/a.png\n",
        },
    )
    with pytest.raises(ValueError, match=r"could be salt \(data_split.csv.*; finetune_sam \(train"):
        recognise(root)
    assert list_dataset(root, "salt").layout == "salt"


def test_a_folder_of_no_layout_says_what_is_there(tree):
    root = tree("notes.md", "raw/x.bin")
    assert recognise(root) is None
    with pytest.raises(ValueError, match=r"none of the layouts nnunet, .*; found notes.md, raw"):
        list_dataset(root)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list_dataset(root / "x")
    with pytest.raises(ValueError, match="layout 'x'; expected auto, nnunet"):
        list_dataset(root, "x")


def test_files_of_an_unknown_format_are_counted(tree):
    root = tree("images/a.png", "images/b.webp", "images/notes.txt", "masks/a.png")
    assert list_dataset(root).left_out == ["images/b.webp: not an image format that is known"]


def test_labels_of_one_file_a_class(tree, rows):
    root = tree(
        "images/a_1.png",
        "images/b.png",
        "images/c.png",
        *(
            f"labels/{case}_{name}.png"
            for case in ("a_1", "b")
            for name in ("left_kidney", "liver")
        ),
        "labels/c_liver.png",
        "labels/x.png",
    )
    found = list_dataset(root, "pairs", LayoutOptions("{stem}_{class}"))
    assert rows(root, found.cases) == [
        ("a_1", ["images/a_1.png"], ["labels/a_1_left_kidney.png", "labels/a_1_liver.png"], None),
        ("b", ["images/b.png"], ["labels/b_left_kidney.png", "labels/b_liver.png"], None),
    ]
    assert found.class_names == {1: "left_kidney", 2: "liver"}
    assert found.unpaired == [
        "images/c.png: no label by rule '{stem}_{class}'",
        "labels/c_liver.png: no image by rule '{stem}_{class}'",
        "labels/x.png: no image by rule '{stem}_{class}'",
    ]
    tree("images/a.png")  # takes a_1_liver for its class 1_liver
    with pytest.raises(ValueError, match=r"pairs a\.png, a_1\.png with a_1_left_kidney\.png; .*"):
        list_dataset(root, "pairs", LayoutOptions("{stem}_{class}"))
