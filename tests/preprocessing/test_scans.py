import pytest

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
