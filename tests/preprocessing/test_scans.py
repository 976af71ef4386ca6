import pytest

from samtune.preprocessing.pairing import pair_files
from samtune.preprocessing.scans import find_scans


@pytest.fixture
def touch(tmp_path):
    def call(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        return tmp_path

    return call


def test_a_folder_means_each_volume_or_each_picture_in_it(touch, tmp_path):
    touch("volumes/b.nii.gz", "volumes/a.nii", "volumes/notes.txt", "volumes/.hidden.nii")
    touch("photos/two.JPG", "photos/one.png", "photos/scan.tif", "photos/notes.txt")
    assert find_scans(tmp_path / "volumes") == {
        "a": tmp_path / "volumes/a.nii",
        "b": tmp_path / "volumes/b.nii.gz",
    }
    assert find_scans(str(tmp_path / "photos")) == {
        "one": tmp_path / "photos/one.png",
        "scan": tmp_path / "photos/scan.tif",
        "two": tmp_path / "photos/two.JPG",
    }
    both = find_scans([tmp_path / "photos/one.png", tmp_path / "volumes"])
    assert list(both) == ["one", "a", "b"]


def test_a_folder_of_dicom_files_is_one_scan_by_suffix_or_by_content(touch, tmp_path):
    touch("series/1.dcm", "series/2.dcm")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/IM0001").write_bytes(bytes(128) + b"DICM")
    assert find_scans(tmp_path / "series") == {"series": tmp_path / "series"}
    assert find_scans(tmp_path / "bare") == {"bare": tmp_path / "bare"}
    assert find_scans(tmp_path / "series/1.dcm") == {"1": tmp_path / "series/1.dcm"}


def test_a_tree_of_patients_and_series_is_a_scan_a_patient_as_for_slicing(touch, tmp_path):
    touch("tree/p1/t2/1.dcm", "tree/p1/t2/2.dcm", "tree/p2/1.dcm", "tree/.cache/1.dcm")
    touch("tree/p3/study/t1/IM1.dcm", "tree/notes.txt")
    for name in ("tree/DICOMDIR", "tree/p4/IM0001"):  # without suffix, by content
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    found = find_scans(tmp_path / "tree")
    assert found == {name: tmp_path / "tree" / name for name in ("p1", "p2", "p3", "p4")}
    sliced = pair_files(tmp_path / "tree", None)
    assert found == {case.case: case.image for case in sliced}
    assert find_scans(tmp_path / "tree/p1") == {"t2": tmp_path / "tree/p1/t2"}


def test_no_patient_of_a_tree_is_left_out_without_a_word(touch, tmp_path):
    touch("tree/p1/t2/1.dcm", "tree/p2/t2/1.dcm", "tree/p2/t2/report.pdf")
    with pytest.raises(ValueError, match=r"tree/p2' has DICOM files and others among them"):
        find_scans(tmp_path / "tree")
    assert find_scans(tmp_path / "tree/p2/t2") == {"t2": tmp_path / "tree/p2/t2"}


def test_nothing_to_read_and_two_of_one_name_are_refused(touch, tmp_path):
    touch("empty/notes.txt", "one/a.png", "two/a.nii")
    with pytest.raises(FileNotFoundError, match="looked for"):
        find_scans(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist"):
        find_scans(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"notes.txt: the name must end in"):
        find_scans(tmp_path / "empty/notes.txt")
    with pytest.raises(ValueError, match=r"a.png' and .*a.nii' have one name"):
        find_scans([tmp_path / "one", tmp_path / "two"])
