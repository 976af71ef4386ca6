"""DICOM segmentations and structure sets on the grid of their image."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from samtune.preprocessing.readers.dicom_seg import segment_names
from samtune.preprocessing.readers.label_rule import LabelRule
from samtune.preprocessing.readers.rtstruct import contour_names
from samtune.preprocessing.volumes import read_image, read_label

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"


@pytest.fixture
def label():
    """Two classes on the grid of the real series, none on its outer slices."""
    array = np.zeros((34, 50, 40), np.uint8)
    array[3:9, 10:20, 5:12] = 1
    array[20:30, 30:33, 8:30] = 2
    return array


@pytest.fixture
def save_segmentation(tmp_path):
    hd = pytest.importorskip("highdicom")
    from highdicom.sr.coding import CodedConcept

    def save(folder, planes, kind="BINARY", names=("Anterior", "Posterior")):
        """``planes``: bool slice row column segment, or fractions."""
        sources = [pydicom.dcmread(path) for path in folder.iterdir()]
        sources.sort(key=lambda source: source.ImagePositionPatient[2])
        for source in sources:  # the anonymised series lacks or misspells them
            source.StudyTime = "120000"
            source.PatientSex = "O"
            source.PatientBirthDate = ""
        concept = CodedConcept("85756007", "SCT", "Tissue")
        described = [
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=concept,
                segmented_property_type=concept,
                algorithm_type="MANUAL",
            )
            for number, name in enumerate(names, start=1)
        ]
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=planes,
            segmentation_type=kind,
            segment_descriptions=described,
            series_instance_uid=hd.UID(),
            series_number=9,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="none",
            manufacturer_model_name="none",
            software_versions="0",
            device_serial_number="0",
        )
        path = tmp_path / "seg.dcm"
        segmentation.save_as(path)
        return path

    return save


def stacked(label):
    """Slice row column segment."""
    return np.stack([label == 1, label == 2], axis=-1).transpose(2, 1, 0, 3).astype(np.uint8)


@pytest.mark.filterwarnings("ignore")  # highdicom's, on the anonymised headers
def test_a_segmentation_is_put_on_the_grid_of_its_image(real_series, save_segmentation, label):
    path = save_segmentation(real_series, stacked(label))
    image = read_image(real_series)
    volume = read_label(path, like=image)
    np.testing.assert_array_equal(volume.array, label)
    np.testing.assert_array_equal(volume.affine, image.affine)
    assert segment_names(path) == {1: "Anterior", 2: "Posterior"}
    alone = read_label(path)  # the slices that hold an object
    np.testing.assert_array_equal(alone.array, label[:, :, 5:30])
    np.testing.assert_allclose(alone.affine[:3, 3], (0, 0, image.affine[2, 3] + 5))
    rule = LabelRule(structures={7: "post*"})
    np.testing.assert_array_equal(read_label(path, like=image, rule=rule).array, 7 * (label == 2))
    with pytest.raises(ValueError, match=r"no structure is called 'liver'; found 1: 'Anterior'"):
        read_label(path, like=image, rule=LabelRule(structures={1: "liver"}))


@pytest.mark.filterwarnings("ignore")
def test_a_segmentation_is_put_on_a_flipped_grid_and_refused_on_another(
    real_series, save_segmentation, label, tmp_path, save_volume
):
    path = save_segmentation(real_series, stacked(label))
    image = read_image(real_series)
    # axes of the new grid: slices, rows, columns; it starts at the last column
    to_new = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 33], [0, 0, 0, 1.0]])
    other = save_volume(
        tmp_path / "o.nii", np.zeros((40, 50, 34), np.uint8), image.affine @ np.linalg.inv(to_new)
    )
    volume = read_label(path, like=read_image(other))
    np.testing.assert_array_equal(volume.array, label.transpose(2, 1, 0)[:, :, ::-1])
    coarse = save_volume(
        tmp_path / "c.nii", np.zeros((17, 25, 20), np.uint8), image.affine @ np.diag([2, 2, 2, 1.0])
    )
    with pytest.raises(ValueError, match=r"seg\.dcm: its voxels .* are not those of the image c"):
        read_label(path, like=read_image(coarse))
    small = save_volume(tmp_path / "s.nii", np.zeros((10, 50, 40), np.uint8), image.affine)
    with pytest.raises(ValueError, match=r"has objects outside the image s\.nii"):
        read_label(path, like=read_image(small))


@pytest.mark.filterwarnings("ignore")
def test_segments_that_overlap_and_fractions_are_refused(real_series, save_segmentation, label):
    planes = stacked(label)
    planes[10, 12, 5, 1] = planes[11, 12, 5, 1] = 1
    path = save_segmentation(real_series, planes)
    with pytest.raises(ValueError, match="segment 2 overlaps an earlier class in 2 voxels"):
        read_label(path)
    expected = label.copy()
    expected[5, 12, 10:12] = 2
    later = read_label(path, like=read_image(real_series), rule=LabelRule(overlap="later"))
    np.testing.assert_array_equal(later.array, expected)
    path = save_segmentation(real_series, stacked(label) * 0.5, kind="FRACTIONAL")
    with pytest.raises(ValueError, match="a fractional segmentation; expected a binary one"):
        read_label(path)


@pytest.mark.filterwarnings("ignore")
def test_a_segmentation_beside_the_series_is_no_slice_of_it(
    copied_series, save_segmentation, label
):
    path = save_segmentation(copied_series, stacked(label))
    path.rename(copied_series / "seg.dcm")
    image = read_image(copied_series)
    assert image.shape == (34, 50, 40)
    np.testing.assert_array_equal(read_label(copied_series, like=image).array, label)


def structure_set(path, make_dicom_file, regions):
    """``regions``: number to (name, [(type, points in LPS mm)])."""
    rois, contours = [], []
    for number, (name, drawn) in regions.items():
        roi, item = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        item.ReferencedROINumber = number
        item.ContourSequence = Sequence()
        for kind, points in drawn:
            contour = Dataset()
            contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{value:.6g}" for value in np.ravel(points)]
            item.ContourSequence.append(contour)
        rois.append(roi)
        contours.append(item)
    make_dicom_file(
        path,
        np.zeros((1, 2), np.uint8),
        SOPClassUID=RTSTRUCT,
        Modality="RTSTRUCT",
        StructureSetROISequence=Sequence(rois),
        ROIContourSequence=Sequence(contours),
    )
    dataset = pydicom.dcmread(path)
    del dataset.Rows, dataset.Columns, dataset.PixelData
    dataset.save_as(path)
    return path


def rectangle(columns, rows, depth, affine_lps):
    """Corners half a voxel outside the columns and rows given, first and last included."""
    (left, right), (top, bottom) = columns, rows
    corners = [
        (left - 0.5, top - 0.5, depth),
        (right + 0.5, top - 0.5, depth),
        (right + 0.5, bottom + 0.5, depth),
        (left - 0.5, bottom + 0.5, depth),
    ]
    return np.array(corners) @ affine_lps[:3, :3].T + affine_lps[:3, 3]


@pytest.fixture
def image(tmp_path, make_dicom_series):
    """An oblique series of 12 columns, 10 rows, 5 slices."""
    a = np.deg2rad(25)
    turned = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])
    array = np.zeros((12, 10, 5), np.int16)
    return read_image(make_dicom_series(tmp_path / "image", array, turned))


def test_contours_are_filled_on_the_grid_with_holes(tmp_path, make_dicom_file, image):
    lps = np.diag([-1.0, -1, 1, 1]) @ image.affine
    path = structure_set(
        tmp_path / "rt.dcm",
        make_dicom_file,
        {
            3: (
                "Liver",
                [
                    ("CLOSED_PLANAR", rectangle((2, 9), (1, 8), 1, lps)),
                    ("CLOSED_PLANAR", rectangle((4, 6), (3, 5), 1, lps)),  # a hole
                    ("CLOSED_PLANAR", rectangle((2, 3), (1, 8), 2.1, lps)),
                    ("POINT", rectangle((2, 3), (1, 8), 2, lps)[:1]),
                ],
            ),
            8: ("Spleen", [("CLOSED_PLANAR", rectangle((5, 5), (5, 6), 4, lps))]),
        },
    )
    expected = np.zeros((12, 10, 5), np.uint8)
    expected[2:10, 1:9, 1] = 3
    expected[4:7, 3:6, 1] = 0
    expected[2:4, 1:9, 2] = 3
    expected[5, 5:7, 4] = 8
    volume = read_label(path, like=image)
    np.testing.assert_array_equal(volume.array, expected)
    np.testing.assert_array_equal(volume.affine, image.affine)
    assert volume.notes == ("1 points or open contours of region 3 were left out",)
    assert contour_names(path) == {3: "Liver", 8: "Spleen"}
    rule = LabelRule(structures={1: "spleen"})
    np.testing.assert_array_equal(read_label(path, like=image, rule=rule).array, expected == 8)
    rule = LabelRule(values={3: 1, 8: 2})
    values = read_label(path, like=image, rule=rule).array
    np.testing.assert_array_equal(values, np.select([expected == 3, expected == 8], [1, 2], 0))
    with pytest.raises(ValueError, match="contours need the grid of their image"):
        read_label(path)


def test_a_triangle_holds_the_voxels_whose_centres_are_inside(tmp_path, make_dicom_file, image):
    lps = np.diag([-1.0, -1, 1, 1]) @ image.affine
    corners = np.array([(0.7, 0.2, 3), (10.3, 4.4, 3), (3.1, 9.3, 3)])
    points = corners @ lps[:3, :3].T + lps[:3, 3]
    path = structure_set(
        tmp_path / "rt.dcm", make_dicom_file, {1: ("A", [("CLOSED_PLANAR", points)])}
    )
    expected = np.zeros(image.shape, bool)
    for i in range(12):
        for j in range(10):
            sides = []  # on one side of all three edges
            for first, second in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                edge, to = second - first, np.array([i, j, 3]) - first
                sides.append(edge[0] * to[1] - edge[1] * to[0] > 0)
            expected[i, j, 3] = all(sides) or not any(sides)
    np.testing.assert_array_equal(read_label(path, like=image).array, expected)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (1.5, r"lies at slice 1\.50 of axis 2"),
        (7, r"lies on slice 7 of axis 2; .* has 5"),
    ],
)
def test_contours_off_the_slices_are_refused(tmp_path, make_dicom_file, image, depth, message):
    lps = np.diag([-1.0, -1, 1, 1]) @ image.affine
    drawn = [("CLOSED_PLANAR", rectangle((2, 9), (1, 8), depth, lps))]
    path = structure_set(tmp_path / "rt.dcm", make_dicom_file, {1: ("A", drawn)})
    with pytest.raises(ValueError, match=message):
        read_label(path, like=image)


def test_regions_that_overlap_are_refused_and_so_is_a_broken_contour(
    tmp_path, make_dicom_file, image
):
    lps = np.diag([-1.0, -1, 1, 1]) @ image.affine
    drawn = [("CLOSED_PLANAR", rectangle((2, 3), (1, 2), 1, lps))]
    path = structure_set(tmp_path / "rt.dcm", make_dicom_file, {1: ("A", drawn), 2: ("B", drawn)})
    with pytest.raises(ValueError, match="region 2 overlaps an earlier class in 4 voxels"):
        read_label(path, like=image)
    short = [("CLOSED_PLANAR", drawn[0][1][:2])]
    path = structure_set(tmp_path / "rt.dcm", make_dicom_file, {1: ("A", short)})
    with pytest.raises(ValueError, match="a closed contour of 6 numbers"):
        read_label(path, like=image)
