"""Folds: a partition by patient that seed and ids alone decide, and test cases in none of them."""

from dataclasses import replace

import numpy as np
import pytest

from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.split_rule import deal_folds
from samtune.training.folds import fold_of_cases, open_fold


@pytest.mark.parametrize(("number", "folds"), [(5, 5), (7, 2), (23, 4)])
@pytest.mark.parametrize("stratify", [None, "volume", "presence"])
def test_folds_are_a_partition_by_patient(number, folds, stratify, rng):
    cases = [f"case_{i:02}" for i in range(number * 2)]
    patients = {case: f"p{i // 2}" for i, case in enumerate(cases)}  # two cases each
    labels = {case: {int(rng.integers(1, 4)): float(rng.integers(1, 99))} for case in cases}
    given = {"patients": patients, "labels": labels, "stratify": stratify}
    dealt = deal_folds(cases, folds, **given)
    assert list(dealt) == cases
    of_patient = {}
    for case, fold in dealt.items():
        of_patient.setdefault(patients[case], set()).add(fold)
    assert all(len(found) == 1 for found in of_patient.values())
    sizes = np.bincount([found.pop() for found in of_patient.values()], minlength=folds)
    assert len(sizes) == folds
    assert sizes.max() - sizes.min() <= 1
    shuffled = [str(case) for case in rng.permutation(cases)]
    assert deal_folds(shuffled, folds, **given) == dealt


def test_another_seed_deals_in_another_way():
    cases = [f"case_{i}" for i in range(12)]
    assert deal_folds(cases, 3, seed=1) != deal_folds(cases, 3, seed=2)


def test_cases_with_a_class_are_spread_over_the_folds():
    cases = [f"case_{i:02}" for i in range(12)]
    labels = {case: {1: 1.0, 2: 1.0} if i < 3 else {1: 1.0} for i, case in enumerate(cases)}
    dealt = deal_folds(cases, 3, labels=labels, stratify="presence")
    assert {dealt[case] for case in cases[:3]} == {0, 1, 2}


def test_each_case_of_train_and_val_validates_once_and_test_cases_never(tiny_slices):
    before = load_manifest(tiny_slices)
    pool = {case for case, record in before.cases.items() if record.split != "test"}
    validated = []
    for fold in range(3):
        manifest = open_fold(tiny_slices, fold, 3)
        split = {case: record.split for case, record in manifest.cases.items()}
        assert {row.split for row in manifest.slices if row.case in pool} == {"train", "val"}
        assert all(row.split == split[row.case] for row in manifest.slices)
        assert {c for c, name in split.items() if name == "test"} == set(before.cases) - pool
        validated += [case for case, name in split.items() if name == "val"]
    assert sorted(validated) == sorted(pool)
    assert open_fold(tiny_slices) == before


def test_which_fold_does_not_depend_on_which_case_validated_before(tiny_slices):
    before = load_manifest(tiny_slices)
    swap = {"train": "val", "val": "train", "test": "test"}
    cases = {k: replace(one, split=swap[one.split]) for k, one in before.cases.items()}
    assert fold_of_cases(before, 2) == fold_of_cases(replace(before, cases=cases), 2)


@pytest.mark.parametrize(
    ("fold", "folds", "message"),
    [
        (3, 3, "fold must be from 0 to folds - 1, got fold 3 of 3"),
        (-1, 3, "fold must be from 0"),
        (0, 1, "folds must be >= 2, got 1"),
        (0, 9, "splits train and val: split: 4 cases or patients can't fill 9 folds"),
        ("0", 3, "whole numbers, got '0'"),
        (True, 3, "whole numbers, got True"),
    ],
)
def test_wrong_folds(tiny_slices, fold, folds, message):
    with pytest.raises(ValueError, match=message):
        open_fold(tiny_slices, fold, folds)


def test_cases_cropped_round_their_labels_cannot_validate(tiny_slices, monkeypatch):
    manifest = load_manifest(tiny_slices)
    manifest.settings["slicing"] = {"crop_margin": 4}
    monkeypatch.setattr("samtune.training.folds.open_slices", lambda folders: manifest)
    with pytest.raises(ValueError, match="cropped round their labels"):
        open_fold(tiny_slices, 0, 2)
