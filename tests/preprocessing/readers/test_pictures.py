"""PNG, JPEG, BMP and TIFF: values, channels, pages, spacing, damage."""

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from samtune.preprocessing.readers.pictures import stack_files
from samtune.preprocessing.slicing import CaseGeometry, volume_to_slices
from samtune.preprocessing.volumes import read_grid, read_image, read_label

GREY = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) * 8
GREY16 = np.arange(6 * 5, dtype=np.uint16).reshape(6, 5) * 2000
STACK = np.arange(4 * 6 * 5, dtype=np.uint16).reshape(4, 6, 5) * 500


@pytest.fixture
def colours(rng):
    return rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)


def write_picture(path, array):
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack")
    else:
        Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_grey_and_colour_are_read_as_stored(tmp_path, suffix, colours):
    grey = read_image(write_picture(tmp_path / f"grey.{suffix}", GREY))
    np.testing.assert_array_equal(grey.array, GREY[:, :, np.newaxis])
    assert (grey.shape, grey.spacing, grey.has_spacing) == ((6, 5, 1), (1, 1, 1), False)
    path = write_picture(tmp_path / f"rgb.{suffix}", colours)
    colour = read_image(path)
    np.testing.assert_array_equal(colour.array, colours[:, :, np.newaxis])
    assert (colour.shape, colour.channels) == ((6, 5, 1), 3)
    assert read_grid(path).shape == (6, 5, 1)


@pytest.mark.parametrize("suffix", [".gif", ".pgm"])
def test_masks_of_older_datasets_are_read(tmp_path, suffix):
    """DRIVE's ``_manual1.gif`` and DCA1's ``_gt.pgm`` hold 0 and 255."""
    mask = np.zeros((5, 7), np.uint8)
    mask[1:3, 4:] = 255
    path = tmp_path / f"a{suffix}"
    Image.fromarray(mask).save(path)
    image = read_image(path).array[:, :, 0]
    if suffix == ".gif":  # has a palette, which is one of colours
        image = image[..., 2]
    np.testing.assert_array_equal(image, mask)
    np.testing.assert_array_equal(read_label(path).array[:, :, 0], mask > 0)


def test_pgm_has_16_bits_and_ppm_colours(tmp_path):
    deep = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800
    (tmp_path / "a.pgm").write_bytes(b"P5 7 5 65535\n" + deep.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "a.pgm").array[:, :, 0], deep)
    colours = np.arange(105, dtype=np.uint8).reshape(5, 7, 3)
    (tmp_path / "a.ppm").write_bytes(b"P6 7 5 255\n" + colours.tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "a.ppm").array[:, :, 0], colours)


def test_a_real_fundus_photograph_and_its_mask(hippocampus):
    folder = hippocampus.parent / "retina_chase"
    image = read_image(folder / "images/Image_01L.jpg")
    assert (image.shape, image.channels, image.array.dtype) == ((960, 999, 1), 3, np.uint8)
    with Image.open(folder / "images/Image_01L.jpg") as photograph:
        np.testing.assert_array_equal(image.array[:, :, 0], np.asarray(photograph))


def test_a_cut_along_axis_2_gives_the_picture_upright(tmp_path):
    volume = read_image(write_picture(tmp_path / "a.png", GREY))
    geometry = CaseGeometry.of(volume, case="a")
    assert geometry.axis == 2
    np.testing.assert_array_equal(volume_to_slices(volume.array, geometry)[0], GREY)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_kept_in_grey_and_colour(tmp_path, suffix):
    grey = read_image(write_picture(tmp_path / f"grey.{suffix}", GREY16))
    assert grey.array.dtype == np.uint16
    np.testing.assert_array_equal(grey.array[:, :, 0], GREY16)
    rgb = np.stack([GREY16, GREY16 + 1, GREY16 + 2], axis=-1)
    path = tmp_path / f"rgb.{suffix}"
    if suffix == "png":
        sitk.WriteImage(sitk.GetImageFromArray(rgb, isVector=True), str(path))
    else:
        write_picture(path, rgb)
    colour = read_image(path)
    assert colour.array.dtype == np.uint16
    np.testing.assert_array_equal(colour.array[:, :, 0], rgb)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_alpha_is_dropped_and_said_if_it_varies(tmp_path, suffix, colours):
    alpha = np.full((6, 5, 1), 255, np.uint8)
    path = tmp_path / f"a.{suffix}"
    for varies in (False, True):
        alpha[2, 3] = 7 if varies else 255
        rgba = np.concatenate([colours, alpha], axis=-1)
        if suffix == "png":
            Image.fromarray(rgba, "RGBA").save(path)
        else:
            tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"])
        volume = read_image(path)
        np.testing.assert_array_equal(volume.array[:, :, 0], colours)
        assert len(volume.notes) == varies
    assert "alpha channel that varies was dropped" in volume.notes[0]


def test_grey_with_alpha_becomes_grey(tmp_path):
    pair = np.stack([GREY, np.full_like(GREY, 9)], axis=-1)
    Image.fromarray(pair, "LA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").array[:, :, 0], GREY)


def test_a_palette_gives_colours_in_an_image_and_indices_in_a_label(tmp_path):
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    palette = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 64]], np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.ravel().tolist())
    image.save(tmp_path / "a.png")
    table = np.zeros((3, 256), np.uint16)
    table[:, :3] = palette.T.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=table)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_label(tmp_path / name).array[:, :, 0], indices)
        np.testing.assert_array_equal(read_image(tmp_path / name).array[:, :, 0], palette[indices])


def test_one_bit_is_0_and_255_in_an_image_and_0_and_1_in_a_label(tmp_path):
    bits = GREY > 100
    Image.fromarray(bits).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", bits, photometric="minisblack")
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_label(tmp_path / name).array[:, :, 0], bits)
        np.testing.assert_array_equal(read_image(tmp_path / name).array[:, :, 0], bits * 255)


def test_white_as_zero_is_turned_round_and_said(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="miniswhite")
    volume = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array[:, :, 0], 255 - GREY)
    assert "white as 0" in volume.notes[0]


def test_the_pages_of_a_tiff_are_slices(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    volume = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array, STACK.transpose(1, 2, 0))
    assert read_grid(tmp_path / "a.tif").shape == (6, 5, 4)
    assert not volume.has_spacing
    colours = np.stack([STACK, STACK, STACK], axis=-1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", colours, photometric="rgb")
    volume = read_image(tmp_path / "rgb.tif")
    np.testing.assert_array_equal(volume.array, colours.transpose(1, 2, 0, 3))


@pytest.mark.parametrize(("unit", "mm"), [("micron", 0.001), ("mm", 1.0), ("\\u00B5m", 0.001)])
def test_imagej_says_the_spacing(tmp_path, unit, mm):
    tifffile.imwrite(
        tmp_path / "a.tif",
        STACK,
        imagej=True,
        resolution=(1 / 0.25, 1 / 0.5),  # pixels a unit along x and y
        metadata={"axes": "ZYX", "unit": unit, "spacing": 3.0},
    )
    volume = read_image(tmp_path / "a.tif")
    expected = tuple(round(size * mm, 6) for size in (0.5, 0.25, 3.0))
    assert volume.spacing == pytest.approx(expected, rel=1e-3)
    assert volume.has_spacing
    np.testing.assert_array_equal(volume.array, STACK.transpose(1, 2, 0))


def test_ome_says_the_spacing(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        STACK,
        metadata={"axes": "ZYX", "PhysicalSizeX": 2.0, "PhysicalSizeY": 3.0, "PhysicalSizeZ": 50.0,
                  "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm",
                  "PhysicalSizeZUnit": "µm"},
    )  # fmt: skip
    assert read_image(tmp_path / "a.ome.tif").spacing == (0.003, 0.002, 0.05)


def test_resolution_a_centimetre_is_a_spacing_and_a_printers_is_not(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY, resolution=(20, 10), resolutionunit="CENTIMETER")
    assert read_image(tmp_path / "a.tif").spacing == (1.0, 0.5, 1.0)
    tifffile.imwrite(tmp_path / "b.tif", GREY, resolution=(72, 72), resolutionunit="INCH")
    volume = read_image(tmp_path / "b.tif")
    assert (volume.spacing, volume.has_spacing) == ((1, 1, 1), False)
    assert "about printing" in volume.notes[0]


def test_time_points_are_frames_and_channels_an_axis(tmp_path):
    both = np.arange(2 * 3 * 6 * 5, dtype=np.uint16).reshape(2, 3, 6, 5)
    tifffile.imwrite(tmp_path / "t.tif", both, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ValueError, match=r"t\.tif: shape .* one of its 2 frames: 0, 1$"):
        read_image(tmp_path / "t.tif")
    volume = read_image(tmp_path / "t.tif", frame=1)
    np.testing.assert_array_equal(volume.array, both[1].transpose(1, 2, 0))
    tifffile.imwrite(tmp_path / "c.tif", both, imagej=True, metadata={"axes": "ZCYX"})
    volume = read_image(tmp_path / "c.tif")
    np.testing.assert_array_equal(volume.array, both.transpose(2, 3, 0, 1))
    assert volume.shape == (6, 5, 2)


def test_pages_of_different_size_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(GREY)
        writer.write(GREY[:3])
    with pytest.raises(ValueError, match=r"a\.tif: not a readable TIFF .*2 different kinds"):
        read_image(tmp_path / "a.tif")


def test_lzw_is_read_without_another_package(tmp_path, colours):
    Image.fromarray(colours).save(tmp_path / "a.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[:, :, 0], colours)
    pages = [Image.fromarray(page.astype(np.uint8)) for page in STACK]
    pages[0].save(
        tmp_path / "b.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw"
    )
    volume = read_image(tmp_path / "b.tif")
    np.testing.assert_array_equal(volume.array, STACK.astype(np.uint8).transpose(1, 2, 0))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "z.tif", "lzw.tif"])
def test_a_truncated_picture_is_named(tmp_path, name, rng):
    array = rng.integers(0, 256, (60, 50)).astype(np.uint8)
    path = tmp_path / name
    if name == "z.tif":
        tifffile.imwrite(path, array, compression="zlib")
    elif name == "lzw.tif":
        Image.fromarray(array).save(path, compression="tiff_lzw")
    else:
        write_picture(path, array)
    data = path.read_bytes()
    for kept in (0, 20, len(data) // 2):
        path.write_bytes(data[:kept])
        with pytest.raises(ValueError, match=rf"{name}: not a (complete|readable)"):
            read_image(path)


def test_a_flipped_bit_in_a_png_is_an_error(tmp_path, rng):
    path = write_picture(tmp_path / "a.png", rng.integers(0, 256, (60, 50)).astype(np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.png: not a complete picture"):
        read_image(path)


def test_a_folder_of_pictures_is_a_stack_only_if_asked_for(tmp_path):
    for index in (0, 2, 10, 1):
        write_picture(tmp_path / f"slice_{index}.png", GREY + index)
    (tmp_path / ".hidden.png").write_bytes(b"")
    with pytest.raises(ValueError, match="a folder of pictures; they are one stack only if"):
        read_image(tmp_path)
    files = stack_files(tmp_path, [".png"])
    assert [path.name for path in files] == [f"slice_{n}.png" for n in (0, 1, 2, 10)]
    volume = read_image(files)
    assert volume.shape == (6, 5, 4)
    np.testing.assert_array_equal(volume.array[:, :, 3], GREY + 10)
    write_picture(tmp_path / "slice_11.png", GREY[:3])
    with pytest.raises(ValueError, match=r"slice_11\.png: 3 x 5 pixels, slice_0\.png has 6 x 5"):
        read_image(stack_files(tmp_path, [".png"]))


def test_the_cameras_orientation_is_not_applied_but_said(tmp_path, colours):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colours).save(tmp_path / "a.jpg", exif=exif, quality=100)
    volume = read_image(tmp_path / "a.jpg")
    assert volume.shape == (6, 5, 1)
    assert "orientation tag was not applied" in volume.notes[0]
