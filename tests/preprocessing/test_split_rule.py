from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.split_rule import SplitRule, label_volumes
from samtune.preprocessing.splits import SPLITS, split_cases

CASES = [f"case_{number:02d}" for number in range(40)]
EYES = [f"p{number:02d}_{eye}" for number in range(20) for eye in ("L", "R")]
OWNERS = {case: case[:3] for case in EYES}


def test_without_patients_and_strata_it_is_the_split_of_cases():
    for rule, known in [
        (SplitRule(), split_cases(CASES)),
        (SplitRule((1, 1, 2), seed=3), split_cases(CASES, ratio=(1, 1, 2), seed=3)),
        (SplitRule(counts=(30, 4, 6)), split_cases(CASES, counts=(30, 4, 6))),
    ]:
        assert rule.assign(CASES[::-1]) == known


@pytest.mark.parametrize(
    "rule",
    [
        SplitRule(),
        SplitRule(counts=(10, 4, 6), seed=2),
        SplitRule(folds=5, fold=3),
        SplitRule(stratify="presence"),
        SplitRule(stratify="volume", folds=4),
    ],
)
def test_both_eyes_of_a_patient_are_in_one_split(rule):
    labels = {
        case: {1: float(number), **({2: 1.0} if number % 4 < 2 else {})}
        for number, case in enumerate(EYES)
    }
    split = rule.assign(EYES, patients=OWNERS, labels=labels)
    assert list(split) == sorted(EYES)
    sides = {(owner, split[case]) for case, owner in OWNERS.items()}
    assert len(sides) == 20
    assert set(split.values()) == set(SPLITS)
    if rule.counts is not None:  # of patients
        assert Counter(split.values()) == {"train": 20, "val": 8, "test": 12}


@pytest.mark.parametrize("stratify", [None, "presence", "volume"])
@pytest.mark.parametrize("folds", [3, 5, 7])
def test_each_case_is_in_test_once_and_in_val_once_over_the_folds(stratify, folds):
    labels = {case: {number % 3 + 1: number + 1.0} for number, case in enumerate(CASES)}
    rounds = [
        SplitRule(folds=folds, fold=fold, stratify=stratify).assign(CASES, labels=labels)
        for fold in range(folds)
    ]
    for name in ("test", "val"):
        seen = Counter(case for split in rounds for case in CASES if split[case] == name)
        assert seen == dict.fromkeys(CASES, 1)
    sizes = Counter(Counter(split.values())["test"] for split in rounds)
    assert set(sizes) <= {40 // folds, 40 // folds + 1}
    for fold, split in enumerate(rounds):  # val is what the next round has for test
        following = rounds[(fold + 1) % folds]
        assert {c for c in CASES if split[c] == "val"} == {
            c for c in CASES if following[c] == "test"
        }


def test_a_rare_class_is_dealt_to_all_splits():
    rare = set(CASES[3::8])  # 5 of 40
    labels = {case: {1: 5.0, 2: 1.0} if case in rare else {1: 5.0} for case in CASES}
    plain, alike = Counter(), Counter()
    for seed in range(30):
        ratio = (0.6, 0.2, 0.2)
        for rule, good in [
            (SplitRule(ratio, seed=seed), plain),
            (SplitRule(ratio, stratify="presence", seed=seed), alike),
        ]:
            split = rule.assign(CASES, labels=labels)
            assert Counter(split.values()) == {"train": 24, "val": 8, "test": 8}
            good[Counter(split[case] for case in rare) == {"train": 3, "val": 1, "test": 1}] += 1
    assert alike == {True: 30}
    assert plain[False] > 10  # what stratifying is for


def test_large_and_small_structures_are_dealt_to_all_splits():
    labels = {case: {1: 10.0**number} for number, case in enumerate(CASES)}
    split = SplitRule((0.5, 0.25, 0.25), stratify="volume", seed=1).assign(CASES, labels=labels)
    for quarter in range(4):
        found = Counter(split[case] for case in CASES[10 * quarter : 10 * quarter + 10])
        assert 4 <= found["train"] <= 6
        assert 1 <= found["val"] <= 4
        assert 1 <= found["test"] <= 4


@given(
    st.integers(1, 60), st.tuples(*[st.floats(0.05, 1)] * 3), st.integers(0, 9), st.integers(1, 6)
)
def test_strata_change_who_but_not_how_many(number, ratio, seed, kinds):
    cases = [str(index) for index in range(number)]
    labels = {case: {index % kinds + 1: 1.0} for index, case in enumerate(cases)}
    plain = SplitRule(ratio, seed=seed).assign(cases)
    alike = SplitRule(ratio, seed=seed, stratify="presence").assign(cases, labels=labels)
    assert Counter(plain.values()) == Counter(alike.values())


def test_a_given_split_is_taken_as_it_is_unless_a_patient_is_on_two_sides(tmp_path):
    given_split = {case: "train" if case < "p10" else "test" for case in EYES}
    assert SplitRule(given=True).assign(EYES, given=given_split, patients=OWNERS) == given_split
    path = tmp_path / "split.csv"
    moved = {**given_split, "p03_R": "test"}
    path.write_text("case,split\n" + "".join(f"{case},{name}\n" for case, name in moved.items()))
    assert SplitRule(csv=path).assign(EYES) == moved
    with pytest.raises(ValueError, match=r"'p03' is in train \(p03_L\) and in test \(p03_R"):
        SplitRule(csv=path).assign(EYES, patients=OWNERS)
    with pytest.raises(ValueError, match="the dataset gives none for case 'p00_L'"):
        SplitRule(given=True).assign(EYES, given={"p00_R": "train"})


def test_label_volumes_are_in_mm3(run, tmp_path):
    run()  # label 1: 2 x 3 x 2 voxels, label 2: 1 x 3 x 2, of 0.5 x 0.75 x 3 mm in any order
    manifest = load_manifest(tmp_path / "out")
    volumes = label_volumes(manifest.cases, manifest.slices)
    assert volumes["b"] == {1: pytest.approx(12 * 1.125), 2: pytest.approx(6 * 1.125)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 2}, r"folds must be >= 3 \(train, val and test\), got 2"),
        ({"folds": 5, "fold": 5}, "got fold 5 of 5"),
        ({"fold": 1}, "got fold 1 of None"),
        ({"folds": 5, "counts": (1, 1, 1)}, "expected one of counts, csv, folds"),
        ({"stratify": "size"}, "stratify must be presence or volume, got 'size'"),
        ({"stratify": "volume", "given": True}, "a given split cannot be stratified"),
    ],
)
def test_settings_that_do_not_go_together_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        SplitRule(**changes)


def test_more_folds_than_cases_and_strata_without_labels_are_refused():
    with pytest.raises(ValueError, match="3 cases or patients can't fill 5 folds"):
        SplitRule(folds=5).assign(["a", "b", "c"])
    with pytest.raises(ValueError, match="labels are needed to stratify"):
        SplitRule(stratify="presence").assign(["a", "b", "c"])
