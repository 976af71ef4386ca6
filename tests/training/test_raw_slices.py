import shutil

import nibabel as nib
import numpy as np
import pytest

from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.slice_file import read_slice_file
from samtune.training.raw_slices import RawSlices


@pytest.fixture
def make(tiny_volumes, tmp_path):
    def call(images=tiny_volumes / "images", **changes):
        options = {
            "intensity": Intensity.for_modality("mr").to_dict(),
            "axis": None,
            "transform": dict,
            "out": tmp_path / "out",
        }
        return RawSlices(images, **{**options, **changes})

    return call


def test_raw_scans_become_the_slices_that_training_saw(make, tiny_manifest):
    sources = make()
    assert len(sources) == len(tiny_manifest.slices) == 18
    for item, record in zip((sources[i] for i in range(18)), tiny_manifest.slices, strict=True):
        images, _ = read_slice_file(tiny_manifest.path(record))
        assert (item["case"], item["index"]) == (record.case, record.index)
        np.testing.assert_array_equal(item["image"][0], images[record.position])
        assert item["size_hw"].tolist() == list(images.shape[1:])
    for case, record in tiny_manifest.cases.items():
        assert sources.geometry(case) == record.geometry


def test_order_of_access_does_not_matter(make):
    one, other = make(), make()
    last = one[17]["image"]
    [other[i] for i in range(18)]
    np.testing.assert_array_equal(last, other[17]["image"])
    np.testing.assert_array_equal(one[0]["image"], other[0]["image"])


def test_transform_gets_every_item(make):
    seen = make(transform=lambda item: (item["case"], item["index"]))
    assert [seen[i] for i in (0, 4)] == [("case_0", 0), ("case_1", 1)]


def test_an_axis_that_training_asked_for_is_cut(make, tiny_volumes):
    sources = make([tiny_volumes / "images/case_1.nii.gz"], axis=0)
    assert len(sources) == 21  # left-right of case 1
    assert sources.geometry("case_1").axis == 0


def test_files_and_folders_may_be_mixed(make, tiny_volumes, tmp_path):
    (tmp_path / "more").mkdir()
    shutil.copy(tiny_volumes / "images/case_3.nii.gz", tmp_path / "more/x.nii.gz")
    shutil.copy(tiny_volumes / "images/case_2.nii.gz", tmp_path / "more/y.nii.gz")
    sources = make([tiny_volumes / "images/case_0.nii.gz", str(tmp_path / "more")])
    assert list(sources.paths) == ["case_0", "x", "y"]
    assert sources.output("x") == tmp_path / "out/x.nii.gz"
    assert list(make(str(tmp_path / "more/x.nii.gz")).paths) == ["x"]


def test_two_scans_of_one_name_are_refused(make, tiny_volumes, tmp_path):
    (tmp_path / "more").mkdir()
    shutil.copy(tiny_volumes / "images/case_0.nii.gz", tmp_path / "more")
    with pytest.raises(ValueError, match=r"case_0.nii.gz' and .* have one name"):
        make([tiny_volumes / "images", tmp_path / "more"])


@pytest.mark.parametrize("how", ["folder", "relative", "link"])
def test_a_prediction_never_overwrites_its_scan(make, tiny_volumes, tmp_path, monkeypatch, how):
    folder = tmp_path / "scans"
    shutil.copytree(tiny_volumes / "images", folder)
    out = folder
    if how == "relative":
        monkeypatch.chdir(tmp_path)
        out = "scans/../scans"
    elif how == "link":
        (tmp_path / "link").symlink_to(folder)
        out = tmp_path / "link"
    with pytest.raises(ValueError, match=r"case_0.nii.gz' would be overwritten by its prediction"):
        make(folder, out=out)


def test_all_files_are_checked_before_the_first_prediction(make, tiny_volumes, tmp_path):
    folder = tmp_path / "scans"
    shutil.copytree(tiny_volumes / "images", folder)
    (folder / "zz.nii.gz").write_bytes(b"not a scan")
    with pytest.raises(ValueError, match=r"zz.nii.gz: not a complete NIfTI"):
        make(folder)
    with pytest.raises(FileNotFoundError, match=r"nowhere.nii.gz"):
        make(tmp_path / "nowhere.nii.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="looked for"):
        make(tmp_path / "empty")


def test_a_series_is_refused(make, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4)), tmp_path / "t.nii.gz")
    with pytest.raises(ValueError, match=r"shape is \(4, 4, 4, 2\); expected a 3D volume"):
        make(tmp_path / "t.nii.gz")
