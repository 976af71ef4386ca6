import re
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from samtune.preprocessing.label_files import label_name, write_label_file
from samtune.preprocessing.slice_settings import Slicing
from samtune.preprocessing.slicing import CaseGeometry, slices_to_volume, volume_to_slices
from samtune.preprocessing.volumes import Grid, read_volume

ALL_48 = [
    "".join(pair[flip] for pair, flip in zip(axes, flips, strict=True))
    for axes in permutations(("RL", "AP", "SI"))
    for flips in product((0, 1), repeat=3)
]
WORLD = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
SPACING = (0.4, 0.7, 2.5)


def affine_of(codes, spacing=SPACING):
    affine = np.zeros((4, 4))
    for column, code in enumerate(codes):
        row, sign = WORLD[code]
        affine[row, column] = sign * spacing[column]
    affine[:, 3] = (-12.5, 31.0, 8.25, 1)
    return affine


def grid_of(path, shape, affine, spacing=SPACING):
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    return Grid(path, shape, affine, spacing, header)


def world_of(image: sitk.Image, index):
    x, y, z = image.TransformIndexToPhysicalPoint(index)
    return -x, -y, z  # LPS to RAS


@settings(max_examples=48, deadline=None)
@given(
    codes=st.sampled_from(ALL_48),
    axis=st.sampled_from([0, 1, 2]),
    suffix=st.sampled_from(["nii.gz", "nrrd", "mha"]),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    tile=st.sampled_from([None, 2, 3]),
)
def test_slices_go_back_to_a_file_on_the_original_grid(
    tmp_path_factory, codes, axis, suffix, shape, tile
):
    folder = tmp_path_factory.mktemp("back")
    affine = affine_of(codes)
    label = (np.arange(np.prod(shape)).reshape(shape) % 7).astype(np.uint8)
    grid = grid_of(folder / "image.nii.gz", shape, affine)
    geometry = CaseGeometry("a", shape, affine, SPACING, codes, axis)
    geometry = Slicing(tile_size=tile, tile_overlap=0 if tile is None else 1).lay(geometry)
    slices = volume_to_slices(label, geometry)
    if geometry.plane is not None:
        stored, tiles = geometry.plane.store_labels(slices), geometry.num_tiles
        slices = np.stack(
            [
                geometry.plane.restore_label({t: stored[n * tiles + t] for t in range(tiles)})
                for n in range(len(slices))
            ]
        )
    path = folder / f"label.{suffix}"
    write_label_file(path, slices_to_volume(slices, geometry), grid)
    if suffix == "nii.gz":
        back = read_volume(path)
        np.testing.assert_array_equal(back.array, label)
        np.testing.assert_array_equal(back.affine, affine.astype(np.float32))
        return
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, label)
    assert image.GetPixelID() == sitk.sitkUInt8
    for index in ((0, 0, 0), tuple(size - 1 for size in shape)):
        expected = affine @ (*index, 1)
        np.testing.assert_allclose(world_of(image, index), expected[:3], atol=1e-9)


@pytest.mark.parametrize("source", ["nrrd", "mha", "mhd"])
@pytest.mark.parametrize("target", ["nrrd", "mha"])
def test_geometry_of_itk_files_is_copied_bit_for_bit(tmp_path, source, target):
    angle = 0.3
    direction = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1]]
    )
    image = sitk.GetImageFromArray(np.zeros((2, 4, 3), np.int16))
    image.SetSpacing((0.1 + 0.2, 1 / 3, 5.1))
    image.SetOrigin((1 / 7, -3.3, 1e3))
    image.SetDirection(direction.ravel().tolist())
    image.SetMetaData("PatientName", "Doe^Jane")
    sitk.WriteImage(image, str(tmp_path / f"scan.{source}"))
    like = grid_of(tmp_path / f"scan.{source}", (3, 4, 2), np.eye(4))  # its file says otherwise
    write_label_file(tmp_path / f"label.{target}", np.ones((3, 4, 2), np.int64), like)
    stored = sitk.ReadImage(str(tmp_path / f"scan.{source}"))
    label = sitk.ReadImage(str(tmp_path / f"label.{target}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), np.ones((2, 4, 3)))
    exact = target == "mha" or source == "nrrd"  # an NRRD keeps products of spacing and direction
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        numbers, expected = getattr(label, name)(), getattr(stored, name)()
        np.testing.assert_allclose(numbers, expected, rtol=0 if exact else 1e-15)
    assert b"Jane" not in (tmp_path / f"label.{target}").read_bytes()
    assert "PatientName" not in label.GetMetaDataKeys()


def test_an_nrrd_of_another_space_keeps_its_geometry_fields_and_no_others(tmp_path):
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 3 4 2\nencoding: raw\nendian: little\n"
        "space: right-anterior-superior\nkinds: domain domain domain\n"
        "space directions: (0.30000000000000004,0,0) (0,0.7,0) (0,0,-2.5)\n"
        "space origin: (1,-2.25,3)\ncontent: Jane Doe\nDICOM_0010_0010:=Doe^Jane\n\n"
    )
    scan = tmp_path / "scan.nrrd"
    scan.write_bytes(header.encode() + np.zeros(24, np.int16).tobytes())
    label = (np.arange(24) % 5).reshape(3, 4, 2) + 300
    write_label_file(tmp_path / "label.nrrd", label, grid_of(scan, (3, 4, 2), np.eye(4)))
    raw = (tmp_path / "label.nrrd").read_bytes()
    for line in header.splitlines()[6:10]:
        assert line.encode() in raw
    assert b"Jane" not in raw
    image, source = (sitk.ReadImage(str(tmp_path / f"{n}.nrrd")) for n in ("label", "scan"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, label)
    assert image.GetPixelID() == sitk.sitkUInt16
    assert (image.GetSpacing(), image.GetDirection()) == (
        source.GetSpacing(),
        source.GetDirection(),
    )


def test_lengths_of_a_nifti_in_metres_become_mm(tmp_path):
    affine = np.diag([0.001, 0.002, 0.003, 1.0])
    affine[:3, 3] = (0.01, 0.02, 0.03)
    like = grid_of(tmp_path / "scan.nii", (2, 2, 2), affine, spacing=(1.0, 2.0, 3.0))
    write_label_file(tmp_path / "label.nrrd", np.zeros((2, 2, 2), bool), like)
    image = sitk.ReadImage(str(tmp_path / "label.nrrd"))
    np.testing.assert_allclose(image.GetSpacing(), (1, 2, 3))
    np.testing.assert_allclose(image.GetOrigin(), (-10, -20, 30))


@pytest.mark.parametrize(("largest", "dtype"), [(1, np.uint8), (300, np.uint16)])
@pytest.mark.parametrize("name", ["photo.jpg", "scan.mha"])
def test_a_png_holds_the_values_row_by_row(tmp_path, largest, dtype, name):
    rows = np.zeros((3, 4), np.int32)
    rows[1, 3] = largest
    # axes of a picture are row and column, those of a scan x and y
    label = rows[:, :, None] if name == "photo.jpg" else rows.T[:, :, None]
    write_label_file(tmp_path / "a.png", label, grid_of(tmp_path / name, label.shape, np.eye(4)))
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.dtype == dtype
    np.testing.assert_array_equal(picture, rows)


@pytest.mark.parametrize("suffix", ["nrrd", "mha", "png"])
def test_equal_labels_give_equal_bytes(tmp_path, suffix):
    like = grid_of(tmp_path / "scan.nii", (4, 3, 1), affine_of("LPS"))
    label = np.ones((4, 3, 1), np.uint8)
    for name in ("one", "two"):
        write_label_file(tmp_path / f"{name}.{suffix}", label, like)
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"one.{suffix}", f"two.{suffix}"]


@pytest.mark.parametrize(
    ("image", "slices", "wanted", "name"),
    [
        ("a.b.NII.GZ", 9, None, "a.b.NII.GZ"),
        ("a.nii", 9, None, "a.nii"),
        ("a.nhdr", 9, None, "a.nrrd"),
        ("a.mhd", 9, None, "a.mha"),
        ("a.JPG", 1, None, "a.png"),
        ("stack.tif", 9, None, "stack.nii.gz"),
        ("series", 9, None, "series.nii.gz"),
        ("a.nii.gz", 9, "nrrd", "a.nrrd"),
        ("a.png", 1, "nii.gz", "a.nii.gz"),
    ],
)
def test_labels_are_named_and_made_like_their_images(image, slices, wanted, name):
    assert label_name(Path(image), num_slices=slices, file_format=wanted) == name


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    like = grid_of(tmp_path / "scan.nii", (4, 3, 2), np.eye(4))
    two = np.ones((4, 3, 2), np.uint8)
    with pytest.raises(ValueError, match="a PNG holds one slice"):
        write_label_file(tmp_path / "a.png", two, like)
    with pytest.raises(ValueError, match=re.escape("shape (4, 3, 1), ")):
        write_label_file(tmp_path / "a.mha", two[:, :, :1], like)
    with pytest.raises(ValueError, match="integers >= 0, got float64"):
        write_label_file(tmp_path / "a.mha", two / 2, like)
    with pytest.raises(ValueError, match="integers >= 0, got int8"):
        write_label_file(tmp_path / "a.nrrd", -two.astype(np.int8), like)
    with pytest.raises(ValueError, match=r"must end in .nii or .nii.gz"):
        write_label_file(tmp_path / "a.gipl", two, like)
    with pytest.raises(ValueError, match="2 slices do not fit a PNG"):
        label_name(Path("a.tif"), num_slices=2, file_format="png")
    with pytest.raises(ValueError, match="format must be one of"):
        label_name(Path("a.tif"), file_format="gipl")
    assert not list(tmp_path.iterdir())
