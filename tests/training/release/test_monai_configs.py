"""The expressions of MONAI's pipeline against the steps that they stand for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from samtune.preprocessing.intensity import Intensity, apply
from samtune.preprocessing.slice_transforms import ToClassMapd
from samtune.training.release.monai_configs import _intensity, _labels, obstacles
from samtune.training.run_folder import TrainedRun
from samtune.training.task import make_task


def function(expression):
    return eval(expression.removeprefix("$"), {"np": np, "torch": torch})


def volumes(rng):
    yield rng.normal(100, 80, (5, 6, 7)).astype(np.float32)
    yield rng.integers(0, 3000, (4, 5, 6)).astype(np.int16)
    yield -rng.integers(1, 50, (4, 5, 6)).astype(np.int16)  # nothing above 0
    yield np.where(rng.random((4, 5, 6)) < 0.5, 0, 9).astype(np.int16)  # one value above 0
    yield np.full((2, 3, 4), 5, np.int16)


@pytest.mark.parametrize(
    "intensity",
    [
        Intensity.for_modality("mr"),
        Intensity.for_modality("mr", percentiles=(5, 90)),
        Intensity.for_modality("ct"),
        Intensity.for_modality("ct", preset="lung"),
    ],
)
def test_intensity_is_that_of_the_slicer(intensity, rng):
    scale = function(_intensity(intensity.to_dict()))
    for array in volumes(rng):
        found = scale(torch.from_numpy(array.astype(np.float32))[None])
        np.testing.assert_array_equal(found.numpy()[0], apply(array, intensity))


@pytest.fixture
def run(tmp_path):
    record = {
        "settings": {},
        "data": {"intensity": Intensity.for_modality("mr").to_dict(), "axis": "auto"},
    }
    return TrainedRun(tmp_path, record, make_task({1: "a", 3: "b"}))


def test_labels_are_those_of_predict(run, generator):
    logits = torch.randn(3, 4, 5, 2, generator=generator)
    logits[0] = 0
    overlapping = make_task(
        {1: "a", 3: "b"},
        activation="sigmoid",
        channels={"whole": [1, 3], "core": [3]},
        region_order=[1, 3],
    )
    for task in (run.task, overlapping):
        found = function(_labels(replace(run, task=task), [0, *(task.paint or task.class_values)]))
        read = ToClassMapd(task.class_values, task.paint).read
        assert found(logits).dtype == torch.uint8  # MONAI Label writes it as it is
        for index in range(2):
            expected = read(logits[..., index])
            np.testing.assert_array_equal(found(logits)[0, ..., index], expected)
            assert set(np.unique(expected)) == {0, 1, 3}


def test_what_monai_can_t_do_is_named(run):
    assert obstacles(run, [2]) == []
    assert obstacles(run, [0, 2]) == ["cases cut along different axes [0, 2]"]
    data = run.record["data"]
    data["intensity"] = Intensity.for_modality("rgb", bits=16, scope="slice").to_dict()
    data["slicing"] = {"tile_size": 64, "crop_margin": 3}
    run.record["settings"]["neighbours"] = 1
    assert obstacles(run, [2]) == [
        "modality rgb",
        "intensity limits of each slice",
        "preset medsam or 16 bits",
        "slicing tile_size",
        "neighbouring slices as channels (neighbours)",
    ]
