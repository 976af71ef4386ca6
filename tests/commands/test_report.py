"""``samtune report``: files it writes, what it prints, and what it does without matplotlib."""

import sys
from pathlib import Path

import pytest

from samtune import cli

HEADER = "case,label,name,status,dice,iou,nsd_1mm,hd95_mm,volume_ref_ml,volume_pred_ml\n"


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A folder of metrics and a curve, without pictures."""
    run = tmp_path / "run"
    run.mkdir()
    lines = [f"c{i},1,front $x,ok,0.{i},0.5,0.7,{i},1,1\n" for i in range(1, 4)]
    (run / "metrics_test.csv").write_text(
        HEADER + "".join(lines) + "c4,1,front $x,pred_empty,0,0,0,inf,1,0\n"
    )
    (run / "curve.csv").write_text("epoch,train_loss,val_dice\n1,1.0,0.5\n2,0.5,0.6\n")
    return run


def test_writes_page_and_figures_and_prints_the_page_last(
    scored: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("matplotlib")
    assert cli.main(["report", str(scored)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(scored / "report.html")
    assert (scored / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    columns = ("dice", "iou", "nsd_1mm", "hd95_mm")
    stems = ["curve", *(f"points_{column}" for column in columns)]
    names = {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg", "pdf")}
    assert {path.name for path in (scored / "figures").iterdir()} == names
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for path in (scored / "figures").iterdir():
        assert path.read_bytes().startswith(starts[path.suffix[1:]])
    before = {path.name: path.read_bytes() for path in (scored / "figures").iterdir()}
    assert cli.main(["report", str(scored)]) == 0
    assert before == {path.name: path.read_bytes() for path in (scored / "figures").iterdir()}


def test_out_and_no_figures(scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "elsewhere" / "r.html"
    assert cli.main(["report", str(scored), "--out", str(out), "--no-figures"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.is_file()
    assert not (scored / "figures").exists()
    assert not (scored / "report.html").exists()


def test_without_matplotlib_the_page_is_there(
    scored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name in [*sys.modules]:
        if name.partition(".")[0] == "matplotlib" or name.endswith("report.figures"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["report", str(scored)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{scored / 'report.html'}\n"
    assert "samtune[plots]" in captured.err


def test_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "is not the folder of a run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_quickstart_ends_with_the_report(repo_root: Path):
    script = (repo_root / "scripts" / "quickstart.sh").read_text(encoding="utf-8")
    assert (
        script.rstrip().splitlines()[-1]
        == '"$bin/samtune" report "$out/lora" --slices "$out/slices"'
    )
