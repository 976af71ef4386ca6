"""``samtune crossval`` on the tiny task: three folds, killed and gone on with, an ensemble."""

import csv
import json
import shutil

import pytest
import torch

from samtune.cli import main
from samtune.networks.architectures import ARCHITECTURES
from samtune.networks.build import build_sam
from samtune.preprocessing.folder_lock import locked_folder
from samtune.preprocessing.manifest import load_manifest
from samtune.training.checkpoint import RunCheckpoint
from samtune.training.choose_postprocess import choose_postprocessing
from samtune.training.cross_validation import CrossValidation
from samtune.training.ensemble import open_runs
from samtune.training.errors import root_cause
from samtune.training.run_folder import load_run
from tests.conftest import slice_tiny
from tests.tiny_encoders import SMALL_TINY_VIT

SETTINGS = {
    **{"arch": "tiny_vit", "image_size": 32, "normalization": "medsam", "device": "cpu"},
    **{"epochs": 2, "batch_size": 3, "views": 2, "rank": 2, "blocks": "last:1"},
    **{"decoder": "lora", "dropout": 0.2, "learning_rate": 0.01, "checkpoint_minutes": 0},
}
FOLDS = 3


@pytest.fixture(scope="module", autouse=True)
def _tiny_arch():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny_vit", SMALL_TINY_VIT)
        yield


@pytest.fixture(scope="module")
def slices(tiny_volumes, tmp_path_factory):
    out = tmp_path_factory.mktemp("cv") / "slices"
    return slice_tiny(tiny_volumes, out, (3, 1, 2))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """With weights in a file: those of `random` are kept nowhere, so nothing can be scored."""
    file = tmp_path_factory.mktemp("weights") / "tiny.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(build_sam("tiny_vit", "random", 32).state_dict(), file)
    return {**SETTINGS, "checkpoint": str(file)}


@pytest.fixture(scope="module")
def make(slices, settings):
    def make(out, **changes):
        given = {"folds": FOLDS, "settings": settings, "logging_file": False, **changes}
        return CrossValidation(str(slices), out, **given)

    return make


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory):
    """An undisturbed cross-validation."""
    out = tmp_path_factory.mktemp("whole") / "cv"
    assert make(out).run() is not None
    return out


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def results(out):
    names = ["metrics_oof.csv", "metrics_oof_summary.csv"]
    names += [
        f"fold_{fold}/{name}"
        for fold in range(FOLDS)
        for name in ("adapter_best.safetensors", "adapter_last.safetensors", "metrics_val.csv")
    ]
    return {name: (out / name).read_bytes() for name in names}


def test_each_case_is_scored_once_by_the_run_that_has_not_seen_it(whole, slices):
    manifest = load_manifest(slices)
    pool = sorted(case for case, one in manifest.cases.items() if one.split != "test")
    rows = rows_of(whole / "metrics_oof.csv")
    names = ["front", "back", "whole"]
    assert [(row["case"], row["name"]) for row in rows] == [(c, n) for c in pool for n in names]
    folds = json.loads((whole / "metrics_oof.json").read_text())["folds"]
    assert list(folds) == ["fold_0", "fold_1", "fold_2"]
    test = {case for case, one in manifest.cases.items() if one.split == "test"}
    for name, held_out in folds.items():
        split = load_run(whole / name).record["data"]["split"]
        assert split["val"] == held_out
        assert set(split["train"]) == set(pool) - set(held_out)
        assert set(split["test"]) == test
        own = rows_of(whole / name / "metrics_val.csv")
        assert own == [row for row in rows if row["case"] in held_out]
        predicted = sorted(path.name for path in (whole / name / "predictions_val").iterdir())
        assert predicted == [f"{case}.nii.gz" for case in held_out]
    summary = rows_of(whole / "metrics_oof_summary.csv")
    assert [int(row["n"]) for row in summary] == [len(pool)] * 3


def test_what_the_folds_chose_for_cleaning_does_not_flatter_them(whole, make, tmp_path):
    """The cases that the table scores are those that chose."""
    out = tmp_path / "cv"
    shutil.copytree(whole, out)
    for fold in range(FOLDS):
        choose_postprocessing(out / f"fold_{fold}", device="cpu", progress=False)
    (out / "fold_1/metrics_val.csv").unlink()  # to be scored again
    assert make(out).run() is not None
    assert results(out) == results(whole)
    asked = make(out, evaluation={"postprocess": "true"})
    assert asked.run() is not None
    companion = json.loads((out / "fold_1/metrics_val.json").read_text())
    chosen = json.loads((out / "fold_1/postprocessing.json").read_text())["chosen"]
    assert companion["protocol"]["postprocess"] == chosen


def test_the_curves_of_all_folds(whole):
    rows = rows_of(whole / "curve_folds.csv")
    assert [(row["fold"], row["epoch"]) for row in rows] == [
        (str(fold), str(epoch)) for fold in range(FOLDS) for epoch in (1, 2)
    ]


def test_killed_and_started_again_it_ends_as_if_undisturbed(whole, make, tmp_path, monkeypatch):
    """Killed within the second fold, then while the second fold is scored."""
    out = tmp_path / "cv"
    score, write, count = CrossValidation._score, RunCheckpoint._write, []

    def killed(handler, *args, **kwargs):
        write(handler, *args, **kwargs)
        count.append(handler.path.name)
        if count.count("fold_1") == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoint, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            make(out).run()
    assert not (out / "fold_2").exists()
    assert not (out / "metrics_oof.csv").exists()

    def interrupted(self, fold):
        if fold == 1:
            raise KeyboardInterrupt
        return score(self, fold)

    with monkeypatch.context() as patch:
        patch.setattr(CrossValidation, "_score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(out).run()
    first = (out / "fold_0/metrics_val.csv").stat().st_mtime_ns
    assert make(out).run() is not None
    assert (out / "fold_0/metrics_val.csv").stat().st_mtime_ns == first  # not scored again
    assert results(out) == results(whole)


def test_the_folds_are_an_ensemble_that_is_scored_on_test_cases_alone(whole, slices, run_bundle):
    assert [run.path.name for run in open_runs(whole)] == ["fold_0", "fold_1", "fold_2"]
    run_bundle("evaluate", run_dir=str(whole), split="test", device="cpu")
    cases = {row["case"] for row in rows_of(whole / "metrics_test.csv")}
    manifest = load_manifest(slices)
    assert cases == {case for case, one in manifest.cases.items() if one.split == "test"}
    companion = json.loads((whole / "metrics_test.json").read_text())
    assert len(companion["protocol"]["ensemble"]) == FOLDS
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run_bundle("evaluate", run_dir=str(whole), split="val", device="cpu")
    assert "was trained on" in str(root_cause(caught.value))


def test_a_part_of_the_folds_is_no_ensemble(whole, tmp_path):
    (tmp_path / "cv").mkdir()
    for fold in (0, 2):
        (tmp_path / f"cv/fold_{fold}").symlink_to(whole / f"fold_{fold}")
    with pytest.raises(ValueError, match="has 2 of the 3 folds of a cross-validation"):
        open_runs(tmp_path / "cv")


def test_other_folds_in_the_same_folder_are_refused(whole, make):
    with pytest.raises(FileExistsError, match=r"holds another run: data.folds was 3, now 2"):
        make(whole, folds=2).run()


def test_a_config_that_passes_over_the_folds_is_refused(make, slices, tmp_path):
    overlay = tmp_path / "own.yaml"
    overlay.write_text(
        "manifest:\n  _target_: samtune.training.joined.open_slices\n  folders: '@dataset_dir'\n"
    )
    with pytest.raises(ValueError, match="passes over 'data'"):
        make(tmp_path / "cv", configs=[overlay]).run()


def test_max_minutes_stops_all(make, settings, tmp_path):
    settings = {**settings, "max_minutes": 1e-6}
    assert make(tmp_path / "cv", settings=settings).run() is None
    assert not (tmp_path / "cv/fold_1").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "run_name=x"], "the cross-validation sets 'run_name' itself"),
        (["--set", "data::fold=1"], "sets 'data' itself"),
        (["--set", "epochs"], "'epochs' is not KEY=VALUE"),
        (["--set", "rank=2", "rank=4"], "'rank=4' is there twice"),
        (["--evaluate", "split=test"], "sets 'split' itself"),
        (["--config", "methods/adalora"], "there is no config 'methods/adalora'"),
        (["--folds", "9"], "4 cases or patients can't fill 9 folds"),
    ],
)
def test_wrong_options(slices, tmp_path, capsys, options, message):
    out = tmp_path / "cv"
    assert main(["crossval", str(slices), "--out", str(out), *options]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_values_of_the_command_line():
    from samtune.commands.crossval import _settings

    given = ["a=1e-3", "b=last:2", "c=[q, v]", "d=null", "e={whole: 1+2}", "f=True", "g=x=y", "h="]
    assert _settings(given) == {
        **{"a": 1e-3, "b": "last:2", "c": ["q", "v"], "d": None, "e": {"whole": "1+2"}},
        **{"f": True, "g": "x=y", "h": None},
    }


def test_the_folds_have_other_weights(whole):
    """Else they were not trained on different cases."""
    states = [run.network().state_dict() for run in open_runs(whole)]
    assert any(not torch.equal(one, states[1][name]) for name, one in states[0].items())


@pytest.fixture
def no_training(monkeypatch):
    def train(self, fold, held_out):
        raise AssertionError("it trains")

    monkeypatch.setattr(CrossValidation, "_train", train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flipz": "h"}, "there is no key 'flipz' in evaluate.yaml, nearest is 'flips'"),
        ({"flips": "x"}, "flips must be one of none, h, v, hv, got 'x'"),
        ({"adapter": "none"}, "adapter must be best or last, got 'none'"),
        ({"definition": "mine"}, "mine"),
        ({"cldice": ["middle"]}, "middle"),
        ({"class_tolerance_mm": {"middle": 1}}, "middle"),
        ({"tolerance_mm": "far"}, "tolerances must be numbers in mm, as in .*, got 'far'"),
        ({"patients": "no/such.csv"}, "no/such.csv"),
        ({"postprocess": "perhaps"}, "postprocess must be true or false, got 'perhaps'"),
    ],
)
def test_options_of_the_evaluation_are_checked_before_anything_trains(
    make, no_training, tmp_path, options, message
):
    with pytest.raises((ValueError, OSError), match=message):
        make(tmp_path / "cv", evaluation=options).run()
    assert not (tmp_path / "cv").exists()


def test_good_options_of_the_evaluation_pass(make, no_training, tmp_path):
    options = {"flips": "h", "adapter": "last", "tolerance_mm": [1, 2], "cldice": ["front"]}
    with pytest.raises(AssertionError, match="it trains"):
        make(tmp_path / "cv", evaluation=options).run()


def test_a_place_where_something_else_lies_is_refused(make, no_training, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file' is a file, expected a folder for the fol"):
        make(tmp_path / "file").run()
    for name in ("runs/lora", "runs/b", "mine/cv/fold_0", "single"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").touch()
    with pytest.raises(FileExistsError, match="runs' holds other runs, 'b' and 1 more: choose"):
        make(tmp_path / "runs").run()
    with pytest.raises(FileExistsError, match="single' is the folder of a run: choose another"):
        make(tmp_path / "single").run()
    (tmp_path / "mine/cv/cross_validation.json").touch()
    with pytest.raises(FileExistsError, match="mine' holds other runs, 'cv': choose"):
        make(tmp_path / "mine").run()
    with pytest.raises(AssertionError, match="it trains"):
        make(tmp_path / "mine/cv").run()  # which began before


def test_two_at_once_in_one_folder_are_refused(make, no_training, tmp_path):
    with locked_folder(tmp_path / "cv"), pytest.raises(OSError, match="another samtune process"):
        make(tmp_path / "cv").run()
