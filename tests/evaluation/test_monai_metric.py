"""The metric and handler against MONAI's own and the functions on arrays."""

import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.metrics import DiceMetric, HausdorffDistanceMetric

from samtune.evaluation.metrics import score_masks
from samtune.evaluation.monai_metric import METRICS, SegmentationScores, SegmentationScoresHandler

SPACING = (0.5, 1.0, 2.0)


def one_hot(seed, batch=2):
    """``b c x y z``: background and two touching boxes, class 2 absent in the last item."""
    masks = torch.zeros(batch, 3, 9, 8, 7)
    masks[:, 1, 1 : 4 + seed, 2:6, 1:5] = 1
    masks[:-1, 2, 4 + seed : 8, 2:6, 1:5] = 1
    masks[:, 0] = 1 - masks[:, 1:].sum(1)
    return masks


def test_values_are_those_of_the_functions_on_arrays():
    pred, ref = one_hot(1), one_hot(0)
    metric = SegmentationScores(include_background=False, metrics=METRICS, spacing=SPACING)
    found = metric(pred, ref)
    assert [tuple(values.shape) for values in found] == [(2, 2)] * len(METRICS)
    for item in range(2):
        for channel in (1, 2):
            expected = score_masks(
                pred[item, channel].numpy() > 0,
                ref[item, channel].numpy() > 0,
                spacing=SPACING,
                cldice=True,
            )
            wanted = [
                expected.dice, expected.iou, expected.nsd[1.0], expected.hd95_mm, expected.assd_mm,
                expected.sensitivity, expected.precision, expected.cldice,
            ]  # fmt: skip
            values = [float(tensor[item, channel - 1]) for tensor in found]
            assert values == pytest.approx(wanted, rel=1e-6, nan_ok=True)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.filterwarnings("ignore:the .* of class .* is all 0:UserWarning")
def test_means_are_monais_by_its_definition():
    batches = [(one_hot(1), one_hot(0)), (one_hot(0), one_hot(2))]
    ours = SegmentationScores(
        include_background=False, metrics=["dice", "hd95"], spacing=SPACING, definition="monai"
    )
    dice = DiceMetric(include_background=False, reduction="mean_batch")
    hd95 = HausdorffDistanceMetric(percentile=95, reduction="mean_batch")
    for pred, ref in batches:
        ours(list(pred), list(ref))  # the list form
        dice(pred, ref)
        hd95(pred, ref, spacing=SPACING)
    found = ours.aggregate()
    torch.testing.assert_close(found["dice_per_class"], dice.aggregate())
    torch.testing.assert_close(found["hd95_per_class"], hd95.aggregate())
    assert found["dice_n"].tolist() == [4, 2]  # class 2 is in neither mask of two items
    assert found["dice"] == pytest.approx(float(dice.aggregate().mean()))
    ours.reset()
    with pytest.raises(ValueError, match="no case was scored"):
        ours.aggregate()


def test_an_empty_prediction_stays_infinite():
    metric = SegmentationScores(include_background=True, metrics=["hd95"], spacing=(1, 1))
    metric(torch.zeros(1, 1, 5, 5), torch.ones(1, 1, 5, 5))
    metric(torch.ones(1, 1, 5, 5), torch.ones(1, 1, 5, 5))
    assert metric.aggregate()["hd95"] == math.inf


def test_handler_puts_each_metric_into_the_engine_state():
    affine = torch.from_numpy(np.diag([*SPACING, 1.0]))

    def step(engine, batch):
        pred, ref = batch
        return [MetaTensor(p, affine=affine) for p in pred], [
            MetaTensor(r, affine=affine) for r in ref
        ]

    engine = Engine(step)
    SegmentationScoresHandler(include_background=False, metrics=["nsd", "hd95"]).attach(
        engine, "scores"
    )
    engine.run([(one_hot(1), one_hot(0))])
    expected = SegmentationScores(
        include_background=False, metrics=["nsd", "hd95"], spacing=SPACING
    )
    expected(one_hot(1), one_hot(0))
    for name, value in expected.aggregate().items():
        found = engine.state.metrics[name]
        torch.testing.assert_close(torch.as_tensor(found), value, check_dtype=False)
    assert len(engine.state.metric_details["scores"]) == 2


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"metrics": ["dsc"]}, r"metrics \['dsc'\]: expected some of dice"),
        ({"tolerance_mm": -1}, "tolerances"),
        ({"definition": "medpy"}, "definition 'medpy'"),
    ],
)
def test_wrong_options_are_refused(options, found):
    with pytest.raises(ValueError, match=found):
        SegmentationScores(include_background=False, **options)


def test_wrong_input_is_refused():
    metric = SegmentationScores(include_background=False)
    masks = one_hot(0)
    with pytest.raises(ValueError, match="no spacing"):
        metric(masks, masks)
    with pytest.raises(ValueError, match="other values than 0 and 1"):
        metric(masks * 0.5, masks, spacing=SPACING)
    with pytest.raises(ValueError, match=r"\(2, 2, 9, 8, 7\), y \(2, 3"):
        metric(masks[:, 1:], masks, spacing=SPACING)
    with pytest.raises(ValueError, match="1 channel and include_background"):
        metric(masks[:, :1], masks[:, :1], spacing=SPACING)
