"""Multi-frame DICOM: OCT volumes, enhanced MR, films, and files without a position."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from samtune.preprocessing.volumes import read_grid, read_image

OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
FRAMES = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)  # frame row column


def groups(make_item, positions, slopes=None):
    """Per-frame functional groups."""
    frames = []
    for index, position in enumerate(positions):
        frame = Dataset()
        frame.PlanePositionSequence = make_item(ImagePositionPatient=list(position))
        if slopes is not None:
            frame.PixelValueTransformationSequence = make_item(
                RescaleSlope=slopes[index], RescaleIntercept=index
            )
        frames.append(frame)
    return Sequence(frames)


def shared(make_item, spacing, thickness=None):
    measures = make_item(PixelSpacing=spacing)
    if thickness is not None:
        measures[0].SliceThickness = thickness
    return make_item(
        PlaneOrientationSequence=make_item(ImageOrientationPatient=[1, 0, 0, 0, 0, 1]),
        PixelMeasuresSequence=measures,
    )


def oct_file(path, make_dicom_file, make_item, positions, **elements):
    """B-scans of 6 rows in depth (z) and 5 columns (x), stacked along y."""
    return make_dicom_file(
        path,
        elements.pop("pixels", FRAMES),
        SOPClassUID=OPT,
        Modality="OPT",
        PerFrameFunctionalGroupsSequence=groups(make_item, positions, elements.pop("slopes", None)),
        SharedFunctionalGroupsSequence=shared(make_item, [0.004, 0.012]),
        **elements,
    )


POSITIONS = [(0, -0.25 * n, 0) for n in range(4)]  # the normal x cross z is -y


def test_an_oct_volume_has_its_bscans_in_order_with_their_spacing(
    tmp_path, make_dicom_file, make_item
):
    shuffle = [2, 0, 3, 1]
    path = oct_file(
        tmp_path / "a.dcm",
        make_dicom_file,
        make_item,
        [POSITIONS[n] for n in shuffle],
        pixels=FRAMES[shuffle],
    )
    volume = read_image(path)
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array, FRAMES.transpose(2, 1, 0))
    assert volume.spacing == (0.012, 0.004, 0.25)
    expected = np.zeros((4, 4))
    expected[0, 0], expected[2, 1], expected[1, 2], expected[3, 3] = -0.012, 0.004, 0.25, 1
    np.testing.assert_allclose(volume.affine, expected, atol=1e-9)
    np.testing.assert_array_equal(read_image(tmp_path).array, volume.array)  # a folder of one file


def test_frames_have_their_own_rescale(tmp_path, make_dicom_file, make_item):
    slopes = [1.0, 0.5, 2.0, 3.0]
    path = oct_file(tmp_path / "a.dcm", make_dicom_file, make_item, POSITIONS, slopes=slopes)
    expected = FRAMES * np.reshape(slopes, (4, 1, 1)) + np.arange(4).reshape(4, 1, 1)
    np.testing.assert_array_equal(read_image(path).array, expected.transpose(2, 1, 0))


def test_frames_at_one_position_and_missing_frames_are_named(tmp_path, make_dicom_file, make_item):
    twice = [POSITIONS[0], POSITIONS[0], POSITIONS[1], POSITIONS[2]]
    path = oct_file(tmp_path / "a.dcm", make_dicom_file, make_item, twice)
    with pytest.raises(ValueError, match="occur more than once: 0 mm"):
        read_image(path)
    gap = [*POSITIONS[:2], (0, -0.75, 0), (0, -1.0, 0)]
    path = oct_file(tmp_path / "b.dcm", make_dicom_file, make_item, gap)
    with pytest.raises(ValueError, match=r"1 slices are missing, at 0\.5 mm"):
        read_image(path)


def test_enhanced_frames_without_their_positions_are_refused(tmp_path, make_dicom_file, make_item):
    path = oct_file(tmp_path / "a.dcm", make_dicom_file, make_item, POSITIONS[:3])
    with pytest.raises(ValueError, match="1 of 4 frames have no position"):
        read_image(path)


def test_one_slice_is_as_thick_as_its_header_says(tmp_path, make_dicom_file):
    path = make_dicom_file(
        tmp_path / "a.dcm",
        FRAMES[0],
        ImagePositionPatient=[1, 2, 3],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[0.5, 0.75],
        SliceThickness=4,
    )
    assert read_image(path).shape == (5, 6, 1)
    assert read_grid(path).spacing == (0.75, 0.5, 4.0)


def test_frames_of_a_film_are_moments_one_of_which_is_chosen(tmp_path, make_dicom_file):
    path = make_dicom_file(tmp_path / "a.dcm", FRAMES, Modality="XA", ImagerPixelSpacing=[0.3, 0.2])
    with pytest.raises(ValueError, match=r"choice of one of its 4 frames: 0, 1, 2, 3"):
        read_image(path)
    volume = read_image(path, frame=2)
    np.testing.assert_array_equal(volume.array, FRAMES[2][:, :, np.newaxis])
    assert volume.spacing == (0.3, 0.2, 0.3)
    assert volume.has_spacing


def test_frames_without_positions_are_pages_as_in_a_tiff_stack(tmp_path, make_dicom_file):
    path = make_dicom_file(tmp_path / "a.dcm", FRAMES, Modality="OPT")
    volume = read_image(path)
    np.testing.assert_array_equal(volume.array, FRAMES.transpose(1, 2, 0))
    assert (volume.spacing, volume.has_spacing) == ((1, 1, 1), False)


def test_a_colour_photograph_keeps_its_colours(tmp_path, make_dicom_file, rng):
    pixels = rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)
    volume = read_image(make_dicom_file(tmp_path / "a.dcm", pixels, Modality="OP"))
    np.testing.assert_array_equal(volume.array, pixels[:, :, np.newaxis])
    assert volume.channels == 3


def test_a_look_up_table_is_refused(tmp_path, make_dicom_file, make_item):
    path = make_dicom_file(
        tmp_path / "a.dcm",
        FRAMES[0],
        ModalityLUTSequence=make_item(LUTExplanation="x"),
    )
    with pytest.raises(ValueError, match="modality look-up table"):
        read_image(path)
