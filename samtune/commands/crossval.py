"""``samtune crossval``: train the folds, score and pool their held-out cases."""

import argparse
import ast
from pathlib import Path
from typing import Any

EPILOG = """examples:
  samtune crossval slices --out runs/cv --folds 5 --set epochs=20 rank=4
  samtune crossval slices --out runs/cv --config methods/salt --evaluate "tolerance_mm=[1, 2]"
then, the folds as an ensemble:
  samtune predict runs/cv SCAN --out predictions
  python -m monai.bundle run --config_file bundles/sam_finetune/configs/evaluate.yaml \\
    --run_dir runs/cv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``samtune crossval``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Deal the cases of the splits train and val into folds, by patient; train a run for each, "
        "in OUT/fold_N, on the cases of the others; score each case by the run that has not seen "
        "it; pool the rows in OUT/metrics_oof.csv. Test cases are not opened. The same command "
        "again goes on where it was."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "dataset",
        nargs="+",
        metavar="DATASET_DIR",
        help="folder that 'samtune slice' wrote; several are joined by class names",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the folds")
    parser.add_argument("--folds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument(
        "--fold-seed", type=int, default=0, help="another seed is other folds (default: 0)"
    )
    parser.add_argument(
        "--stratify",
        choices=("presence", "volume"),
        help="deal alike to all folds: cases with the same classes, or by label volume",
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="overlay of train.yaml, or its name in the bundle such as methods/salt; repeatable",
    )
    parser.add_argument(
        "--set",
        dest="settings",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="keys of train.yaml, e.g. epochs=20 peft::rank=4",
    )
    parser.add_argument(
        "--evaluate",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="keys of evaluate.yaml, e.g. flips=h",
    )


def run(args: argparse.Namespace) -> int:
    """Cross-validate; prints the summary."""
    from samtune.evaluation.summary import format_summary
    from samtune.training.cross_validation import TABLE, CrossValidation
    from samtune.training.errors import quiet_end

    validation = CrossValidation(
        args.dataset[0] if len(args.dataset) == 1 else list(args.dataset),
        args.out,
        folds=args.folds,
        seed=args.fold_seed,
        stratify=args.stratify,
        configs=args.config,
        settings=_settings(args.settings),
        evaluation=_settings(args.evaluate),
    )
    with quiet_end():
        summary = validation.run()
    if summary is None:
        print("stopped before the end: the same command goes on")
        return 1
    print(f"{args.out / TABLE}\n{format_summary(summary)}")
    return 0


def _settings(given: list[str]) -> dict[str, Any]:
    """Values as Python or YAML has them, else text.

    Raises:
        ValueError: an entry is not ``KEY=VALUE``, or a key is there twice.
    """
    settings: dict[str, Any] = {}
    for entry in given:
        key, equals, text = entry.partition("=")
        if not key or not equals or key in settings:
            why = "is there twice" if key in settings else "is not KEY=VALUE"
            msg = f"'{entry}' {why}"
            raise ValueError(msg)
        settings[key] = _value(text)
    return settings


def _value(text: str) -> Any:
    import yaml

    for read in (ast.literal_eval, yaml.safe_load):
        try:
            return read(text)
        except (ValueError, SyntaxError, yaml.YAMLError):
            continue
    return text
