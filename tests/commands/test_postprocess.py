import json
import shutil
from types import SimpleNamespace

from samtune.cli import main
from samtune.training import choose_postprocess as module
from samtune.training import ensemble
from samtune.training.postprocess import choose, load_postprocessing


def test_the_choice_is_printed(monkeypatch, capsys, tmp_path):
    calls = []

    def chosen(*args, **kwargs):
        calls.append((args, kwargs))
        path = tmp_path / "postprocessing.json"
        record = {
            "chosen": {"front": "keep_largest", "back": "none"},
            "mean_dice": {"front": {"none": 0.5, "keep_largest": 0.75}, "back": {"none": None}},
        }
        path.write_text(json.dumps(record))
        return path

    monkeypatch.setattr(module, "choose_postprocessing", chosen)
    monkeypatch.setattr(ensemble, "open_runs", lambda path: [SimpleNamespace(path=path)])
    options = ["--slices", "s", "--flips", "h", "--device", "cpu", "--batch-size", "2", "-q"]
    assert main(["postprocess", str(tmp_path), *options, "--adapter", "last"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "front: keep_largest (validation Dice 0.5000 without, 0.7500 with)",
        "back: none (validation Dice unknown without, unknown with)",
        str(tmp_path / "postprocessing.json"),
    ]
    ((args, kwargs),) = calls
    assert args == (tmp_path,)
    assert kwargs["adapter"] == "last"
    assert str(kwargs["dataset_dir"]) == "s"
    assert (kwargs["flips"], kwargs["batch_size"], kwargs["progress"]) == ("h", 2, False)


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["postprocess", str(tmp_path)]) == 1
    assert "is not the folder of a run" in capsys.readouterr().err


def test_each_fold_of_a_cross_validation_chooses_and_the_ensemble_pools(loud_run, tmp_path, capsys):
    for number in range(2):
        shutil.copytree(loud_run, tmp_path / f"cv/fold_{number}")
    assert main(["postprocess", str(tmp_path / "cv"), "--device", "cpu", "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = [tmp_path / f"cv/fold_{number}/postprocessing.json" for number in range(2)]
    assert [line for line in lines if line.endswith(".json")] == [str(file) for file in files]
    one, other = (json.loads(file.read_text())["cases"] for file in files)
    pooled = {**one, **{f"{case}, again": scores for case, scores in other.items()}}
    _, expected = choose(pooled, ["front", "back"])
    assert lines[-1] == (
        f"ensemble, by the cases of all 2 folds: front: {expected['front']}, "
        f"back: {expected['back']}"
    )
    # what predict takes for the ensemble
    found = load_postprocessing(ensemble.open_runs(tmp_path / "cv"), "best")
    assert found.describe({1: "front", 3: "back"}) == expected
