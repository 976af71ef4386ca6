import json
import shutil

import numpy as np
import pytest

from samtune.evaluation.dice import dice_score
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.slice_file import read_slice_file
from samtune.training import choose_postprocess
from samtune.training.choose_postprocess import choose_postprocessing
from samtune.training.postprocess import (
    LARGEST,
    NONE,
    CandidateScores,
    Postprocessing,
    candidates,
    choose,
    clean,
    load_postprocessing,
)
from samtune.training.run_folder import load_run

CLASSES = {1: "front", 3: "back"}


@pytest.fixture
def mask():
    """Objects of 12, 8 and 1 voxels."""
    mask = np.zeros((9, 9, 6), bool)
    mask[0:3, 0:2, 0:2] = True
    mask[5:7, 5:7, 0:2] = True
    mask[8, 8, 5] = True
    return mask


def test_the_largest_object_is_kept(mask):
    kept = clean(mask, LARGEST, (1, 1, 1))
    assert kept.sum() == 12
    assert kept[0, 0, 0]
    np.testing.assert_array_equal(clean(mask, NONE, (1, 1, 1)), mask)
    assert not clean(np.zeros_like(mask), LARGEST, (1, 1, 1)).any()


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [((1, 1, 1), 12), ((1, 2, 5), 21), ((1, 1.25, 1), 20), ((0.5, 0.5, 0.5), 0)],
)
def test_objects_are_measured_in_mm3_and_those_of_the_limit_are_kept(mask, spacing, expected):
    # at 1.25 mm3 a voxel the second object has just 10 mm3
    assert clean(mask, "remove_below_10_mm3", spacing).sum() == expected


def test_an_unknown_step_is_refused(mask):
    with pytest.raises(ValueError, match="unknown post-processing 'open', expected one of: none"):
        clean(mask, "open", (1, 1, 1))


def test_each_class_is_cleaned_by_itself(mask):
    label = np.where(mask, 1, 0).astype(np.uint16)
    label[3, 0, 0] = 3  # touches the object of class 1, is none of it
    label[8, 0, 5] = 3
    out = Postprocessing({1: LARGEST})(label, (1, 1, 1))
    assert (out == 1).sum() == 12
    np.testing.assert_array_equal(out == 3, label == 3)
    assert out.dtype == label.dtype


def test_a_step_is_chosen_only_if_the_mean_dice_rises(mask):
    truth = clean(mask, LARGEST, (1, 1, 1)).astype(np.uint8)
    scores = CandidateScores(CLASSES)
    scores.add("a", np.where(mask, 1, 0) + 3 * (mask & False), truth, (1, 1, 1))
    scores.add("b", truth + 0, truth, (1, 1, 1))  # right as it is
    record = scores.record()
    assert record["mean_dice"]["front"][NONE] == pytest.approx(
        (dice_score(mask, truth > 0) + 1) / 2
    )
    assert record["mean_dice"]["front"][LARGEST] == 1
    # that of 10 mm3 does the same here, and is the lesser step
    assert record["chosen"] == {"front": "remove_below_10_mm3", "back": NONE}
    assert record["cases"]["a"]["back"][NONE] is None

    both = CandidateScores(CLASSES)
    both.add("a", np.where(mask, 1, 0), mask.astype(np.uint8), (1, 1, 1))
    assert both.record()["chosen"] == {"front": NONE, "back": NONE}


def test_what_is_wrongly_there_counts(mask):
    scores = CandidateScores({1: "front"})
    speck = np.zeros(mask.shape, np.uint8)
    speck[8, 8, 5] = 1
    scores.add("a", speck, np.zeros_like(speck), (1, 1, 1))
    means = scores.record()["mean_dice"]["front"]
    assert (means[NONE], means[LARGEST], means["remove_below_10_mm3"]) == (0, 0, 1)
    assert scores.record()["chosen"] == {"front": "remove_below_10_mm3"}


def test_classes_that_a_case_does_not_annotate_do_not_count(mask):
    scores = CandidateScores(CLASSES)
    scores.add("a", np.where(mask, 3, 0), np.zeros(mask.shape, int), (1, 1, 1), annotated=[1])
    assert set(scores.cases["a"]["back"].values()) == {None}


def test_voxels_that_nobody_judged_count_in_neither_mask(mask):
    """The two smaller objects lie where nobody looked: nothing is gained by removing them."""
    largest = clean(mask, LARGEST, (1, 1, 1))
    label = np.where(largest, 1, 0).astype(np.uint8)
    scores = CandidateScores({1: "front"})
    scores.add("a", np.where(mask, 1, 0), label, (1, 1, 1), judged=~(mask & ~largest))
    assert scores.record()["mean_dice"]["front"][NONE] == 1
    assert scores.record()["chosen"] == {"front": NONE}


@pytest.fixture
def run(loud_run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(loud_run, path)
    return path


def test_a_run_is_judged_by_its_validation_cases_and_opens_no_other(run, tiny_slices, monkeypatch):
    manifest = load_manifest(tiny_slices)
    allowed = {manifest.path(record) for record in manifest.select("val")}
    opened = set()

    def watched(path):
        opened.add(path)
        return read_slice_file(path)

    for module in ("samtune.preprocessing.slice_transforms", "samtune.training.case_stream"):
        monkeypatch.setattr(f"{module}.read_slice_file", watched)
    path = choose_postprocessing(run, device="cpu", progress=False)
    assert opened == allowed
    record = json.loads(path.read_text())
    assert path == run / "postprocessing.json"
    assert set(record["cases"]) == {row.case for row in manifest.select("val")}
    assert (record["split"], record["adapter"]) == ("val", "best")
    for name in CLASSES.values():
        means = record["mean_dice"][name]
        assert set(means) == set(candidates())
        assert means[record["chosen"][name]] == max(means.values())
    # what predict and evaluate take
    found = load_postprocessing([load_run(run)], "best")
    assert found.describe(CLASSES) == record["chosen"]
    assert load_postprocessing([load_run(run)], "best", use=False) is None
    assert load_postprocessing([load_run(run)], "last") is None


def test_without_validation_cases_it_says_so(run, tiny_manifest, monkeypatch):
    class Empty:
        def select(self, split):
            return []

    monkeypatch.setattr(choose_postprocess, "open_run_slices", lambda *args, **kwargs: Empty())
    with pytest.raises(ValueError, match="have no validation cases"):
        choose_postprocessing(run, device="cpu")


def write(run, scores, **changes):
    from samtune.training.postprocess import write_choice

    path = write_choice(load_run(run), "best", scores)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


@pytest.fixture
def scores(mask):
    scores = CandidateScores(CLASSES)
    scores.add("a", np.where(mask, 1, 0), clean(mask, LARGEST, (1, 1, 1)), (1, 1, 1))
    return scores


def test_a_choice_of_other_weights_is_refused(run, scores):
    write(run, scores)
    shutil.copy(run / "adapter_last.safetensors", run / "adapter_best.safetensors")
    with pytest.raises(ValueError, match="was chosen for other weights than those of the run now"):
        load_postprocessing([load_run(run)], "best")


def test_a_damaged_choice_names_the_file(run, scores):
    path = write(run, scores, format_version=2)
    with pytest.raises(ValueError, match=r"postprocessing.json' can't be used \(format_version"):
        load_postprocessing([load_run(run)], "best")
    path.write_text("{")
    with pytest.raises(ValueError, match=r"postprocessing.json' can't be used"):
        load_postprocessing([load_run(run)], "best")


def test_an_ensemble_goes_by_all_its_members_cases(run, scores, mask, tmp_path):
    """The second run has more cases, of which cleaning spoils each."""
    other = tmp_path / "other"
    shutil.copytree(run, other)
    against = CandidateScores(CLASSES)
    for case in "bcd":
        against.add(case, np.where(mask, 1, 0), np.where(mask, 1, 0), (1, 1, 1))
    write(run, scores)
    runs = [load_run(run), load_run(other)]
    assert load_postprocessing(runs, "best") is None  # one of them has none
    write(other, against)
    assert load_postprocessing(runs[:1], "best").steps == {1: "remove_below_10_mm3"}
    assert load_postprocessing(runs, "best").steps == {}
    means, _ = choose(scores.cases | against.cases, list(CLASSES.values()))
    assert means["front"][NONE] == pytest.approx((2 * 12 / 33 + 3) / 4)
