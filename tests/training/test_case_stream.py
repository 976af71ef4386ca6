import nibabel as nib
import numpy as np
import pytest

from samtune.preprocessing.intensity import Intensity, apply
from samtune.preprocessing.slicing import volume_to_slices
from samtune.training.case_stream import CaseStream, assemble, image_volume, reference_volume


class Recorder(CaseStream):
    def __init__(self):
        super().__init__()
        self.log = []

    def started(self, engine):
        self.log.append("started")

    def finish(self, case, slices):
        self.log.append((case, {k: int(v[0, 0]) for k, v in slices.items()}))

    def ended(self, engine):
        self.log.append("ended")


def filled(value):
    return np.full((2, 3), value)


def test_a_case_is_finished_when_the_next_begins_or_the_epoch_ends(stream):
    slices = [("a", 0, filled(1)), ("a", 2, filled(2)), ("a", 1, filled(3)), ("b", 4, filled(4))]
    engine, recorder = stream(slices, batch_size=3), Recorder()
    recorder.attach(engine)
    engine.run(engine.batches)
    assert recorder.log == ["started", ("a", {0: 1, 2: 2, 1: 3}), ("b", {4: 4}), "ended"]


def test_every_epoch_starts_anew(stream):
    engine, recorder = stream([("a", 0, filled(1))]), Recorder()
    recorder.add("left over", 0, filled(9))  # of an epoch that an error ended
    recorder.attach(engine)
    engine.run(engine.batches, max_epochs=2)
    assert recorder.log == ["started", ("a", {0: 1}), "ended"] * 2


def test_volumes_come_back_on_the_grid_of_each_orientation(tiny_manifest, tiny_volumes):
    orientations = set()
    for case, record in tiny_manifest.cases.items():
        image = nib.load(tiny_volumes / "images" / f"{case}.nii.gz")
        label = np.asarray(nib.load(tiny_volumes / "labels" / f"{case}.nii.gz").dataobj)
        np.testing.assert_array_equal(reference_volume(tiny_manifest, case), label)
        scaled = apply(np.asarray(image.dataobj), Intensity.for_modality("mr"))
        np.testing.assert_array_equal(image_volume(tiny_manifest, case), scaled)
        orientations.add(record.geometry.orientation)
    assert len(orientations) == 6


def test_slices_that_are_missing_are_zero(tiny_manifest):
    geometry = tiny_manifest.cases["case_1"].geometry
    number, height, width = geometry.slices_shape
    volume = assemble({1: np.full((height, width), 3)}, geometry, np.uint8)
    assert volume.dtype == np.uint8
    assert volume.shape == geometry.shape
    expected = np.zeros((number, height, width))
    expected[1] = 3
    np.testing.assert_array_equal(volume_to_slices(volume, geometry), expected)


def test_a_slice_of_another_size_names_the_case(tiny_manifest):
    geometry = tiny_manifest.cases["case_1"].geometry
    with pytest.raises(ValueError, match=r"case 'case_1': slice 2 is \(2, 3\), expected \(21, 23"):
        assemble({2: filled(1)}, geometry, np.uint8)


def test_an_unlabelled_case_has_no_reference(slice_labels):
    manifest = slice_labels({"a": np.ones((4, 5, 3), np.uint8)}, labelled=False)
    with pytest.raises(ValueError, match=r"case 'a' of .* has no label"):
        reference_volume(manifest, "a")
