"""The recipes' table, as papers print it: method, average Dice, average HD95, trained parameters.

    python benchmarks/table_recipes.py --backbone vit_b --run salt=runs/salt --run lora=runs/lora \
        --out recipes.csv

A row for each recipe of ``bundles/sam_finetune/configs/recipes``, its parameters counted on the
meta device (no weights, two classes: background and one). ``--run NAME=FOLDER`` puts what a run
really reached into the row of that name, from ``metrics_test.csv``, which evaluate.yaml wrote, and
``run.json``; a name that is no recipe's gets a row of its own. Rows without a run say ``not run``.

Average: over classes of the mean over cases. Infinite distances, of cases with an empty mask, are
left out and counted beside the number. Printed as Markdown; ``--out`` writes CSV.
"""

import argparse
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from samtune.atomic import write_atomically
from samtune.evaluation.performance import measure_performance
from samtune.evaluation.score_table import read_score_table
from samtune.training.network import build_network
from samtune.training.paths import bundle_root

CONFIGS = Path(bundle_root("sam_finetune")) / "configs"
SALT, FINETUNE_SAM = "recipes/salt.yaml", "recipes/finetune_sam.yaml"
# name -> its files, after train.yaml and a backbone
RECIPES: dict[str, tuple[str, ...]] = {
    "salt": (SALT,),
    **{
        f"salt_{name}": (SALT, f"recipes/salt/{name}.yaml")
        for name in ("ssam", "svdbiastuning", "biastuning", "lora")
    },
    "sam_adapter": ("prompted.yaml", "recipes/sam_adapter.yaml"),
    "sam_lora": ("prompted.yaml", "recipes/sam_lora.yaml"),
    **{
        f"finetune_sam_{part}_{how}": (FINETUNE_SAM, f"recipes/finetune_sam/{part}_{how}.yaml")
        for part in ("decoder", "both")
        for how in ("vanilla", "adapter", "lora")
    },
    "oct_lora": ("recipes/oct_lora.yaml",),
}
NOT_RUN = "not run"
COLUMNS = ("Method", "Avg. Dice", "Avg. HD95", "Trainable parameters", "% of all", "Cases")
# what the network of a config goes by; the rest of it asks for slices
_KEYS = ("arch", "image_size", "peft", "decoder")


@dataclass(frozen=True)
class TableRow:
    """A line of the table.

    Attributes:
        method: the recipe or the run's name.
        trainable, total: parameters.
        dice, hd95: averages; ``None``: not run.
        hd95_unit: ``mm``, or ``px`` for images without spacing.
        num_infinite: distances left out of ``hd95``.
        num_cases: scored cases; 0: not run.
    """

    method: str
    trainable: int
    total: int
    dice: float | None = None
    hd95: float | None = None
    hd95_unit: str = "mm"
    num_infinite: int = 0
    num_cases: int = 0

    def cells(self) -> tuple[str, ...]:
        """The texts of :data:`COLUMNS`."""
        ran = self.num_cases > 0
        distance = f"{_number(self.hd95, 2)} {self.hd95_unit}"
        if self.num_infinite:
            distance += f" ({self.num_infinite} infinite)"
        return (
            self.method,
            _number(self.dice, 3) if ran else NOT_RUN,
            distance if ran else NOT_RUN,
            f"{self.trainable:,}",
            f"{100 * self.trainable / self.total:.2f}",
            str(self.num_cases) if ran else "",
        )


def count_recipe(name: str, backbone: str, *, num_classes: int = 1) -> TableRow:
    """A recipe's row without a run: its network, built without memory.

    Args:
        name: of :data:`RECIPES`.
        backbone: of ``configs/backbones``.
        num_classes: foreground classes; each has its class head, which is trained.
    """
    parser = ConfigParser()
    files = ("train.yaml", f"backbones/{backbone}.yaml", *RECIPES[name])
    parser.read_config([str(CONFIGS / file) for file in files])
    config = {key: parser.get_parsed_content(key) for key in _KEYS}
    prompts = parser.get_parsed_content("prompts") if "prompts" in parser else "none"
    with torch.device("meta"):
        network = build_network(
            checkpoint="random", num_classes=num_classes, prompts=prompts, **config
        )
    return TableRow(name, network.summary.trainable, network.summary.total)


def measure_run(name: str, folder: str | Path) -> TableRow:
    """A run's row, from its table of the test cases and its record.

    Raises:
        FileNotFoundError: the run isn't one, or wasn't evaluated.
        ValueError: its table has no Dice or no HD95.
    """
    folder = Path(folder)
    record_path, table_path = folder / "run.json", folder / "metrics_test.csv"
    for path, maker in ((record_path, "a run of train.yaml"), (table_path, "evaluate.yaml")):
        if not path.is_file():
            msg = f"{path}: not there; {maker} writes it"
            raise FileNotFoundError(msg)
    parameters = json.loads(record_path.read_text(encoding="utf-8"))["parameters"]
    table = read_score_table(table_path, name)
    scored = {metric for scores in table.scores.values() for metric in scores}
    wanted = [m for m in ("dice", "hd95_mm", "hd95_px") if m in scored]
    averages = measure_performance(table, wanted, resamples=200).macro
    distance = next((metric for metric in wanted if metric.startswith("hd95")), None)
    if "dice" not in averages or distance is None:
        has = ", ".join(wanted) or "neither"
        msg = f"{table_path}: expected scores dice and hd95_mm (or hd95_px), has {has}"
        raise ValueError(msg)
    return TableRow(
        method=name,
        trainable=int(parameters["trainable"]),
        total=int(parameters["total"]),
        dice=averages["dice"].mean,
        hd95=averages[distance].mean,
        hd95_unit=distance.removeprefix("hd95_"),
        num_infinite=averages[distance].n_inf,
        num_cases=len(table.cases),
    )


def make_table(
    runs: Mapping[str, str | Path] | None = None,
    *,
    backbone: str = "vit_b",
    recipes: Sequence[str] = tuple(RECIPES),
) -> list[TableRow]:
    """Rows of the recipes, with what their runs reached, then those of other runs."""
    runs = runs or {}
    rows = [
        measure_run(name, runs[name]) if name in runs else count_recipe(name, backbone)
        for name in recipes
    ]
    return rows + [measure_run(name, runs[name]) for name in runs if name not in recipes]


def as_markdown(rows: Sequence[TableRow]) -> str:
    """The table for a page."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def as_csv(rows: Sequence[TableRow]) -> str:
    """The table with whole numbers, empty where nothing was run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("Method", "Avg_Dice", "Avg_HD95", "HD95_unit", "n_inf_HD95", "Trainable", "Total", "n")
    )
    for row in rows:
        ran = row.num_cases > 0
        found = (row.dice, row.hd95, row.hd95_unit, row.num_infinite)
        measured = found if ran else ("",) * len(found)
        writer.writerow((row.method, *measured, row.trainable, row.total, row.num_cases or ""))
    return text.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description="the recipes' table")
    parser.add_argument("--run", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--backbone", default="vit_b", help="of configs/backbones (default: vit_b)")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="a,b (default: all)")
    parser.add_argument("--out", type=Path, help="CSV to write")
    args = parser.parse_args(arguments)
    runs = {}
    for text in args.run:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in runs:
            parser.error(f"--run {text}: expected NAME=FOLDER, each name once")
        runs[name] = folder
    recipes = [name for name in args.recipes.split(",") if name]
    unknown = sorted(set(recipes) - set(RECIPES))
    if unknown:
        parser.error(f"no recipe {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    try:
        rows = make_table(runs, backbone=args.backbone, recipes=recipes)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(as_markdown(rows), end="")
    if args.out is not None:
        write_atomically(args.out, as_csv(rows).encode())


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
