import pytest

from samtune.preprocessing.pairing import pair_files


@pytest.fixture
def folders(tmp_path):
    def make(images, labels):
        for folder, names in (("images", images), ("labels", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            for name in names:
                (tmp_path / folder / f"{name}.nii.gz").touch()
        return tmp_path / "images", tmp_path / "labels"

    return make


def names(pairs):
    return [(one.case, one.image.name, one.label and one.label.name) for one in pairs]


def test_equal_names_are_pairs_whatever_their_suffix(folders):
    images, labels = folders(["b", "a"], ["b"])
    (labels / "a.nii").touch()
    assert names(pair_files(images, labels)) == [
        ("a", "a.nii.gz", "a.nii"),
        ("b", "b.nii.gz", "b.nii.gz"),
    ]


def test_channel_suffix_is_stripped_only_where_the_label_needs_it(folders):
    images, labels = folders(["a_0000", "b_0000"], ["a", "b_0000"])
    assert names(pair_files(images, labels)) == [
        ("a", "a_0000.nii.gz", "a.nii.gz"),
        ("b_0000", "b_0000.nii.gz", "b_0000.nii.gz"),
    ]
    assert [one.case for one in pair_files(images, None)] == ["a_0000", "b_0000"]


def test_an_image_without_label_is_named(folders):
    images, labels = folders(["a", "b", "c"], ["a", "x"])
    with pytest.raises(ValueError, match="2 of 3 images without a label in") as error:
        pair_files(images, labels)
    assert "b.nii.gz, c.nii.gz; expected a label of the same name" in str(error.value)
    assert "labels without an image: x.nii.gz" in str(error.value)


def test_a_label_without_image_is_named(folders):
    images, labels = folders(["a"], ["a", *"bcdefgh"])
    message = r"7 of 8 labels without an image in .*: b\.nii\.gz, .*f\.nii\.gz and 2 more; expected"
    with pytest.raises(ValueError, match=message):
        pair_files(images, labels)


def test_a_second_channel_and_two_images_of_one_label_are_refused(folders):
    images, labels = folders(["a_0000", "a_0001"], ["a"])
    with pytest.raises(ValueError, match=r"1 of 2 images without a label .*: a_0001\.nii\.gz"):
        pair_files(images, labels)
    (images / "a_0001.nii.gz").rename(images / "a.nii.gz")
    with pytest.raises(ValueError, match=r"label a\.nii\.gz has two images, a\.nii\.gz and a_0000"):
        pair_files(images, labels)


def test_a_single_image_takes_its_label_from_a_folder_of_more(folders):
    images, labels = folders(["a_0000"], ["a", "b"])
    image = images / "a_0000.nii.gz"
    assert names(pair_files(image, labels)) == [("a", "a_0000.nii.gz", "a.nii.gz")]
    assert names(pair_files(image, None)) == [("a_0000", "a_0000.nii.gz", None)]


def test_two_single_files_are_a_pair_whatever_their_names(folders):
    images, labels = folders(["scan"], ["mask"])
    pairs = pair_files(images / "scan.nii.gz", labels / "mask.nii.gz")
    assert names(pairs) == [("mask", "scan.nii.gz", "mask.nii.gz")]


def test_a_missing_path_is_named(folders, tmp_path):
    images, _ = folders(["a"], [])
    with pytest.raises(FileNotFoundError, match="nowhere: expected a folder of volumes"):
        pair_files(tmp_path / "nowhere", None)
    with pytest.raises(FileNotFoundError, match=r"labels: looked for .* found nothing"):
        pair_files(images, tmp_path / "labels")


def test_folders_of_pictures_and_of_series_are_images_too(tmp_path):
    for name in (
        "p/b.png",
        "p/a.jpg",
        "l/a.png",
        "l/b.tif",
        "d/1/0.dcm",
        "d/2/0.dcm",
        "d/2/1.dcm",
        "m/1.nii",
        "m/2.nii",
        "s/I1.ima",
        "s/I2.ima",
        "x/y/z.nii",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(pair_files(tmp_path / "p", tmp_path / "l")) == [
        ("a", "a.jpg", "a.png"),
        ("b", "b.png", "b.tif"),
    ]
    assert names(pair_files(tmp_path / "d", tmp_path / "m")) == [
        ("1", "1", "1.nii"),
        ("2", "2", "2.nii"),
    ]
    assert names(pair_files(tmp_path / "s", None)) == [("s", "s", None)]  # one series
    assert names(pair_files(tmp_path / "p/a.jpg", tmp_path / "l")) == [("a", "a.jpg", "a.png")]
    with pytest.raises(FileNotFoundError, match=r"looked for .*\.nii.* found 1 other entries \(y/"):
        pair_files(tmp_path / "x", None)
