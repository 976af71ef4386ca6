"""DICOM folders through ``samtune slice``: which series and frame, and ids that tell nothing."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from samtune.cli import main
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.scans import find_scans
from samtune.preprocessing.slice_file import read_slice_file
from samtune.training.raw_slices import RawSlices

SHAPE = (6, 5, 4)  # columns, rows, slices: i j k
DARK = np.arange(120, dtype=np.uint16).reshape(SHAPE)
BRIGHT = DARK[::-1] * 7
SECRETS = ("DOE", "JANE", "PID-4711", "19700101", "20200202", "ACC123", "1.2.3.4", "9.8.7")


@pytest.fixture
def two_series(tmp_path, make_dicom_series):
    """Two visits with two series each; the label is of the second series."""
    for visit in ("visit_1", "visit_2"):
        for name, uid, array in (("T1", "1.2.3.4", DARK), ("T2 axial", "9.8.7", BRIGHT)):
            make_dicom_series(
                tmp_path / "scans" / visit / name,
                array,
                SeriesInstanceUID=uid,
                SeriesDescription=name,
                SeriesNumber=len(uid),
            )
    return tmp_path / "scans"


def run(out, *arguments, split=("1", "0", "1")):
    argv = ["slice", *map(str, arguments), "--modality", "oct", "-o", str(out)]
    return main([*argv, "--workers", "1", "-q", "--split-counts", *split])


def stored(out):
    """Slices of each case, by the manifest, and the manifest."""
    manifest = load_manifest(out)
    return manifest, {
        case: np.stack(
            [read_slice_file(manifest.path(r))[0][0] for r in manifest.select(case=case)]
        )
        for case in manifest.cases
    }


def scaled(array):
    """By minimum and maximum to 0..255, turned to RAS: DICOM's axes run to left and posterior."""
    low, high = array.min(), array.max()
    values = np.rint((array.astype(float) - low) / (high - low) * 255).astype(np.uint8)
    return np.moveaxis(values[::-1, ::-1], 2, 0)


@pytest.mark.parametrize(
    ("series", "array", "recorded"),
    [
        ("T2 axial", BRIGHT, "T2 axial"),
        ("7", DARK, "7"),
        ("9.8.7", BRIGHT, "UID of SHA-256 2d44a280b092"),
    ],
)
def test_a_series_is_chosen_by_description_number_or_uid(
    two_series, tmp_path, series, array, recorded
):
    assert run(tmp_path / "o", two_series, "--series", series) == 0
    manifest, slices = stored(tmp_path / "o")
    assert list(slices) == ["visit_1", "visit_2"]
    for one in slices.values():
        np.testing.assert_array_equal(one, scaled(array))
    (kept,) = manifest.settings["volume"]["series"]
    assert kept == recorded
    assert "9.8.7" not in (tmp_path / "o/manifest.json").read_text()


def test_the_real_series_gives_exactly_the_slices_of_its_nifti_file(real_series, tmp_path):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(real_series)))
    sitk.WriteImage(reader.Execute(), tmp_path / "nifti.nii.gz")
    assert run(tmp_path / "a", real_series, split=("1", "0", "0")) == 0
    assert run(tmp_path / "b", tmp_path / "nifti.nii.gz", split=("1", "0", "0")) == 0
    (dicom,), (nifti,) = stored(tmp_path / "a")[1].values(), stored(tmp_path / "b")[1].values()
    assert dicom.shape == (40, 34, 50)
    np.testing.assert_array_equal(dicom, nifti)


def test_without_a_choice_the_series_are_listed_and_nothing_is_guessed(two_series, tmp_path):
    assert run(tmp_path / "o", two_series) == 1
    with (tmp_path / "o/failures.csv").open(newline="") as file:
        first, _ = csv.DictReader(file)
    for text in ("found 2 DICOM series", "'T1'", "'T2 axial'", "--series"):
        assert text in first["reason"]
    assert not (tmp_path / "o/manifest.json").exists()


def test_another_series_does_not_go_on_in_a_folder(two_series, tmp_path, capsys):
    assert run(tmp_path / "o", two_series, "--series", "T1") == 0
    assert run(tmp_path / "o", two_series, "--series", "T2 axial") == 1
    assert "volume.series: ['T1'] -> ['T2 axial']" in capsys.readouterr().err


def test_frames_of_4d_files_and_of_films(tmp_path, make_dicom_file):
    both = np.stack([DARK, BRIGHT], axis=3)
    (tmp_path / "a").mkdir()
    for case in "pq":
        image = nib.Nifti1Image(both, np.diag([1.0, 1.0, 3.0, 1.0]))
        nib.save(image, tmp_path / "a" / f"{case}.nii.gz")
    assert run(tmp_path / "none", tmp_path / "a") == 1
    assert run(tmp_path / "o", tmp_path / "a", "--frame", "1") == 0
    manifest, slices = stored(tmp_path / "o")
    assert manifest.settings["volume"] == {"frames": [1]}
    np.testing.assert_array_equal(slices["p"], scaled(BRIGHT)[:, ::-1, ::-1])

    film = np.random.default_rng(0).integers(0, 255, (3, 8, 7), np.uint8)
    for case in "pq":
        make_dicom_file(tmp_path / "films" / case / "x.dcm", film, Modality="XA")
    assert run(tmp_path / "f", tmp_path / "films", "--frame", "2") == 0
    np.testing.assert_array_equal(stored(tmp_path / "f")[1]["p"][0], film[2])


def test_prediction_reads_the_same_series_and_frame(two_series, tmp_path):
    assert run(tmp_path / "o", two_series, "--series", "T2 axial") == 0
    manifest, slices = stored(tmp_path / "o")
    options = {"intensity": manifest.settings["intensity"], "axis": None, "transform": dict}
    folder = two_series / "visit_1"
    with pytest.raises(ValueError, match="found 2 DICOM series"):
        RawSlices(_flat(folder, tmp_path), out=tmp_path / "p", **options)
    raw = RawSlices(_flat(folder, tmp_path), out=tmp_path / "p", series="T2 axial", **options)
    seen = np.stack([raw[index]["image"][0] for index in range(len(raw))])
    np.testing.assert_array_equal(seen, slices["visit_1"])

    both = nib.Nifti1Image(np.stack([DARK, BRIGHT], axis=3), np.diag([1.0, 1.0, 3.0, 1.0]))
    nib.save(both, tmp_path / "x.nii.gz")
    with pytest.raises(ValueError, match="its 2 frames: 0, 1"):
        RawSlices(tmp_path / "x.nii.gz", out=tmp_path / "p", **options)
    raw = RawSlices(tmp_path / "x.nii.gz", out=tmp_path / "p", frame=1, **options)
    seen = np.stack([raw[index]["image"][0] for index in range(len(raw))])
    np.testing.assert_array_equal(seen, scaled(BRIGHT)[:, ::-1, ::-1])


def _flat(folder: Path, tmp_path: Path) -> Path:
    """All files of a folder's series in one folder, as exports have them."""
    flat = tmp_path / "flat"
    flat.mkdir(exist_ok=True)
    for number, path in enumerate(sorted(folder.rglob("*.dcm"))):
        shutil.copyfile(path, flat / f"{number}.dcm")
    return flat


PATIENTS = ("1", "0", "1")  # counts are of patients


@pytest.fixture
def people(tmp_path, make_dicom_series):
    """Three folders named after people; the first two are one patient."""
    for name, patient in (("DOE_JANE_1", "PID-4711"), ("DOE_JANE_2", "PID-4711"), ("ROE", "P2")):
        make_dicom_series(tmp_path / "scans" / name, DARK, PatientID=patient)
    (tmp_path / "salt").write_text("a secret of this hospital\n")
    return tmp_path


def test_hidden_ids_are_hmacs_and_join_patients(people):
    options = ("--case-ids", "hmac", "--salt-file", people / "salt")
    assert run(people / "o", people / "scans", *options, split=PATIENTS) == 0
    manifest = load_manifest(people / "o")
    # printf PID-4711 | openssl dgst -sha256 -hmac 'a secret of this hospital', and P2
    doe, roe = "9e51fbff6db05565", "6c5b6b6921ddd630"
    assert {case: record.patient for case, record in manifest.cases.items()} == {
        f"{doe}_1": doe,
        f"{doe}_2": doe,
        roe: roe,
    }
    assert manifest.cases[f"{doe}_1"].split == manifest.cases[f"{doe}_2"].split
    assert {record.image_name for record in manifest.cases.values()} == set(manifest.cases)


def test_no_output_holds_a_name_the_salt_or_an_id(people):
    (people / "scans/ROE/000.dcm").write_bytes(b"damaged")  # so that there is a failure as well
    options = ("--case-ids", "hmac", "--salt-file", people / "salt", "--layout", "volume")
    assert run(people / "o", people / "scans", *options, split=PATIENTS) == 1
    names = (*SECRETS, "ROE", "a secret")
    files = [path for path in (people / "o").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"manifest.json", "failures.csv"}
    for path in files:
        for secret in names:
            assert secret not in path.name
            assert secret.encode() not in path.read_bytes(), (path.name, secret)
    settings = json.loads((people / "o/manifest.json").read_text())["settings"]
    assert set(settings["case_ids"]) == {"salt_fingerprint"}


def test_another_salt_is_another_folder(people, capsys):
    options = ("--case-ids", "hmac", "--salt-file")
    assert run(people / "o", people / "scans", *options, people / "salt", split=PATIENTS) == 0
    assert run(people / "o", people / "scans", *options, people / "other", split=PATIENTS) == 1
    assert "case_ids.salt_fingerprint" in capsys.readouterr().err
    assert (people / "other").stat().st_mode & 0o777 == 0o600
    assert len((people / "other").read_text().strip()) == 64


def test_a_salt_is_made_once_in_the_user_s_settings(people, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(people / "settings"))
    assert run(people / "a", people / "scans", "--case-ids", "hmac") == 0
    salt = (people / "settings/samtune/case_id_salt").read_text()
    assert run(people / "b", people / "scans", "--case-ids", "hmac") == 0
    assert (people / "settings/samtune/case_id_salt").read_text() == salt
    assert list((people / "settings/samtune").iterdir()) == [
        people / "settings/samtune/case_id_salt"
    ]
    assert list(load_manifest(people / "a").cases) == list(load_manifest(people / "b").cases)


def test_a_short_salt_is_refused(people, capsys):
    (people / "salt").write_text("12345\n")
    options = ("--case-ids", "hmac", "--salt-file", people / "salt")
    assert run(people / "o", people / "scans", *options, split=PATIENTS) == 1
    assert "a salt of 5 characters; expected 16 or more" in capsys.readouterr().err
    assert run(people / "o", people / "scans", *options[2:]) == 1
    assert "--salt-file is for --case-ids hmac" in capsys.readouterr().err


def test_files_of_other_kinds_are_named_by_the_hmac_of_their_names(tmp_path):
    (tmp_path / "scans").mkdir()
    for name in ("DOE_JANE_left", "DOE_JANE_right", "ROE_left"):
        nib.save(nib.Nifti1Image(DARK, np.eye(4)), tmp_path / "scans" / f"{name}.nii.gz")
    (tmp_path / "salt").write_text("a secret of this hospital")
    options = ("--case-ids", "hmac", "--salt-file", tmp_path / "salt")
    assert run(tmp_path / "o", tmp_path / "scans", *options, split=("1", "1", "1")) == 0
    manifest = load_manifest(tmp_path / "o")
    assert all(len(case) == 16 and int(case, 16) for case in manifest.cases)
    assert {record.image_name for record in manifest.cases.values()} == set(manifest.cases)


def test_a_tree_of_visits_is_predicted_as_it_was_sliced(two_series, tmp_path):
    """Names, slices and the label file's name; each visit by itself too, as predict opens it."""
    assert run(tmp_path / "out", two_series, "--series", "T1") == 0
    manifest, images = stored(tmp_path / "out")
    settings = {
        "intensity": manifest.settings["intensity"],
        "axis": None,
        "transform": lambda item: item,
        "out": tmp_path / "pred",
        "series": "T1",
    }
    scans = find_scans(two_series)
    assert list(scans) == list(images) == ["visit_1", "visit_2"]
    together = RawSlices(two_series, **settings)
    assert [item["case"] for item in together] == sorted(4 * list(scans))
    for case, path in scans.items():
        alone = RawSlices({case: path}, **settings)
        assert alone.output(case) == tmp_path / f"pred/{case}.nii.gz"
        np.testing.assert_array_equal(np.stack([item["image"][0] for item in alone]), images[case])
    with pytest.raises(ValueError, match=r"visit_1: found 2 DICOM series: .*--series"):
        RawSlices(two_series, **{**settings, "series": None})
