"""What stored label pixels mean: masks, colours, values, one file a class, run lengths."""

import numpy as np
import pytest
from PIL import Image

from samtune.preprocessing.readers.label_rule import LabelRule, RunLengths
from samtune.preprocessing.volumes import read_image, read_label

CLASSES = np.array([[0, 1, 2, 0, 5], [2, 2, 1, 0, 0], [0, 0, 0, 5, 1]], np.uint8)
TABLE = {1: (255, 0, 0), 2: (0, 255, 0), 5: (0, 0, 255)}


@pytest.fixture
def save_png(tmp_path):
    def save(array, name="a.png"):
        Image.fromarray(np.asarray(array).astype(np.uint8)).save(tmp_path / name, quality=100)
        return tmp_path / name

    return save


def flat(volume):
    """The page of a one-page label."""
    assert volume.array.ndim == 3
    return volume.array[:, :, 0]


def in_colour(classes=CLASSES, table=TABLE):
    lookup = np.zeros((6, 3), np.uint8)
    for value, colour in table.items():
        lookup[value] = colour
    return lookup[classes]


def test_a_picture_of_integers_is_kept(save_png):
    assert (flat(read_label(save_png(CLASSES))) == CLASSES).all()


def test_a_0_and_255_mask_is_class_1_and_said(save_png):
    volume = read_label(save_png(255 * (CLASSES > 0)))
    np.testing.assert_array_equal(flat(volume), CLASSES > 0)
    assert volume.notes == ("a mask of 0 and 255 was read as 0 and 1",)
    assert read_label(save_png(np.zeros((3, 5)))).notes == ()
    grey_as_rgb = np.stack([255 * (CLASSES > 0)] * 3, axis=-1)
    np.testing.assert_array_equal(flat(read_label(save_png(grey_as_rgb))), CLASSES > 0)


def test_255_stays_255_in_a_volume_beside_other_values_and_where_it_is_ignored(
    save_png, save_volume, tmp_path
):
    stored = 255 * (CLASSES > 0)
    volume = save_volume(tmp_path / "a.nii", stored.astype(np.uint8)[..., np.newaxis])
    np.testing.assert_array_equal(flat(read_label(volume)), stored)
    rule = LabelRule(ignore_label=255)
    np.testing.assert_array_equal(flat(read_label(save_png(stored), rule=rule)), stored)
    mixed = np.where(CLASSES == 5, 255, CLASSES)
    np.testing.assert_array_equal(flat(read_label(save_png(mixed))), mixed)


def test_real_masks_are_class_1(hippocampus):
    folder = hippocampus.parent / "retina_chase/masks"
    path = sorted(folder.iterdir())[0]
    volume = read_label(path)
    with Image.open(path) as stored:
        np.testing.assert_array_equal(flat(volume), np.asarray(stored.convert("L")) > 0)
    assert set(np.unique(volume.array)) == {0, 1}


def test_colours_of_a_table_are_classes(save_png):
    path = save_png(in_colour())
    np.testing.assert_array_equal(flat(read_label(path, rule=LabelRule(colours=TABLE))), CLASSES)
    with pytest.raises(ValueError, match="a label in colour; expected a colour table"):
        read_label(path)


def test_the_nearest_colour_within_the_tolerance_is_taken(save_png, rng):
    noisy = in_colour().astype(int) + rng.integers(-8, 9, (3, 5, 3))  # at most 8 * sqrt(3) = 13.9
    path = save_png(noisy.clip(0, 255))
    rule = LabelRule(colours=TABLE, tolerance=14)
    np.testing.assert_array_equal(flat(read_label(path, rule=rule)), CLASSES)
    with pytest.raises(
        ValueError, match=r"pixels \(.*%\) are of no colour of the table, such as #"
    ):
        read_label(path, rule=LabelRule(colours=TABLE, tolerance=1))


def test_unmatched_pixels_are_counted_and_become_0_or_the_ignored_label(save_png):
    stored = in_colour()
    stored[0, 0], stored[2, 2] = (128, 128, 128), (128, 128, 0)
    path = save_png(stored)
    with pytest.raises(ValueError, match=r"2 pixels \(13\.33%\).*#8080.*at most 10\.00%"):
        read_label(path, rule=LabelRule(colours=TABLE, unmatched_share=0.1))
    volume = read_label(path, rule=LabelRule(colours=TABLE, unmatched_share=0.2))
    np.testing.assert_array_equal(flat(volume), CLASSES)
    assert volume.notes == ("2 pixels of no colour of the table were read as 0",)
    rule = LabelRule(colours=TABLE, unmatched_share=0.2, ignore_label=300)
    expected = CLASSES.astype(int)
    expected[0, 0] = expected[2, 2] = 300
    np.testing.assert_array_equal(flat(read_label(path, rule=rule)), expected)


def test_a_table_may_give_black_another_class(save_png):
    table = {0: (255, 255, 255), 1: (0, 0, 0)}
    path = save_png(np.where(CLASSES > 0, 0, 255))
    rule = LabelRule(colours=table)
    np.testing.assert_array_equal(flat(read_label(path, rule=rule)), CLASSES > 0)


def test_stored_values_are_mapped_and_others_refused(save_png, save_volume, tmp_path):
    path = save_png(CLASSES * 50)
    rule = LabelRule(values={50: 1, 100: 2, 250: 5})
    np.testing.assert_array_equal(flat(read_label(path, rule=rule)), CLASSES)
    with pytest.raises(ValueError, match=r"label value 250 at voxel \(0, 4, 0\) \(2 such voxels\)"):
        read_label(path, rule=LabelRule(values={50: 1, 100: 2}))
    kept = read_label(path, rule=LabelRule(values={50: 1, 100: 2}, ignore_label=250))
    np.testing.assert_array_equal(flat(kept), np.where(CLASSES == 5, 250, CLASSES))
    negative = np.where(CLASSES == 5, -1, CLASSES.astype(np.int64))[..., np.newaxis]
    for dtype in (np.int16, np.float32):
        path = save_volume(tmp_path / "n.nii", negative.astype(dtype))
        with pytest.raises(ValueError, match=r"label value -1.* must be >= 0"):
            read_label(path)
        rule = LabelRule(values={-1: 255, 1: 1, 2: 2})
        np.testing.assert_array_equal(
            flat(read_label(path, rule=rule)), np.where(CLASSES == 5, 255, CLASSES)
        )


def test_a_threshold_makes_a_mask_of_a_jpeg(tmp_path, rng):
    mask = np.zeros((40, 32), np.uint8)
    mask[10:30, 8:24] = 255
    Image.fromarray(mask).save(tmp_path / "a.jpg", quality=30)
    with pytest.raises(ValueError, match=r"a\.jpg: a label of \d+ values as JPEG, whose"):
        read_label(tmp_path / "a.jpg")
    volume = read_label(tmp_path / "a.jpg", rule=LabelRule(threshold=127))
    np.testing.assert_array_equal(flat(volume), mask > 0)


def test_one_file_a_class_is_joined_by_order_or_by_name(save_png):
    paths = [save_png(255 * (value == CLASSES), f"x_{value}.png") for value in (1, 2, 5)]
    joined = flat(read_label(paths))
    np.testing.assert_array_equal(joined, np.where(CLASSES == 5, 3, CLASSES))
    rule = LabelRule(files={5: "*_5.PNG", 1: "*_1.png", 2: "*_2.png"})
    np.testing.assert_array_equal(flat(read_label(paths, rule=rule)), CLASSES)
    one = flat(read_label(paths[2], rule=rule))  # the others have no object
    np.testing.assert_array_equal(one, 5 * (CLASSES == 5))
    with pytest.raises(ValueError, match=r"x_5\.png: its name fits 0 classes; expected one of 1"):
        read_label(paths, rule=LabelRule(files={1: "*_1.png", 2: "*_2.png"}))


def test_classes_that_overlap_are_an_error_or_the_later_one_wins(save_png):
    paths = [save_png(255 * (CLASSES > 0), "a.png"), save_png(255 * (CLASSES == 2), "b.png")]
    with pytest.raises(ValueError, match=r"b\.png: class 2 overlaps an earlier class in 3 pixels"):
        read_label(paths)
    joined = flat(read_label(paths, rule=LabelRule(overlap="later")))
    np.testing.assert_array_equal(joined, np.where(CLASSES == 2, 2, CLASSES > 0))


def test_files_of_classes_need_one_grid_and_one_value(save_png):
    paths = [save_png(255 * (CLASSES == 1), "a.png"), save_png(CLASSES[:2], "b.png")]
    with pytest.raises(ValueError, match=r"b\.png: its grid, \(2, 5, 1\), is not that of a\.png"):
        read_label(paths)
    paths[1] = save_png(CLASSES, "b.png")
    with pytest.raises(ValueError, match=r"b\.png: has the values 1, 2, 5; expected one besides 0"):
        read_label(paths)


def test_the_ignored_label_of_a_class_file_is_kept(save_png):
    stored = np.where(CLASSES == 5, 255, CLASSES == 1)
    paths = [save_png(stored, "a.png"), save_png(CLASSES == 2, "b.png")]
    joined = flat(read_label(paths, rule=LabelRule(ignore_label=255)))
    np.testing.assert_array_equal(joined, np.where(CLASSES == 5, 255, CLASSES))


def runs_of(mask, order, first):
    """Run lengths written pixel by pixel."""
    pixels = mask.ravel(order="F" if order == "columns" else "C")
    words = []
    for index, value in enumerate(pixels):
        if value and (index == 0 or not pixels[index - 1]):
            words += [index + first, 0]
        if value:
            words[-1] += 1
    return " ".join(map(str, words))


@pytest.mark.parametrize("order", ["columns", "rows"])
@pytest.mark.parametrize("first", [0, 1])
def test_run_lengths_of_a_csv_are_read_for_the_image_they_name(tmp_path, save_png, order, first):
    like = read_image(save_png(CLASSES, "scan_7.png"))
    lines = [f"scan_7,{runs_of(value == CLASSES, order, first)},{value}" for value in (1, 2, 5)]
    text = "\n".join(["name,rle,class", "other.png,1 3,1", *lines, "scan_7.png,,4"])
    (tmp_path / "runs.csv").write_text(text + "\n")
    runs = RunLengths("name", "rle", "class", order, first)
    volume = read_label(tmp_path / "runs.csv", like=like, rule=LabelRule(run_lengths=runs))
    np.testing.assert_array_equal(flat(volume), CLASSES)
    np.testing.assert_array_equal(volume.affine, like.affine)


def test_kaggles_own_columns_are_the_default(tmp_path, save_png):
    like = read_image(save_png(CLASSES))
    (tmp_path / "r.csv").write_text("ImageId,EncodedPixels\na,1 3 5 1\n")
    expected = np.zeros((3, 5), int)
    expected[:, 0] = 1
    expected[1, 1] = 1
    np.testing.assert_array_equal(flat(read_label(tmp_path / "r.csv", like=like)), expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,1 3 5", r"r\.csv:2: 3 numbers; expected pairs"),
        ("a,14 3", r"r\.csv:2: run 14 3 lies outside the image of 3 x 5 pixels"),
        ("a,0 3", "run 0 3 lies outside"),
        ("a,1 x", "are not whole numbers"),
        ("b,1 3", r"no row names a\.png in column ImageId"),
    ],
)
def test_damaged_run_lengths_are_named(tmp_path, save_png, rows, message):
    like = read_image(save_png(CLASSES))
    (tmp_path / "r.csv").write_text(f"ImageId,EncodedPixels\n{rows}\n")
    with pytest.raises(ValueError, match=message):
        read_label(tmp_path / "r.csv", like=like)


def test_run_lengths_need_an_image_and_their_columns(tmp_path, save_png):
    (tmp_path / "r.csv").write_text("id,runs\na,1 3\n")
    with pytest.raises(ValueError, match="need the grid of their image"):
        read_label(tmp_path / "r.csv")
    like = read_image(save_png(CLASSES))
    with pytest.raises(ValueError, match="no column ImageId, EncodedPixels; its columns are id, r"):
        read_label(tmp_path / "r.csv", like=like)


def test_a_rule_comes_from_a_config_section():
    rule = LabelRule.from_mapping(
        {
            "colours": {1: "#ff0000", "2": [0, 255, 0]},
            "tolerance": 10,
            "ignore_label": 255,
            "run_lengths": {"image": "name", "order": "rows"},
        }
    )
    assert rule.colours == {1: (255, 0, 0), 2: (0, 255, 0)}
    assert rule.run_lengths == RunLengths(image="name", order="rows")
    for mapping, message in [
        ({"colors": {}}, "unknown colors; expected some of colours, files"),
        ({"colours": {1: "#ff00"}}, "colour '#ff00' is not #rrggbb"),
        ({"colours": {1: [0, 0, 256]}}, "is not three numbers 0 to 255"),
        ({"colours": {1: [0, 0, 9], 2: [0, 0, 9]}}, "two classes have one colour"),
        ({"colours": [1]}, "a value is of the wrong kind"),
        ({"values": {1: -2}}, "values has class -2"),
        ({"values": {1: 2}, "threshold": 3}, "exclude each other"),
        ({"files": {0: "*"}}, "class 0 is the background"),
        ({"overlap": "first"}, "must be error or later, got 'first'"),
        ({"run_lengths": {"order": "z"}}, "must be columns or rows"),
        ({"unmatched_share": 2}, r"unmatched_share in \[0, 1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            LabelRule.from_mapping(mapping)
