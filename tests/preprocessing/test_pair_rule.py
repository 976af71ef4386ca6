import pytest
from hypothesis import given
from hypothesis import strategies as st

from samtune.preprocessing.pair_rule import PairRule, pair_stems, suggest_rules
from samtune.preprocessing.pairing import pair_files


@pytest.mark.parametrize(
    ("rule", "images", "labels", "pairs"),
    [
        ("stem", ["b", "a"], ["a", "b"], {"a": "a", "b": "b"}),
        ("number", ["img07", "img12"], ["m_12", "m_7"], {"img07": "m_7", "img12": "m_12"}),
        ("number", ["a1_b2"], ["1-2"], {"a1_b2": "1-2"}),
        ("{stem}_mask", ["x", "y_1"], ["y_1_mask", "x_mask"], {"x": "x_mask", "y_1": "y_1_mask"}),
        ("seg-{stem}", ["x"], ["seg-x"], {"x": "seg-x"}),
        (
            "{id}_training=>{id}_manual1",
            ["21_training"],
            ["21_manual1"],
            {"21_training": "21_manual1"},
        ),
        ("{site}-{id}_t1 => {id}.{site}", ["a-7_t1"], ["7.a"], {"a-7_t1": "7.a"}),
    ],
)
def test_rules_pair_what_they_say(rule, images, labels, pairs):
    result = pair_stems(images, labels, PairRule(rule))
    assert result.pairs == pairs
    assert result.is_complete


def test_what_has_no_partner_is_listed():
    result = pair_stems(["a", "b", "x"], ["a_m", "b_n"], PairRule("{stem}_m"))
    assert (result.pairs, result.images, result.labels) == ({"a": "a_m"}, ["b", "x"], ["b_n"])
    result = pair_stems(["p1", "q"], ["r"], PairRule("number"))
    assert (result.images, result.labels) == (["p1", "q"], ["r"])


def test_several_candidates_are_listed_not_chosen():
    result = pair_stems(["a1", "b1", "c2"], ["m1", "m2", "n2"], PairRule("number"))
    assert result.pairs == {}
    assert result.ambiguous == [(["a1", "b1"], ["m1"]), (["c2"], ["m2", "n2"])]
    assert not result.is_complete


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mask",
        "{stem}{stem}=>x",
        "a=>b",
        "{a}=>{b}",
        "{a}{a}=>{a}",
        "{class}",
        "{class}=>{class}",
    ],
)
def test_a_rule_without_a_meaning_is_refused(text):
    with pytest.raises(ValueError, match=r"pairing rule .* expected stem, number, a template"):
        PairRule(text)


@pytest.mark.parametrize(
    ("images", "labels", "rule"),
    [
        (["a", "b"], ["a_seg", "b_seg"], "{stem}_seg"),
        (
            ["21_training", "31_training"],
            ["21_manual1", "31_manual1"],
            "{id}_training=>{id}_manual1",
        ),
        (["img1", "img2"], ["lab2", "lab1"], "number"),
    ],
)
def test_rules_that_would_pair_all_are_suggested(images, labels, rule):
    assert rule in suggest_rules(images, labels)


def test_nothing_is_suggested_where_no_rule_pairs_all():
    assert suggest_rules(["a", "b"], ["c", "d"]) == []
    assert suggest_rules([], []) == []


STEMS = st.sets(st.text("ab1_", min_size=1, max_size=4), max_size=6)


@given(STEMS, STEMS, st.sampled_from(["stem", "number", "{stem}_1", "{a}_{b}=>{b}"]))
def test_no_file_is_lost_or_used_twice(images, labels, rule):
    result = pair_stems(images, labels, PairRule(rule))
    left = [*result.pairs, *result.images, *(one for pair in result.ambiguous for one in pair[0])]
    right = [
        *result.pairs.values(),
        *result.labels,
        *(one for pair in result.ambiguous for one in pair[1]),
    ]
    assert sorted(left) == sorted(images)
    assert sorted(right) == sorted(labels)


def test_two_folders_by_rule(tmp_path):
    for name in ("images/a.nii.gz", "images/b.nii", "labels/a_m.nii.gz", "labels/b_m.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images, labels = tmp_path / "images", tmp_path / "labels"
    found = pair_files(images, labels, rule=PairRule("{stem}_m"))
    assert [(one.case, one.image.name, one.label.name) for one in found] == [
        ("a", "a.nii.gz", "a_m.nii.gz"),
        ("b", "b.nii", "b_m.nii.gz"),
    ]
    with pytest.raises(ValueError, match=r"2 of 2 images .*would pair all: --pair '\{stem\}_m'"):
        pair_files(images, labels)


def test_one_folder_of_both_by_rule(tmp_path):
    for name in ("1.nii", "2.nii", "1_gt.nii", "2_gt.nii"):
        (tmp_path / name).touch()
    found = pair_files(tmp_path, tmp_path, rule=PairRule("{stem}_gt"))
    assert [(one.image.name, one.label.name) for one in found] == [
        ("1.nii", "1_gt.nii"),
        ("2.nii", "2_gt.nii"),
    ]
    (tmp_path / "3.nii").touch()
    with pytest.raises(ValueError, match=r"1 of 3 images without a label .*: 3\.nii; expected one"):
        pair_files(tmp_path, tmp_path, rule=PairRule("{stem}_gt"))
