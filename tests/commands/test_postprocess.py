import json

from samtune.cli import main
from samtune.training import choose_postprocess as module


def test_the_choice_is_printed(monkeypatch, capsys, tmp_path):
    calls = []

    def choose(*args, **kwargs):
        calls.append((args, kwargs))
        path = tmp_path / "postprocessing.json"
        record = {
            "chosen": {"front": "keep_largest", "back": "none"},
            "mean_dice": {"front": {"none": 0.5, "keep_largest": 0.75}, "back": {"none": None}},
        }
        path.write_text(json.dumps(record))
        return path

    monkeypatch.setattr(module, "choose_postprocessing", choose)
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
