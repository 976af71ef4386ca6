import nibabel as nib
import numpy as np
import pytest
import torch

from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.model_frame import image_to_frame, logits_to_slice
from samtune.preprocessing.prepare import prepare_case
from samtune.preprocessing.slicing import slices_to_volume
from samtune.preprocessing.volumes import read_volume
from samtune.training.predict import predict
from samtune.training.run_folder import load_run


@pytest.fixture(scope="module")
def scans(tiny_volumes):
    return [tiny_volumes / "images" / f"case_{i}.nii.gz" for i in (1, 3)]


@pytest.fixture(scope="module")
def written(loud_run, scans, tmp_path_factory):
    return predict(loud_run, scans, tmp_path_factory.mktemp("pred"), device="cpu")


def test_label_files_have_name_shape_affine_and_codes_of_the_scans(written, scans):
    assert [path.name for path in written] == [scan.name for scan in scans]
    for path, scan in zip(written, scans, strict=True):
        label, image = nib.load(path), nib.load(scan)
        assert label.shape == image.shape
        assert label.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(label.affine, image.affine)
        for key in ("sform_code", "qform_code", "xyzt_units"):
            assert label.header[key] == image.header[key], key
        assert (int(label.header["sform_code"]), int(label.header["qform_code"])) == (1, 2)
        assert set(np.unique(np.asarray(label.dataobj))) == {0, 1, 3}  # the task's own values


def test_prediction_is_argmax_of_logits_resized_to_each_slice(loud_run, written, scans):
    network = load_run(loud_run).network()
    volume = read_volume(scans[1])
    slices, geometry = prepare_case(
        volume, case="x", intensity=Intensity.for_modality("mr"), axis=None
    )
    expected = []
    for image in slices:
        frame = image_to_frame(torch.from_numpy(image)[None], 128, "medsam")
        with torch.no_grad():
            logits = logits_to_slice(network(frame[None])[0], image.shape)
        expected.append(np.array([0, 1, 3])[logits.argmax(0).numpy()])
    label = np.asarray(nib.load(written[1]).dataobj)
    same = label == slices_to_volume(np.stack(expected), geometry)
    assert same.mean() > 0.999  # a tie may fall the other way in a batch of another size


def test_batch_size_and_neighbours_change_nothing_that_matters(loud_run, written, scans, tmp_path):
    (alone,) = predict(loud_run, scans[1], tmp_path, device="cpu", batch_size=3)
    one, other = (np.asarray(nib.load(path).dataobj) for path in (alone, written[1]))
    assert (one == other).mean() > 0.999


def test_last_adapter_is_another_one(loud_run, written, scans, tmp_path):
    (path,) = predict(loud_run, [scans[0]], tmp_path, adapter="last", device="cpu", progress=False)
    best, last = (np.asarray(nib.load(file).dataobj) for file in (written[0], path))
    assert (best != last).any()


def test_what_is_wrong_is_said_before_anything_is_written(tiny_run, scans, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        predict(tmp_path, scans, out)
    with pytest.raises(ValueError, match="'cuda:9' is not on this machine"):
        predict(tiny_run.path, scans, out, device="cuda:9")
    with pytest.raises(ValueError, match="would be overwritten by its prediction"):
        predict(tiny_run.path, scans, scans[0].parent, device="cpu")
    with pytest.raises(FileNotFoundError, match=r"nothing.pth' does not exist"):
        predict(tiny_run.path, scans, out, checkpoint="nothing.pth", device="cpu")
    assert not out.exists()
