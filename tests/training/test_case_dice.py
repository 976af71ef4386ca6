import math

import numpy as np
import pytest

from samtune.training.case_dice import CaseDice
from samtune.training.task import make_task

TASK = make_task({1: "front", 3: "back"})


def label_of(*boxes):
    """4 x 6 x 3 voxels in RAS order, (value, slice, columns) filled over all rows."""
    label = np.zeros((4, 6, 3), np.uint8)
    for value, index, columns in boxes:
        label[:, columns, index] = value
    return label


def slices_of(case, label):
    """As an evaluator gives them: axis 2 is cut, H and W are the other two."""
    return [(case, index, label[:, :, index]) for index in range(label.shape[2])]


@pytest.fixture
def evaluate(slice_labels, stream):
    """Dice of predictions, both given in RAS order by case; the files lie in other orientations."""

    def call(labels, preds):
        metric = CaseDice(slice_labels(labels), TASK)
        engine = stream([s for case, pred in preds.items() for s in slices_of(case, pred)], 2)
        metric.attach(engine, "val_dice")
        state = engine.run(engine.batches)
        return metric, state.metrics["val_dice"]

    return call


def test_mean_over_classes_of_the_mean_over_cases(evaluate):
    a = label_of((1, 0, slice(0, 2)), (3, 1, slice(0, 4)))
    b = label_of((1, 1, slice(0, 4)), (3, 2, slice(0, 1)))
    pred_a = label_of((1, 0, slice(0, 1)), (3, 1, slice(0, 4)))  # 2 * 4 / (4 + 8), 1
    pred_b = label_of((1, 1, slice(2, 6)), (3, 0, slice(0, 1)))  # 2 * 8 / (16 + 16), 0
    metric, value = evaluate({"a": a, "b": b}, {"a": pred_a, "b": pred_b})
    assert metric.class_names == ["front", "back"]
    assert metric.per_case == {
        "a": {"front": pytest.approx(2 / 3), "back": 1.0},
        "b": {"front": pytest.approx(0.5), "back": 0.0},
    }
    assert metric.per_class == {"front": pytest.approx(7 / 12), "back": 0.5}
    assert value == pytest.approx((7 / 12 + 0.5) / 2)


def test_a_class_in_neither_mask_is_left_out(evaluate):
    only_front = label_of((1, 0, slice(0, 2)))
    both = label_of((1, 0, slice(0, 2)), (3, 1, slice(0, 2)))
    half = label_of((1, 0, slice(0, 2)), (3, 1, slice(1, 3)))
    metric, value = evaluate({"a": only_front, "b": both}, {"a": only_front, "b": half})
    assert math.isnan(metric.per_case["a"]["back"])
    assert metric.per_class == {"front": 1.0, "back": 0.5}  # of case b alone
    assert value == 0.75


def test_a_class_in_one_mask_is_zero(evaluate):
    front, back = label_of((1, 0, slice(0, 2))), label_of((3, 0, slice(0, 2)))
    metric, value = evaluate({"a": front}, {"a": back})
    assert metric.per_class == {"front": 0.0, "back": 0.0}
    assert value == 0


def test_a_class_of_no_case_is_left_out_of_the_mean(evaluate):
    front = label_of((1, 0, slice(0, 2)))
    metric, value = evaluate({"a": front}, {"a": front})
    assert math.isnan(metric.per_class["back"])
    assert value == 1


def test_slices_that_were_not_seen_count_as_empty(slice_labels, stream):
    label = label_of((1, 0, slice(0, 2)), (1, 2, slice(0, 2)))
    metric = CaseDice(slice_labels({"a": label}), TASK)
    engine = stream(slices_of("a", label)[:1])
    metric.attach(engine, "dice")
    engine.run(engine.batches)
    assert metric.per_case["a"]["front"] == pytest.approx(2 / 3)  # half of the label


def test_each_epoch_forgets_the_last(slice_labels, stream):
    label = label_of((1, 0, slice(0, 2)))
    manifest = slice_labels({"a": label, "b": label})
    metric = CaseDice(manifest, TASK)
    first, second = stream(slices_of("a", label)), stream(slices_of("b", np.zeros_like(label)))
    for engine in (first, second):
        metric.attach(engine, "dice")
        engine.run(engine.batches)
    assert metric.per_case.keys() == {"b"}
    assert second.state.metrics["dice"] == 0
