from pathlib import Path

import pytest

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.source_splits import (
    check_patients,
    complete_split,
    patients_in_two_splits,
    split_sources,
)
from samtune.preprocessing.splits import split_cases

RATIO = (0.5, 0.25, 0.25)
EYES = [
    CaseSource(f"{n:02d}{eye}", (Path("x"),), patient=f"{n:02d}") for n in range(8) for eye in "LR"
]


def test_both_eyes_are_in_one_split():
    split = split_sources(EYES, ratio=RATIO)
    assert all(split[f"{n:02d}L"] == split[f"{n:02d}R"] for n in range(8))
    assert sorted(split.values()) == ["test"] * 4 + ["train"] * 8 + ["val"] * 4


def test_without_patients_the_split_is_the_usual_one():
    plain = [CaseSource(one.case, one.images) for one in EYES]
    assert split_sources(plain, ratio=RATIO, seed=3) == split_cases(
        [one.case for one in plain], ratio=RATIO, seed=3
    )


def test_numbers_of_cases_cannot_be_asked_for_with_patients():
    with pytest.raises(ValueError, match="joined by patient, so their numbers can't be chosen"):
        split_sources(EYES, ratio=RATIO, counts=(8, 4, 4))


def test_cases_without_split_fill_the_splits_that_are_missing():
    given = {"00L": "test", "00R": "test"}
    split, rule = complete_split(EYES, given, ratio=(0.7, 0.1, 0.2), seed=0)
    assert split["00L"] == split["00R"] == "test"
    rest = [split[one.case] for one in EYES[2:]]
    assert set(rest) == {"train", "val"}
    assert rule == {"rule": "given", "ratio": [0.7, 0.1, 0.0], "seed": 0}


def test_a_patient_in_train_and_test_is_refused():
    given = {"00L": "train", "00R": "test"}
    text = "patient '00' is in several (00L: train, 00R: test)"
    assert patients_in_two_splits(EYES, given) == [text]
    with pytest.raises(ValueError, match="expected all cases of a patient in one split"):
        check_patients(EYES, given)
    with pytest.raises(ValueError, match="patient '00'"):
        complete_split(EYES, {"00L": "test"}, ratio=(1, 0, 0), seed=0)  # 00R would be train


def test_a_case_is_its_own_patient_even_if_it_is_called_like_one():
    cases = [CaseSource("a", (Path("x"),), patient="b"), CaseSource("b", (Path("y"),))]
    assert sorted(split_sources(cases, ratio=(0.5, 0.5, 0)).values()) == ["train", "val"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", (Path("x"),)), "case '' with 1 images"),
        (("a", ()), "case 'a' with 0 images"),
        (("a", (Path("x"),), (), "dev"), "split is 'dev'; expected train"),
    ],
)
def test_a_case_without_a_meaning_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CaseSource(*arguments)
