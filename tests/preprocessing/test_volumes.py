import gzip
import re

import nibabel as nib
import numpy as np
import pytest

from samtune.preprocessing.volumes import (
    case_id,
    check_same_grid,
    find_volumes,
    orientation,
    read_grid,
    read_label,
    read_volume,
    write_label,
)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
def test_reading_gives_the_stored_values_type_and_affine(
    tmp_path, save_volume, make_affine, suffix, dtype
):
    array = np.arange(5 * 7 * 4).reshape(5, 7, 4).astype(dtype)
    volume = read_volume(save_volume(tmp_path / f"a{suffix}", array, make_affine("LPS")))
    assert volume.array.dtype == dtype
    assert volume.array.flags.c_contiguous
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_array_equal(volume.affine, make_affine("LPS"))
    assert volume.spacing == (0.5, 0.75, 3.0)
    assert volume.shape == (5, 7, 4)


def test_scale_and_offset_of_the_header_are_applied_as_float32(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2.0, -1024.0)
    stored = bytearray(image.to_bytes())
    stored[112:120] = np.array([2.0, -1024.0], dtype="<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(stored)
    volume = read_volume(tmp_path / "a.nii")
    assert volume.array.dtype == np.float32
    raw = np.asanyarray(nib.load(tmp_path / "a.nii").dataobj.get_unscaled())
    np.testing.assert_array_equal(volume.array, raw * 2.0 - 1024.0)


def test_spacing_is_the_column_norm_in_array_order_not_the_diagonal(
    tmp_path, save_volume, make_affine, make_oblique
):
    array = np.zeros((5, 7, 4), dtype=np.uint8)
    permuted = read_grid(save_volume(tmp_path / "p.nii", array, make_affine("PSR")))
    assert permuted.spacing == (0.5, 0.75, 3.0)
    assert orientation(permuted.affine) == "PSR"
    oblique = read_grid(save_volume(tmp_path / "o.nii", array, make_oblique("RAS")))
    assert oblique.spacing == pytest.approx((0.5, 0.75, 3.0), abs=2e-6)


def test_float32_spacing_is_rounded_so_that_0_4_is_0_4(tmp_path, save_volume):
    path = save_volume(tmp_path / "a.nii", np.zeros((5, 7, 4)), np.diag([0.4, 0.7, 2.5, 1]))
    assert read_grid(path).spacing == (0.4, 0.7, 2.5)


def test_spacing_of_a_micron_file_is_in_mm(tmp_path):
    image = nib.Nifti1Image(np.zeros((5, 7, 4), dtype=np.uint8), np.diag([4.0, 12.0, 50.0, 1.0]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    assert read_grid(tmp_path / "a.nii").spacing == (0.004, 0.012, 0.05)


def test_one_time_point_is_read_as_3d_and_several_are_refused(tmp_path, save_volume):
    one = read_volume(save_volume(tmp_path / "one.nii", np.ones((5, 7, 4, 1), dtype=np.uint8)))
    assert one.array.shape == (5, 7, 4)
    path = save_volume(tmp_path / "two.nii", np.ones((5, 7, 4, 2), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"two\.nii: shape is \(5, 7, 4, 2\); expected a 3D"):
        read_volume(path)


def test_complex_voxels_and_a_singular_affine_are_refused(tmp_path, save_volume):
    path = save_volume(tmp_path / "c.nii", np.zeros((2, 3, 4), dtype=np.complex64))
    with pytest.raises(ValueError, match=r"c\.nii: voxels are of type complex64"):
        read_volume(path)
    image = nib.Nifti1Image(np.zeros((2, 3, 4), dtype=np.uint8), None)
    image.header.set_sform(np.diag([1.0, 0.0, 1.0, 1.0]), code=1)
    image.to_filename(tmp_path / "s.nii")
    with pytest.raises(ValueError, match=r"s\.nii: affine .* cannot be inverted"):
        read_volume(tmp_path / "s.nii")


@pytest.mark.parametrize("kept", [10, 200, 0.5, 0.95])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_a_truncated_file_is_named(tmp_path, save_volume, name, kept):
    rng = np.random.default_rng(0)
    path = save_volume(tmp_path / name, rng.normal(size=(20, 30, 10)).astype(np.float32))
    data = path.read_bytes()
    path.write_bytes(data[: kept if kept > 1 else int(len(data) * kept)])
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: not a complete NIfTI file"):
        read_volume(path)


def test_a_corrupted_gz_an_empty_file_and_text_are_named(tmp_path, save_volume):
    rng = np.random.default_rng(0)
    path = save_volume(tmp_path / "a.nii.gz", rng.normal(size=(20, 30, 10)).astype(np.float32))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4] = bytes(4)  # decodes, but not to what was written
    for name, content in {"a.nii.gz": bytes(data), "b.nii": b"", "c.nii.gz": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{re.escape(name)}: not a complete NIfTI file"):
            read_volume(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.nii: no such file; expected a \.nii"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
def test_a_label_keeps_its_stored_type(tmp_path, save_volume, dtype):
    array = np.zeros((5, 7, 4), dtype=dtype)
    array[1, 2, 3] = 9
    label = read_label(save_volume(tmp_path / "a.nii.gz", array))
    assert label.array.dtype == dtype
    np.testing.assert_array_equal(label.array, array)


@pytest.mark.parametrize(("largest", "dtype"), [(2, np.uint8), (300, np.uint16)])
def test_a_float_label_with_whole_values_is_read_as_the_smallest_integer(
    tmp_path, save_volume, largest, dtype
):
    array = np.zeros((5, 7, 4), dtype=np.float64)
    array[1, 2, 3] = largest
    label = read_label(save_volume(tmp_path / "a.nii.gz", array))
    assert label.array.dtype == dtype
    np.testing.assert_array_equal(label.array, array)


@pytest.mark.parametrize("value", [1.5, np.nan, np.inf])
def test_a_label_that_is_not_whole_is_refused_with_value_and_voxel(tmp_path, save_volume, value):
    array = np.zeros((5, 7, 4), dtype=np.float32)
    array[1, 2, 3] = array[4, 0, 0] = value
    path = save_volume(tmp_path / "a.nii.gz", array)
    expected = rf"a\.nii\.gz: label value {value} at voxel \(1, 2, 3\) \(2 such voxels\)"
    with pytest.raises(ValueError, match=expected):
        read_label(path)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_negative_label_is_refused(tmp_path, save_volume, dtype):
    array = np.zeros((5, 7, 4), dtype=dtype)
    array[1, 2, 3] = -1
    with pytest.raises(ValueError, match=r"label value -1.* must be >= 0"):
        read_label(save_volume(tmp_path / "a.nii.gz", array))


@pytest.mark.parametrize("code", ["RAS", "LPS", "PSR"])
@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
def test_a_written_label_has_the_grid_and_header_codes_of_its_image(
    tmp_path, make_oblique, code, name
):
    image = nib.Nifti1Image(np.ones((5, 7, 4), dtype=np.int16), make_oblique(code))
    image.header.set_qform(make_oblique(code), code=1)
    image.header.set_sform(make_oblique(code), code=2)
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 900
    nib.save(image, tmp_path / "image.nii.gz")
    like = read_volume(tmp_path / "image.nii.gz")
    array = np.zeros((5, 7, 4), dtype=np.int64)
    array[1, 2, 3] = 2
    write_label(tmp_path / name, array, like)
    written, source = nib.load(tmp_path / name), nib.load(tmp_path / "image.nii.gz")
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), array)
    np.testing.assert_array_equal(written.affine, source.affine)
    for key in ("qform_code", "sform_code", "xyzt_units", "pixdim", "srow_x", "quatern_b"):
        np.testing.assert_array_equal(written.header[key], source.header[key])
    assert written.header["cal_max"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["image.nii.gz", name])
    check_same_grid(like, read_label(tmp_path / name))


@pytest.mark.parametrize("value", [0, 255, 256, 70000])
def test_a_written_label_has_the_smallest_unsigned_type(tmp_path, save_volume, value):
    like = read_volume(save_volume(tmp_path / "image.nii", np.ones((5, 7, 4), dtype=np.float32)))
    write_label(tmp_path / "label.nii.gz", np.full((5, 7, 4), value), like)
    label = read_label(tmp_path / "label.nii.gz")
    assert label.array.dtype == np.min_scalar_type(value)
    assert (label.array == value).all()


def test_a_label_like_a_4d_image_is_written_in_the_images_shape(tmp_path, save_volume):
    like = read_volume(save_volume(tmp_path / "image.nii", np.ones((5, 7, 4, 1), dtype=np.uint8)))
    write_label(tmp_path / "label.nii", np.ones((5, 7, 4), dtype=bool), like)
    assert nib.load(tmp_path / "label.nii").shape == (5, 7, 4, 1)


def test_a_nifti2_image_gives_a_nifti2_label(tmp_path):
    nib.save(nib.Nifti2Image(np.ones((5, 7, 4), dtype=np.int16), np.eye(4)), tmp_path / "i.nii")
    write_label(tmp_path / "l.nii", np.ones((5, 7, 4), np.uint8), read_volume(tmp_path / "i.nii"))
    assert isinstance(nib.load(tmp_path / "l.nii"), nib.Nifti2Image)


def test_equal_labels_give_equal_bytes_whatever_the_name(tmp_path, save_volume):
    like = read_volume(save_volume(tmp_path / "image.nii", np.ones((5, 7, 4), dtype=np.uint8)))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_label(tmp_path / name, np.ones((5, 7, 4), dtype=np.uint8), like)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes())[344:348] == b"n+1\0"


def test_a_wrong_array_is_not_written_as_label(tmp_path, save_volume):
    like = read_volume(save_volume(tmp_path / "image.nii", np.ones((5, 7, 4), dtype=np.uint8)))
    for array, message in [
        (np.ones((7, 5, 4), np.uint8), r"shape \(7, 5, 4\), .*image\.nii has \(5, 7, 4\)"),
        (np.ones((5, 7, 4)), "must be of integer type, got float64"),
        (-np.ones((5, 7, 4), np.int8), "must be >= 0, got -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_label(tmp_path / "label.nii", array, like)
    with pytest.raises(ValueError, match="must end in"):
        write_label(tmp_path / "label.png", np.ones((5, 7, 4), np.uint8), like)
    assert not (tmp_path / "label.nii").exists()


def test_volumes_are_found_sorted_without_hidden_and_other_files(tmp_path):
    for name in ("b.nii", "a.nii.gz", ".hidden.nii", "note.txt", "c.d.nii.gz"):
        (tmp_path / name).touch()
    assert list(find_volumes(tmp_path)) == ["a", "b", "c.d"]
    assert case_id(tmp_path / "c.d.nii.gz") == "c.d"


def test_volumes_of_every_format_are_found(tmp_path):
    for name in ("a.mha", "b.NRRD", "c.mgz", "d.mhd", "d.raw"):
        (tmp_path / name).touch()
    assert list(find_volumes(tmp_path)) == ["a", "b", "c", "d"]


def test_two_files_of_one_case_are_named(tmp_path):
    (tmp_path / "a.nii").touch()
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(ValueError, match=r"case 'a' has two files, a\.nii and a\.nii\.gz"):
        find_volumes(tmp_path)


def test_an_empty_folder_says_what_was_looked_for_and_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"looked for \*\.nii and .*found nothing"):
        find_volumes(tmp_path)
    (tmp_path / "scan.dcm").touch()
    (tmp_path / "sub").mkdir()
    with pytest.raises(FileNotFoundError, match=r"found 2 other entries \(scan\.dcm, sub/\)"):
        find_volumes(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a folder of volumes, found nothing"):
        find_volumes(tmp_path / "none")


def test_other_shape_or_affine_is_refused_with_both_values(tmp_path, save_volume, make_affine):
    image = read_volume(save_volume(tmp_path / "i.nii", np.zeros((5, 7, 4)), make_affine("RAS")))
    other = read_label(save_volume(tmp_path / "l.nii", np.zeros((7, 5, 4)), make_affine("RAS")))
    with pytest.raises(ValueError, match=r"l\.nii.*\(7, 5, 4\).*i\.nii has \(5, 7, 4\)"):
        check_same_grid(image, other)
    shifted = make_affine("RAS")
    shifted[0, 3] += 0.01
    other = read_label(save_volume(tmp_path / "l.nii", np.zeros((5, 7, 4)), shifted))
    with pytest.raises(ValueError, match=r"l\.nii.*-12\.49.*i\.nii has .*-12\.5"):
        check_same_grid(image, other)
    shifted[0, 3] -= 0.0095
    other = read_label(save_volume(tmp_path / "l.nii", np.zeros((5, 7, 4)), shifted))
    check_same_grid(image, other)
