"""NIfTI, MGH, MetaImage and NRRD: one array and geometry, the same volume from each of them."""

import gzip
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from samtune.preprocessing.volumes import read_grid, read_image, read_label, write_label

SUFFIXES = ("nii", "nii.gz", "mgh", "mgz", "mha", "mhd", "nrrd", "nhdr")
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS


def save_any(path, array, affine, compress=False):
    """Write with nibabel or SimpleITK; ``array`` is i j k, ``affine`` RAS."""
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(array, affine), path)
    elif path.suffix in (".mgh", ".mgz"):
        nib.save(nib.MGHImage(array, affine), path)
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
        lps = FLIP @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        sitk.WriteImage(image, str(path), compress)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("code", ["RAS", "LPS", "PSR", "SRP"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_every_format_gives_the_same_volume(tmp_path, make_oblique, suffix, code, dtype):
    array = np.arange(5 * 7 * 4).reshape(5, 7, 4).astype(dtype)
    path = save_any(tmp_path / f"a.{suffix}", array, make_oblique(code))
    for volume in (read_image(path), read_label(path)):
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_allclose(volume.affine, make_oblique(code), atol=2e-5)
        assert volume.spacing == pytest.approx((0.5, 0.75, 3.0), abs=2e-6)
        assert volume.array.flags.c_contiguous
        assert volume.array.dtype.isnative
    assert read_image(path).array.dtype == dtype
    grid = read_grid(path)
    assert (grid.shape, grid.spacing) == (volume.shape, volume.spacing)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_real_volume_is_the_same_from_every_format(tmp_path, hippocampus, suffix):
    source = nib.load(hippocampus / "images/hippocampus_001.nii.gz")
    array = np.asanyarray(source.dataobj).astype(np.float32)
    volume = read_image(save_any(tmp_path / f"a.{suffix}", array, source.affine, compress=True))
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, source.affine, atol=1e-5)


@pytest.mark.parametrize("suffix", ["mgz", "mha", "nrrd"])
def test_a_label_on_the_grid_of_another_format_is_written_as_nifti(tmp_path, make_oblique, suffix):
    array = np.arange(5 * 7 * 4).reshape(5, 7, 4).astype(np.uint8)
    like = read_image(save_any(tmp_path / f"a.{suffix}", array, make_oblique("PSR")))
    write_label(tmp_path / "out.nii.gz", array, like)
    written = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), array)
    np.testing.assert_allclose(written.affine, make_oblique("PSR"), atol=2e-5)


@pytest.mark.parametrize("kind", ["nii", "nifti2", "mgz", "nrrd", "mha"])
def test_a_frame_of_a_4d_file_is_read_and_no_choice_is_an_error(tmp_path, make_affine, kind):
    array = np.arange(3 * 4 * 5 * 2, dtype=np.int16).reshape(3, 4, 5, 2)
    path = tmp_path / f"a.{'nii.gz' if kind == 'nifti2' else kind}"
    if kind in ("nii", "nifti2", "mgz"):
        maker = {"nii": nib.Nifti1Image, "nifti2": nib.Nifti2Image, "mgz": nib.MGHImage}[kind]
        nib.save(maker(array, make_affine("RAS")), path)
    else:
        frames = [sitk.GetImageFromArray(array[..., t].transpose(2, 1, 0)) for t in range(2)]
        sitk.WriteImage(sitk.JoinSeries(frames), str(path))
    for frame in (0, 1):
        volume = read_image(path, frame=frame)
        np.testing.assert_array_equal(volume.array, array[..., frame])
        assert read_grid(path, frame=frame).shape == (3, 4, 5)
    for read in (read_grid, read_image, read_label):
        with pytest.raises(ValueError, match=r"\(3, 4, 5, 2\).*2 frames: 0, 1$"):
            read(path)
    with pytest.raises(ValueError, match=r"no frame 2; its frames are 0, 1"):
        read_image(path, frame=2)


def test_a_label_for_one_frame_of_a_4d_image_is_3d(tmp_path, save_volume):
    path = save_volume(tmp_path / "a.nii", np.ones((5, 7, 4, 3), dtype=np.int16))
    write_label(tmp_path / "l.nii", np.ones((5, 7, 4), np.uint8), read_image(path, frame=2))
    assert nib.load(tmp_path / "l.nii").shape == (5, 7, 4)


@pytest.mark.parametrize("suffix", ["nii.gz", "mgz", "mha", "mhd", "nrrd", "nhdr"])
def test_a_flipped_bit_of_compressed_data_is_an_error(tmp_path, hippocampus, suffix):
    array = np.asanyarray(nib.load(hippocampus / "images/hippocampus_001.nii.gz").dataobj)
    path = save_any(tmp_path / f"a.{suffix}", array.astype(np.float32), np.eye(4), compress=True)
    data_file = {"mhd": "a.zraw", "nhdr": "a.raw.gz"}.get(suffix)
    damaged = path if data_file is None else tmp_path / data_file
    whole = damaged.read_bytes()
    read_image(path)
    # inside the data, and in the checksum: gzip's lies before the 4 bytes of the length
    checksum = -6 if suffix in ("nii.gz", "mgz", "nrrd", "nhdr") else -2
    for position in (len(whole) // 2, 3 * len(whole) // 4, checksum):
        data = bytearray(whole)
        data[position] ^= 1
        damaged.write_bytes(data)
        with pytest.raises(ValueError, match=rf"a\.{suffix}: not a complete"):
            read_image(path)


@pytest.mark.parametrize("suffix", ["mgh", "mgz", "mha", "mhd", "nrrd"])
@pytest.mark.parametrize("compress", [False, True])
def test_a_truncated_file_is_named(tmp_path, suffix, compress):
    rng = np.random.default_rng(0)
    array = rng.normal(size=(20, 30, 10)).astype(np.float32)
    path = save_any(tmp_path / f"a.{suffix}", array, np.eye(4), compress)
    data_file = tmp_path / ("a.zraw" if compress else "a.raw")
    damaged = data_file if suffix == "mhd" else path
    data = damaged.read_bytes()
    for kept in (10, len(data) // 2, len(data) - 100):
        damaged.write_bytes(data[:kept])
        with pytest.raises(ValueError, match=rf"a\.{suffix}: not a complete"):
            read_image(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nan_and_infinite_voxels_are_kept_in_images_and_refused_in_labels(tmp_path, suffix):
    array = np.zeros((3, 4, 5), np.float32)
    array[0, 1, 2], array[2, 3, 4] = np.nan, np.inf
    path = save_any(tmp_path / f"a.{suffix}", array, np.eye(4))
    np.testing.assert_array_equal(read_image(path).array, array)
    with pytest.raises(ValueError, match=r"label value nan at voxel \(0, 1, 2\) \(2 such voxels"):
        read_label(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nearly_whole_labels_are_rounded_and_others_refused(tmp_path, hippocampus, suffix):
    label = np.asanyarray(nib.load(hippocampus / "labels/hippocampus_001.nii.gz").dataobj)
    noisy = (label * np.float32(0.9999)).astype(np.float32)
    path = save_any(tmp_path / f"a.{suffix}", noisy, np.eye(4))
    read = read_label(path)
    assert read.array.dtype == np.uint8
    np.testing.assert_array_equal(read.array, label)
    noisy[tuple(np.argwhere(label == 1)[0])] = 0.998
    save_any(path, noisy, np.eye(4))
    with pytest.raises(ValueError, match=r"label value 0\.998.* must be a whole number"):
        read_label(path)


@pytest.mark.parametrize("value", [-1.0, -0.9995])
def test_a_negative_label_is_refused_whole_or_nearly(tmp_path, save_volume, value):
    array = np.zeros((5, 7, 4), np.float32)
    array[0, 1, 2] = value
    with pytest.raises(ValueError, match=r"label value -.* at voxel \(0, 1, 2\).* must be >= 0"):
        read_label(save_volume(tmp_path / "a.nii", array))
    array[0, 1, 2] = -0.0005  # resampling undershoots
    assert read_label(save_volume(tmp_path / "a.nii", array)).array.max() == 0


def test_a_zero_spacing_is_refused_with_the_spacing(tmp_path):
    array = np.zeros((3, 4, 5), np.uint8)
    paths = [save_any(tmp_path / f"a.{s}", array, np.eye(4)) for s in ("nii", "mha", "nrrd", "mgh")]
    nii, mha, nrrd, mgh = paths
    for qform, sform in ((0, 0), (1, 0), (0, 1)):
        data = bytearray(nii.read_bytes())
        data[252:256] = np.array([qform, sform], "<i2").tobytes()
        data[76 + 4 * 2 : 76 + 4 * 3] = bytes(4)  # pixdim[2]
        data[280:328] = np.diag([1.0, 0, 1, 1])[:3].astype("<f4").tobytes()
        nii.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.nii: .*spacing is \(1, 0, 1\) mm; expected size"):
            read_image(nii)
    mha.write_bytes(mha.read_bytes().replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 0 1"))
    nrrd.write_bytes(nrrd.read_bytes().replace(b"(0,-1,0)", b"(0,0,0)"))
    data = bytearray(mgh.read_bytes())
    data[34:38] = bytes(4)  # second of delta
    mgh.write_bytes(data)
    for path in (mha, nrrd, mgh):
        with pytest.raises(ValueError, match=rf"{re.escape(path.name)}: .*(spacing|inverted)"):
            read_image(path)


def test_a_singular_affine_is_refused(tmp_path, hippocampus):
    shutil.copy(hippocampus / "images/hippocampus_001.nii.gz", tmp_path / "a.nii.gz")
    data = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    singular = np.eye(4)
    singular[:3, 2] = (1, 1, 0)  # in the plane of the other two
    data[252:256] = np.array([0, 1], "<i2").tobytes()
    data[280:328] = singular[:3].astype("<f4").tobytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(ValueError, match=r"a\.nii\.gz: affine .* cannot be inverted"):
        read_image(tmp_path / "a.nii.gz")
    data[280:328] = np.full((3, 4), np.nan, "<f4").tobytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(ValueError, match=r"a\.nii\.gz: affine .*nan.* cannot be inverted"):
        read_image(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("suffix", ["nii", "mha", "nrrd"])
def test_colour_voxels_have_a_channel_axis(tmp_path, suffix):
    colours = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
    path = tmp_path / f"a.{suffix}"
    if suffix == "nii":
        rgb = colours.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
        nib.save(nib.Nifti1Image(rgb, np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(colours.transpose(2, 1, 0, 3), True), str(path))
    volume = read_image(path)
    assert (volume.shape, volume.channels) == ((3, 4, 5), 3)
    np.testing.assert_array_equal(volume.array, colours)


def test_components_of_a_vector_file_are_frames(tmp_path):
    array = np.arange(3 * 4 * 5 * 2, dtype=np.int16).reshape(3, 4, 5, 2)
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0, 3), True)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.nrrd", frame=1).array, array[..., 1])
    with pytest.raises(ValueError, match=r"\(3, 4, 5, 2\).*2 frames: 0, 1"):
        read_image(tmp_path / "a.nrrd")


def test_nrrd_space_is_taken_to_ras(tmp_path):
    data = np.arange(24, dtype="<i2").tobytes()
    for space, sign in [
        ("left-posterior-superior", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
    ]:
        header = (
            f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: 2 3 4\n"
            "space directions: (2,0,0) (0,3,0) (0,0,4)\nkinds: domain domain domain\n"
            "endian: little\nencoding: raw\nspace origin: (5,6,7)\n\n"
        )
        (tmp_path / "a.nrrd").write_bytes(header.encode() + data)
        expected = np.diag([*(s * step for s, step in zip(sign, (2, 3, 4), strict=True)), 1.0])
        expected[:3, 3] = np.array(sign) * (5, 6, 7)
        np.testing.assert_array_equal(read_grid(tmp_path / "a.nrrd").affine, expected)


def test_several_volumes_are_channels_of_one_image(tmp_path, save_volume, make_affine):
    arrays = [np.full((5, 7, 4), value, np.int16) for value in (3, 9)]
    paths = [save_volume(tmp_path / f"a_000{n}.nii", array) for n, array in enumerate(arrays)]
    volume = read_image(paths)
    assert volume.channels == 2
    np.testing.assert_array_equal(volume.array, np.stack(arrays, axis=-1))
    shifted = save_volume(tmp_path / "b.nii", arrays[0], make_affine("LPS"))
    with pytest.raises(ValueError, match=r"b\.nii: affine .* a_0000\.nii has .* need one grid"):
        read_image([paths[0], shifted])
    with pytest.raises(ValueError, match="no image file given"):
        read_image([])


def test_names_in_the_header_of_an_image_do_not_reach_its_label(tmp_path):
    image = nib.Nifti1Image(np.zeros((5, 7, 4), np.int16), np.eye(4))
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[name] = b"DOE^JANE"
    nib.save(image, tmp_path / "a.nii")
    write_label(tmp_path / "l.nii", np.ones((5, 7, 4), np.uint8), read_image(tmp_path / "a.nii"))
    assert b"DOE" in (tmp_path / "a.nii").read_bytes()
    assert b"DOE" not in (tmp_path / "l.nii").read_bytes()


def test_a_series_of_a_file_and_a_file_of_another_kind_are_refused(tmp_path, save_volume):
    path = save_volume(tmp_path / "a.nii", np.zeros((5, 7, 4), np.uint8))
    with pytest.raises(ValueError, match="only DICOM folders have"):
        read_image(path, series="T2")
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"note\.txt: .* of another kind; expected \.nii\.gz"):
        read_image(tmp_path / "note.txt")
