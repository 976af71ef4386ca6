"""DICOM folders: the same voxels as NIfTI, the choice of a series, and what is refused."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread

from samtune.preprocessing.readers.dicom_files import dicom_case_id
from samtune.preprocessing.volumes import read_grid, read_image

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
ARRAY = np.arange(5 * 7 * 4, dtype=np.int16).reshape(5, 7, 4)


def itk_volume(folder):
    """The series as SimpleITK reads it: array i j k and affine (RAS)."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), FLIP @ affine


def turned(degrees_z=20, degrees_x=15):
    a, b = np.deg2rad(degrees_z), np.deg2rad(degrees_x)
    around_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    around_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return around_x @ around_z


def test_the_real_series_is_the_same_volume_as_its_nifti_file(real_series, tmp_path):
    array, affine = itk_volume(real_series)
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "a.nii.gz")
    expected, volume = read_image(tmp_path / "a.nii.gz"), read_image(real_series)
    assert volume.shape == (34, 50, 40)
    assert volume.array.dtype == expected.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_array_equal(volume.affine, expected.affine)
    assert volume.spacing == expected.spacing == (1, 1, 1)
    assert volume.notes == ()
    assert read_grid(real_series).shape == volume.shape


def test_the_files_of_a_series_may_be_given_one_by_one(real_series):
    volume = read_image(sorted(real_series.iterdir()))
    np.testing.assert_array_equal(volume.array, read_image(real_series).array)


@pytest.mark.parametrize("directions", [np.eye(3), turned(), turned(90, 0), turned(0, 90)])
def test_geometry_is_that_of_the_header_oblique_too(tmp_path, make_dicom_series, directions):
    folder = make_dicom_series(tmp_path / "a", ARRAY, directions)
    volume = read_image(folder)
    expected = np.eye(4)
    expected[:3, :3] = directions * (0.5, 0.75, 3.0)
    expected[:3, 3] = (-12.5, 31.0, 8.25)
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine, FLIP @ expected, atol=1e-6)
    assert volume.spacing == pytest.approx((0.5, 0.75, 3.0), abs=2e-6)
    array, affine = itk_volume(folder)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)


def test_slices_against_the_normal_are_put_in_its_direction(tmp_path, make_dicom_series):
    down = np.diag([1.0, 1.0, -1.0])  # the third axis of the array runs against the normal
    volume = read_image(make_dicom_series(tmp_path / "a", ARRAY, down))
    np.testing.assert_array_equal(volume.array, ARRAY[:, :, ::-1])
    assert np.linalg.det(volume.affine[:3, :3]) > 0
    np.testing.assert_allclose(volume.affine[:3, 3], (12.5, -31.0, 8.25 - 9))


def test_every_slice_has_its_own_rescale(tmp_path, make_dicom_series):
    slopes, intercepts = [1.0, 2.0, 0.5, 3.0], [0.0, -1024.0, 7.0, 1.5]
    folder = make_dicom_series(
        tmp_path / "a", ARRAY, RescaleSlope=slopes, RescaleIntercept=intercepts
    )
    volume = read_image(folder)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, ARRAY * np.array(slopes) + np.array(intercepts))


def test_whole_rescale_gives_integers_as_for_ct(tmp_path, make_dicom_series):
    stored = ARRAY.astype(np.uint16) * 20
    folder = make_dicom_series(
        tmp_path / "a", stored, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024
    )
    volume = read_image(folder)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, stored.astype(int) - 1024)
    np.testing.assert_array_equal(volume.array, itk_volume(folder)[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_monochrome1_is_turned_round_and_said(tmp_path, make_dicom_series, dtype):
    stored = ARRAY.astype(dtype)
    folder = make_dicom_series(tmp_path / "a", stored, PhotometricInterpretation="MONOCHROME1")
    volume = read_image(folder)
    limits = np.iinfo(dtype)
    expected = int(limits.max) + int(limits.min) - stored.astype(int)
    np.testing.assert_array_equal(volume.array, expected)
    assert any("MONOCHROME1" in note for note in volume.notes)
    folder = make_dicom_series(
        tmp_path / "ct", stored, PhotometricInterpretation="MONOCHROME1", Modality="CT"
    )
    volume = read_image(folder)
    np.testing.assert_array_equal(volume.array, stored)
    assert volume.notes == ("MONOCHROME1 was left as it is: the values are a measure",)


def test_of_several_series_one_is_chosen_or_all_are_listed(tmp_path, make_dicom_series):
    other = ARRAY[:, :, :3] + 1000
    folder = tmp_path / "a"
    make_dicom_series(folder / "t1", ARRAY, SeriesDescription="T1 ax", SeriesNumber=4)
    make_dicom_series(
        folder / "t2", other, SeriesDescription="T2 ax", SeriesNumber=12, SeriesInstanceUID="1.9.9"
    )
    with pytest.raises(ValueError, match="found 2 DICOM series") as caught:
        read_image(folder)
    assert "number 4, 'T1 ax', MR, 4 files; number 12, 'T2 ax', MR, 3 files" in str(caught.value)
    assert "1.9.9" not in str(caught.value)
    for series in ("T2 ax", "12", "1.9.9"):
        np.testing.assert_array_equal(read_image(folder, series=series).array, other)
        assert read_grid(folder, series=series).shape == other.shape
    with pytest.raises(ValueError, match=r"no series 'T3'; found number 4"):
        read_image(folder, series="T3")
    make_dicom_series(folder / "again", ARRAY, SeriesDescription="T1 ax", SeriesInstanceUID="1.8")
    with pytest.raises(ValueError, match="'T1 ax' fits 2 of its series"):
        read_image(folder, series="T1 ax")


def test_a_missing_slice_is_named_by_its_position(copied_series):
    (copied_series / "20.dcm").unlink()
    (copied_series / "30.dcm").unlink()
    (copied_series / "31.dcm").unlink()
    with pytest.raises(ValueError, match="3 slices are missing, at 20 mm, 30 mm, 31 mm") as caught:
        read_image(copied_series)
    with pytest.raises(ValueError, match="are missing"):
        read_grid(copied_series)
    assert "slices are 1 mm apart" in str(caught.value)


def test_the_gap_of_three_slices_is_named_too(tmp_path, make_dicom_series):
    folder = make_dicom_series(tmp_path / "a", ARRAY)  # 3 mm apart from 8.25 on
    positions = {float(dcmread(path).ImagePositionPatient[2]): path for path in folder.iterdir()}
    positions[11.25].unlink()
    with pytest.raises(ValueError, match=r"1 slices are missing, at 11\.25 mm, as slices are 3 mm"):
        read_image(folder)


def test_a_missing_last_slice_is_noted_where_the_header_counts(copied_series):
    (copied_series / "40.dcm").unlink()
    assert read_image(copied_series).notes == ("the headers speak of 40 images, 39 are there",)


def test_double_slices_are_named_by_their_position(copied_series):
    shutil.copy(copied_series / "7.dcm", copied_series / "copy.dcm")
    with pytest.raises(ValueError, match=r"1 of the slice positions .* more than once: 7 mm"):
        read_image(copied_series)


def test_uneven_distances_are_refused(copied_series, edit_dicom):
    edit_dicom(copied_series / "7.dcm", ImagePositionPatient=[0, 0, 7.4])
    with pytest.raises(ValueError, match=r"usually 1 mm apart, but not at 7\.4 mm, 8 mm"):
        read_image(copied_series)


def test_a_tilted_gantry_is_refused_with_the_angle(tmp_path, make_dicom_series):
    # the couch moves along z while the slices are turned by 15 degrees about x
    directions = turned(0, 15)
    directions[:, 2] = (0, 0, 1)
    with pytest.raises(ValueError, match=r"at 15\.0 degrees to their normal \(gantry tilt\)"):
        read_image(make_dicom_series(tmp_path / "a", ARRAY, directions))


@pytest.mark.parametrize("damage", ["empty", "header", "truncated", "pixels"])
def test_a_corrupt_slice_that_simpleitk_drops_is_an_error_that_names_it(copied_series, damage):
    path = copied_series / "40.dcm"  # the last one: without it no gap is left
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "header": bytes(300) + data[300:],
            "truncated": data[: len(data) // 4],
            "pixels": data[:-100],
        }[damage]
    )
    if damage in ("empty", "header"):
        assert len(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(copied_series))) == 39
    with pytest.raises(ValueError, match=r"40\.dcm: (not a readable DICOM|its pixels cannot)"):
        read_image(copied_series)


def test_a_corrupt_file_without_suffix_is_found_by_its_neighbours(copied_series):
    for path in sorted(copied_series.iterdir()):
        path.rename(path.with_suffix(""))
    assert read_image(copied_series).shape == (34, 50, 40)
    (copied_series / "40").write_bytes(b"garbage" * 100)
    with pytest.raises(ValueError, match=r"40: not a readable DICOM file .* 39 files beside it"):
        read_image(copied_series)


def test_other_files_and_hidden_ones_are_left_alone(copied_series):
    (copied_series / "notes.txt").write_text("x")
    (copied_series / ".DS_Store").write_bytes(b"x")
    (copied_series / "DICOMDIR").write_bytes(b"x")
    assert read_image(copied_series).shape == (34, 50, 40)


def test_slices_that_do_not_fit_together_are_refused(copied_series, edit_dicom):
    edit_dicom(copied_series / "7.dcm", ImageOrientationPatient=[1, 0, 0, 0, 0, 1])
    with pytest.raises(ValueError, match=r"slices have different directions .*7\.dcm"):
        read_image(copied_series)
    edit_dicom(
        copied_series / "7.dcm", ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[2, 1]
    )
    with pytest.raises(ValueError, match="slices have different pixel spacing"):
        read_image(copied_series)
    edit_dicom(copied_series / "7.dcm", PixelSpacing=[1, 1], Rows=25, Columns=68)
    with pytest.raises(ValueError, match=r"different size, \(50, 34\) .* \(25, 68\)"):
        read_image(copied_series)


def test_a_slice_without_position_and_zero_spacing_are_refused(copied_series, edit_dicom):
    edit_dicom(copied_series / "7.dcm", ImagePositionPatient=None)
    with pytest.raises(ValueError, match=r"1 of 40 files have no position.*7\.dcm"):
        read_image(copied_series)
    for path in copied_series.iterdir():
        edit_dicom(path, PixelSpacing=[0, 1], ImagePositionPatient=[0, 0, int(path.stem)])
    with pytest.raises(ValueError, match=r"pixel spacing is \(0\.0, 1\.0\) mm; expected sizes > 0"):
        read_image(copied_series)


def test_nothing_of_a_person_is_in_the_volume(tmp_path, make_dicom_series):
    volume = read_image(make_dicom_series(tmp_path / "a", ARRAY))
    text = bytes(volume.header.binaryblock) + repr(volume.notes).encode()
    for secret in (b"DOE", b"4711", b"19700101", b"20200202", b"ACC123", b"1.2.3"):
        assert secret not in text


def test_case_names_are_the_folder_or_a_salted_hash(tmp_path, make_dicom_series):
    folder = make_dicom_series(tmp_path / "visit 1", ARRAY)
    other = make_dicom_series(tmp_path / "visit 2", ARRAY)
    assert dicom_case_id(folder) == "visit 1"
    name = dicom_case_id(folder, salt="secret")
    assert len(name) == 16
    assert int(name, 16) > 0
    assert name == dicom_case_id(other, salt="secret")  # one patient
    assert name != dicom_case_id(folder, salt="other")
    with pytest.raises(ValueError, match="salt of case names is empty"):
        dicom_case_id(folder, salt="")


def test_lossless_jpeg_is_decoded_by_gdcm_without_its_rescale(real_series, tmp_path):
    plain = read_image(real_series)
    for path in sorted(real_series.iterdir()):
        image = sitk.ReadImage(str(path))
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.LoadPrivateTagsOff()
        reader.ReadImageInformation()
        for key in reader.GetMetaDataKeys():
            image.SetMetaData(key, reader.GetMetaData(key))
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetUseCompression(True)
        writer.SetCompressor("JPEG")
        writer.SetFileName(str(tmp_path / path.name))
        writer.Execute(image)
    assert b"1.2.840.10008.1.2.4.70" in (tmp_path / "1.dcm").read_bytes()
    volume = read_image(tmp_path)
    np.testing.assert_array_equal(volume.array, plain.array)
    np.testing.assert_array_equal(volume.affine, plain.affine)


def test_damaged_bytes_of_a_header_give_no_other_error_than_one_that_names_the_file(
    real_series, tmp_path, rng
):
    whole = (real_series / "7.dcm").read_bytes()
    path = tmp_path / "7.dcm"
    refused = []
    for _ in range(150):
        data = bytearray(whole)
        for position in rng.integers(132, 1200, 3):
            data[position] = rng.integers(256)
        path.write_bytes(data)
        try:
            read_image(path)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert [text for text in refused if not text.startswith(str(tmp_path))] == []
