"""``samtune convert``: round trips through every format, and what it refuses."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from samtune.cli import main
from samtune.preprocessing.readers.pictures import stack_files
from samtune.preprocessing.volumes import read_image, read_label

VOLUMES = ("nii", "nii.gz", "nrrd", "mha")
GREY = np.arange(30, dtype=np.uint8).reshape(6, 5) * 8


@pytest.fixture
def scan(tmp_path):
    """An oblique scan with header text of a person."""

    def save(dtype=np.int16, name="scan.nii.gz"):
        a = np.deg2rad(20)
        cos, sin = np.cos(a), np.sin(a)
        affine = np.eye(4)
        affine[:2, :2] = [[-0.5 * cos, 0.75 * sin], [-0.5 * sin, -0.75 * cos]]
        affine[2, 2] = 3
        affine[:3, 3] = (3.5, -7, 11.25)
        array = (np.arange(5 * 7 * 4).reshape(5, 7, 4) - 20).astype(dtype)
        image = nib.Nifti1Image(array, affine)
        image.header["descrip"] = b"DOE^JANE"
        nib.save(image, tmp_path / name)
        return tmp_path / name

    return save


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("first", VOLUMES)
@pytest.mark.parametrize("second", VOLUMES)
def test_a_volume_survives_any_two_formats(tmp_path, scan, first, second, dtype):
    source = scan(dtype)
    assert main(["convert", str(source), str(tmp_path / f"a.{first}"), "-q"]) == 0
    assert main(["convert", str(tmp_path / f"a.{first}"), str(tmp_path / f"b.{second}"), "-q"]) == 0
    expected, volume = read_image(source), read_image(tmp_path / f"b.{second}")
    np.testing.assert_array_equal(volume.array, expected.array)
    assert volume.array.dtype == dtype
    np.testing.assert_allclose(volume.affine, expected.affine, atol=2e-6)
    assert volume.spacing == pytest.approx(expected.spacing, abs=2e-6)
    for path in tmp_path.glob("[ab].*"):
        content = path.read_bytes()
        assert b"DOE" not in (content if path.suffix != ".gz" else bytes(nib.load(path).to_bytes()))


def test_all_48_orientations_survive(tmp_path):
    array = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.eye(3)[:, order] * signs * np.array([0.5, 0.75, 3.0])
            affine[:3, 3] = (1.5, -2.25, 7)
            nib.save(nib.Nifti1Image(array, affine), tmp_path / "a.nii")
            path = tmp_path / "a.nii"
            for suffix in ("mha", "nrrd", "nii.gz"):
                before, path = path, tmp_path / f"b.{suffix}"
                assert main(["convert", str(before), str(path), "-q", "--force"]) == 0
                volume = read_image(path)
                np.testing.assert_array_equal(volume.array, array)
                np.testing.assert_allclose(volume.affine, affine, atol=1e-6)


def test_a_label_is_whole_and_of_the_stored_type(tmp_path, scan, capsys):
    source = scan(np.float32)
    assert main(["convert", str(source), str(tmp_path / "a.nrrd"), "--label"]) == 1
    assert "label value -20.0" in capsys.readouterr().err
    image = nib.load(source)
    nib.save(nib.Nifti1Image(np.abs(image.get_fdata()), image.affine), source)
    assert main(["convert", str(source), str(tmp_path / "a.nrrd"), "--label"]) == 0
    label = read_label(tmp_path / "a.nrrd")
    assert label.array.dtype == np.uint8
    np.testing.assert_array_equal(label.array, np.abs(image.get_fdata()))


@pytest.mark.parametrize("suffix", VOLUMES)
def test_colours_survive(tmp_path, rng, suffix):
    colours = rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert main(["convert", str(tmp_path / "a.png"), str(tmp_path / f"b.{suffix}"), "-q"]) == 0
    volume = read_image(tmp_path / f"b.{suffix}")
    np.testing.assert_array_equal(volume.array[:, :, 0], colours)


def test_a_picture_is_written_as_png_as_it_is(tmp_path, rng):
    colours = rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)
    for array in (GREY, GREY.astype(np.uint16) * 200, colours):
        Image.fromarray(array).save(tmp_path / "a.png")
        out = tmp_path / "b.png"
        assert main(["convert", str(tmp_path / "a.png"), str(out), "-q", "--force"]) == 0
        with Image.open(out) as written:
            np.testing.assert_array_equal(np.asarray(written), array)


def test_the_slices_of_a_volume_are_pngs_with_rows_down(tmp_path, scan, capsys):
    source = scan(np.uint16)
    array = read_image(source).array
    assert main(["convert", str(source), str(tmp_path / "out/s.png")]) == 0
    files = stack_files(tmp_path / "out", [".png"])
    assert [path.name for path in files] == [f"s_00{n}.png" for n in range(4)]
    with Image.open(files[2]) as page:
        np.testing.assert_array_equal(np.asarray(page), array[:, :, 2].T)
    assert "s_000.png and 3 more: 5x7x4 voxels of 0.5x0.75x3 mm" in capsys.readouterr().out
    stack = tmp_path / "stack.nii.gz"
    assert main(["convert", str(tmp_path / "out"), str(stack), "--stack", "-q"]) == 0
    np.testing.assert_array_equal(read_image(stack).array, array.swapaxes(0, 1))


def test_values_that_a_png_cannot_hold_are_named(tmp_path, scan, capsys):
    assert main(["convert", str(scan()), str(tmp_path / "s.png")]) == 1
    assert "values are int16, from -20 to 119; a PNG holds grey" in capsys.readouterr().err
    assert list(tmp_path.glob("*.png")) == []


def test_frame_and_series_are_chosen(tmp_path, capsys):
    array = np.arange(2 * 3 * 4 * 2, dtype=np.int16).reshape(2, 3, 4, 2)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    out = tmp_path / "b.mha"
    assert main(["convert", str(tmp_path / "a.nii"), str(out)]) == 1
    assert "one of its 2 frames: 0, 1" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "a.nii"), str(out), "--frame", "1"]) == 0
    np.testing.assert_array_equal(read_image(out).array, array[..., 1])
    assert main(["convert", str(tmp_path / "a.nii"), str(out), "--series", "T2", "--force"]) == 1


def test_several_volumes_become_frames_of_one_file(tmp_path, scan):
    paths = [str(scan(name=f"c{n}.nii")) for n in range(2)]
    assert main(["convert", *paths, str(tmp_path / "out.nii"), "-q"]) == 0
    assert nib.load(tmp_path / "out.nii").shape == (5, 7, 4, 2)
    expected = read_image(tmp_path / "c1.nii")
    second = read_image(tmp_path / "out.nii", frame=1)
    np.testing.assert_array_equal(second.array, expected.array)
    np.testing.assert_allclose(second.affine, expected.affine, atol=1e-6)


def test_a_rule_and_an_image_go_with_a_label(tmp_path, capsys):
    colours = np.array([[[255, 0, 0], [0, 0, 0]], [[0, 0, 255], [255, 0, 0]]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    (tmp_path / "rule.yaml").write_text('colours: {1: "#ff0000", 4: [0, 0, 255]}\n')
    line = ["convert", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--rule"]
    assert main([*line, str(tmp_path / "rule.yaml"), "--label", "-q"]) == 0
    with Image.open(tmp_path / "b.png") as written:
        np.testing.assert_array_equal(np.asarray(written), [[1, 0], [4, 1]])
    assert main([*line, str(tmp_path / "rule.yaml"), "--force"]) == 1
    assert "--rule and --like are about labels" in capsys.readouterr().err
    (tmp_path / "rule.yaml").write_text("colors: {}\n")
    assert main([*line, str(tmp_path / "rule.yaml"), "--label", "--force"]) == 1
    assert "rule.yaml: label rule: unknown colors" in capsys.readouterr().err
    (tmp_path / "r.csv").write_text("ImageId,EncodedPixels\na,1 2\n")
    line = ["convert", str(tmp_path / "r.csv"), str(tmp_path / "c.png"), "--label", "--like"]
    assert main([*line, str(tmp_path / "a.png"), "-q"]) == 0
    with Image.open(tmp_path / "c.png") as written:
        np.testing.assert_array_equal(np.asarray(written), [[1, 0], [1, 0]])


def test_notes_are_printed_and_nothing_is_overwritten_without_force(tmp_path, capsys):
    Image.fromarray(255 * (GREY > 100).astype(np.uint8)).save(tmp_path / "a.png")
    line = ["convert", str(tmp_path / "a.png"), str(tmp_path / "b.nii.gz"), "--label"]
    assert main(line) == 0
    printed = capsys.readouterr()
    assert "note: a mask of 0 and 255 was read as 0 and 1" in printed.err
    assert "6x5x1 voxels of pixels of unknown size, uint8" in printed.out
    before = (tmp_path / "b.nii.gz").read_bytes()
    assert main(line) == 1
    assert "is there already; give --force" in capsys.readouterr().err
    assert main([*line, "--force", "-q"]) == 0
    assert (tmp_path / "b.nii.gz").read_bytes() == before  # no time stamp either


def test_a_suffix_that_cannot_be_written_is_refused(tmp_path, scan, capsys):
    for name in ("a.jpg", "a", ".png"):
        assert main(["convert", str(scan()), str(tmp_path / name)]) == 1
        assert "the name must end in .nii.gz, .nii, .nrrd, .mha, .png" in capsys.readouterr().err


def test_microns_of_a_nifti_file_become_mm(tmp_path):
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.diag([4.0, 12, 50, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    for suffix in ("mha", "nii"):
        assert main(["convert", str(tmp_path / "a.nii"), str(tmp_path / f"b.{suffix}"), "-q"]) == 0
        assert read_image(tmp_path / f"b.{suffix}").spacing == (0.004, 0.012, 0.05)


def test_the_real_series_becomes_a_nifti_file(tmp_path, repo_root):
    folder = repo_root.parent / "shared/data/dicom_series/mr_hippocrop_series"
    if not folder.is_dir():
        pytest.skip("the real series (shared/data/dicom_series) is not beside the checkout")
    assert main(["convert", str(folder), str(tmp_path / "a.nii.gz"), "-q"]) == 0
    expected, volume = read_image(folder), read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_array_equal(volume.affine, expected.affine)
    content = bytes(nib.load(tmp_path / "a.nii.gz").to_bytes())
    assert b"Dumbledore" not in content
    assert b"PGBM" not in content
