"""The recipes' table: counts without weights, scores of runs as they lie on disk."""

import csv
import json
import re

import pytest
from monai.bundle import create_workflow

from samtune.benchmarks.table_recipes import (
    CONFIGS,
    NOT_RUN,
    RECIPES,
    main,
    make_table,
    measure_run,
)

HEADER = "case,label,name,status,dice,iou,nsd_1mm,hd95_mm,volume_ref_ml,volume_pred_ml\n"


@pytest.fixture
def run(tmp_path):
    """A run of two classes and two cases, one distance infinite."""
    (tmp_path / "run.json").write_text(json.dumps({"parameters": {"trainable": 25, "total": 200}}))
    values = {("a", 1): (0.9, "2.0"), ("a", 2): (0.7, "4.0"), ("b", 1): (0.5, "8.0")}
    values["b", 2] = (0.0, "inf")
    rows = [
        f"{case},{label},class_{label},ok,{dice},0.5,0.5,{hd95},1.0,1.0\n"
        for (case, label), (dice, hd95) in values.items()
    ]
    (tmp_path / "metrics_test.csv").write_text(HEADER + "".join(rows))
    return tmp_path


def test_a_run_fills_its_row_and_the_others_say_so(run, capsys):
    out = run / "table.csv"
    main(["--run", f"sam_lora={run}", "--recipes", "sam_lora,sam_adapter", "--out", str(out)])
    head, _, filled, empty = capsys.readouterr().out.splitlines()
    assert head == "| Method | Avg. Dice | Avg. HD95 | Trainable parameters | % of all | Cases |"
    # Dice: mean of 0.7 and 0.35; HD95: mean of 5 and 4, the infinite one counted
    assert filled == "| sam_lora | 0.525 | 4.50 mm (1 infinite) | 25 | 12.50 | 2 |"
    assert empty.count(NOT_RUN) == 2
    with out.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["n"], first["n_inf_HD95"], second["Avg_Dice"]) == ("2", "1", "")


def test_a_recipe_is_counted_at_full_size(capsys):
    (row,) = make_table(recipes=["sam_lora"])
    # LoRA r=4 on q and v of ViT-B; SAM, a class head that isn't trained, and the factors
    assert (row.trainable, row.total) == (147_456, 93_735_472 + 140_065 + 147_456)


def test_every_recipe_is_in_the_table():
    files = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("recipes/**/*.yaml")}
    listed = {name for names in RECIPES.values() for name in names} - {"prompted.yaml"}
    assert files - listed == {"recipes/salt/sam2.yaml"}  # of another backbone
    assert listed <= files


def test_a_run_without_scores_is_named(run):
    table = run / "metrics_test.csv"
    table.write_text("case,label,name,status,iou\na,1,x,ok,0.5\n")
    with pytest.raises(ValueError, match=r"metrics_test\.csv: expected scores dice and hd95_mm"):
        measure_run("x", run)
    table.unlink()
    with pytest.raises(FileNotFoundError, match=r"evaluate\.yaml writes it"):
        measure_run("x", run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "x"], "expected NAME=FOLDER"),
        (["--recipes", "salt,pepper"], "no recipe pepper; there are salt"),
        (["--recipes", "", "--run", "x=nowhere"], "nowhere/run.json: not there; a run of train"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_has_this_table(repo_root):
    page = (repo_root / "docs/reproducing_the_papers.md").read_text()
    for row in make_table():
        start = f"| {row.method} | not run | not run | {row.trainable:,} | "
        assert start in page or f"| {row.method} | 0." in page  # measured since


def test_the_page_names_files_that_are_there(repo_root):
    pages = [
        (repo_root / f"docs/{name}.md").read_text()
        for name in ("reproducing_the_papers", "from_other_tools")
    ]
    named = {name for page in pages for name in re.findall(r"\$C/([\w./]+\.yaml)", page)}
    assert "recipes/sam_lora.yaml" in named
    assert all((CONFIGS / name).is_file() for name in named), named
    for path in CONFIGS.glob("recipes/**/*.yaml"):
        assert path.name in pages[0], path


@pytest.mark.slow
def test_a_recipe_from_training_to_the_table(mini_slices, packaged_weights, run_bundle, tmp_path):
    files = ("train.yaml", *RECIPES["finetune_sam_decoder_lora"])
    workflow = create_workflow(
        config_file=[str(CONFIGS / name) for name in files],
        run_id="training",
        logging_file=False,
        dataset_dir=str(mini_slices),
        runs_dir=str(tmp_path),
        epochs=2,
        device="cpu",
    )
    workflow.run()
    workflow.finalize()
    path = tmp_path / "decoder_lora"
    run_bundle("evaluate", run_dir=str(path), device="cpu")
    name = "finetune_sam_decoder_lora"
    row, other = make_table({name: path}, backbone="vit_b", recipes=[name, "sam_lora"])
    with (path / "metrics_test.csv").open(newline="") as file:
        dices = [float(r["dice"]) for r in csv.DictReader(file) if "+" not in r["label"]]
    assert row.dice == pytest.approx(sum(dices) / len(dices))
    assert (row.num_cases, other.num_cases) == (1, 0)
    assert row.trainable == json.loads((path / "run.json").read_text())["parameters"]["trainable"]
