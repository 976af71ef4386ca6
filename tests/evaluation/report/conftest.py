"""A run of ten cases and two classes, made by hand; every case shows the same small volume."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from samtune.evaluation.report import CaseScore, CaseVolume, RunFacts, parse_scores

HEADER = "case,label,name,status,dice,iou,nsd_1mm,hd95_mm,volume_ref_ml,volume_pred_ml\n"


@pytest.fixture
def scores_of() -> Callable[..., list[CaseScore]]:
    """Lines of a metrics table, read."""

    def read(*lines: str, header: str = HEADER) -> list[CaseScore]:
        return parse_scores(header + "".join(f"{line}\n" for line in lines), "metrics_test.csv")

    return read


@pytest.fixture
def volume() -> Callable[..., CaseVolume]:
    """Slices 12 high and 20 wide; class 1 is largest in slice 2, class 2 only in slice 3."""

    def make(slices: int = 5, *, prediction: bool = True) -> CaseVolume:
        label = np.zeros((slices, 12, 20), np.uint8)
        for index, size in ((1, 2), (2, 5), (3, 3)):
            if index < slices:
                label[index, 2 : 2 + size, 3 : 3 + size] = 1
        if slices > 3:
            label[3, 8:10, 12:15] = 2
        image = np.random.default_rng(0).integers(0, 255, label.shape, np.uint8)
        pred = np.roll(label, 1, 2) if prediction else None
        return CaseVolume(image, label, pred, (1.0, 2.0))

    return make


@pytest.fixture
def facts(scores_of: Callable[..., list[CaseScore]], volume: Callable[..., CaseVolume]) -> RunFacts:
    lines = [
        f"case_{i},{label},{name},ok,{0.5 + 0.01 * i + 0.1 * int(label)},0.5,0.7,{3 - 0.1 * i},1,1"
        for i in range(10)
        for label, name in (("1", "front"), ("2", "back"))
    ]
    return RunFacts(
        name="lora",
        scores=scores_of(*lines),
        overview={"backbone": "lite_medsam"},
        curve={
            "epoch": [1.0, 2.0],
            "train_loss": [1.5, 0.5],
            "val_dice": [math.nan, 0.75],
            "val_dice_front": [math.nan, 0.8],
        },
        parameters={"trainable": 1000, "total": 4000},
        settings={"peft.rank": "8"},
        versions={"torch": "2.15.0"},
        protocol={"adapter": "best"},
        load_case=lambda case: volume(),
    )
