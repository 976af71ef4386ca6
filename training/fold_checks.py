"""What a cross-validation can know to be wrong before it trains for hours."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from samtune.preprocessing.manifest import Manifest
from samtune.training.averaging import check_flips
from samtune.training.bundle_call import META, BundleCall
from samtune.training.case_writers import CaseMetricsWriter
from samtune.training.config_keys import check_config
from samtune.training.paths import bundle_root
from samtune.training.run_record import RUN_FILE
from samtune.training.task import Task

RECORD = "cross_validation.json"
# keys of evaluate.yaml that are whole by themselves: making them checks them
_WHOLE = ("save", "clean", "torch_device", "flips", "adapter")
_SCORES = {
    "tolerances_mm": "tolerance_mm",
    "class_tolerances_mm": "class_tolerance_mm",
    "definition": "definition",
    "cldice": "cldice",
    "ignore_label": "ignore_label",
    "patients": "patients",
}


def check_out(out: Path) -> None:
    """Refuse a place for the folds where something else lies.

    Raises:
        NotADirectoryError: it is a file.
        FileExistsError: runs are there that are no folds, or another cross-validation is.
    """
    if out.exists() and not out.is_dir():
        msg = f"'{out}' is a file, expected a folder for the folds: choose another --out"
        raise NotADirectoryError(msg)
    if (out / RUN_FILE).is_file():
        msg = f"'{out}' is the folder of a run: choose another --out for the folds"
        raise FileExistsError(msg)
    others = sorted(
        {file.parent.name for name in (RUN_FILE, RECORD) for file in out.glob(f"*/{name}")}
    )
    others = [name for name in others if not re.fullmatch(r"fold_\d+", name)]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        msg = (
            f"'{out}' holds other runs, '{others[0]}'{more}: choose a folder of their own for the "
            f"folds, e.g. --out {out / 'cv'}"
        )
        raise FileExistsError(msg)


def check_evaluation(
    evaluation: Mapping[str, Any],
    files: Sequence[str],
    overrides: Mapping[str, Any],
    out: Path,
) -> None:
    """Refuse keys of ``evaluate.yaml`` that don't exist, and values that no fold can be scored by.

    Args:
        evaluation: what is given of its keys.
        files, overrides: of a fold's training: they say what is segmented.
        out: folder of the folds.

    Raises:
        ValueError, OSError: one is wrong.
        RuntimeError: the same from within a config.
    """
    file = f"{bundle_root('sam_finetune')}/configs/evaluate.yaml"
    parser = _parser([file], evaluation)
    config: Any = parser.get()
    given = {key: value for key, value in config.items() if key != META}
    ids = ("initialize", "run", "finalize")
    check_config("evaluate", BundleCall(given, ids, (file,), tuple(evaluation)))
    parts = {key: parser.get_parsed_content(key) for key in (*_WHOLE, *_SCORES.values())}
    check_flips(parts["flips"])
    if parts["adapter"] not in ("best", "last"):
        msg = f"--evaluate adapter must be best or last, got '{parts['adapter']}'"
        raise ValueError(msg)
    training = _parser(files, overrides)
    manifest: Manifest = training.get_parsed_content("manifest")
    task: Task = training.get_parsed_content("task")
    scores: dict[str, Any] = {name: parts[key] for name, key in _SCORES.items()}
    for split in ("train", "val"):  # of one fold, together the cases of all
        CaseMetricsWriter(manifest, split, task, out / "metrics_val.csv", **scores)


def _parser(files: Sequence[str], overrides: Mapping[str, Any]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(list(files))
    parser.update(dict(overrides))
    return parser
