"""Cross-validation: each fold an ordinary run; its held-out cases are scored, the rows pooled."""

import csv
import gc
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import create_workflow

from samtune.atomic import write_atomically
from samtune.evaluation.pool import pool_tables
from samtune.evaluation.summary import SummaryRow
from samtune.evaluation.table import format_csv
from samtune.networks.weights import sha256_of
from samtune.preprocessing.folder_lock import locked_folder
from samtune.training.checkpoint import CHECKPOINT
from samtune.training.errors import root_cause
from samtune.training.fold_checks import RECORD, check_evaluation, check_out
from samtune.training.folds import fold_of_cases
from samtune.training.joined import open_slices
from samtune.training.paths import adapter_path, bundle_root
from samtune.training.postprocess import FILE as POSTPROCESSING
from samtune.training.run_folder import load_run
from samtune.training.settings import flag

TABLE = "metrics_oof.csv"
CURVES = "curve_folds.csv"
FORMAT_VERSION = 1
# what the command itself sets
_OWN = ("dataset_dir", "runs_dir", "run_name", "output_dir", "data")
_OWN_EVALUATION = ("run_dir", "ensemble", "dataset_dir", "output_dir", "split")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrossValidation:
    """Folds of a folder of slices, each trained and scored in ``out/fold_N``.

    Args:
        dataset_dir: folder of slices, or a list of joined ones.
        out: folder of the folds.
        folds, seed, stratify: see :func:`samtune.training.folds.open_fold`.
        configs: overlays of ``train.yaml``: files, or names in the bundle such as
            ``methods/salt``.
        settings: keys of ``train.yaml`` for all folds.
        evaluation: keys of ``evaluate.yaml``.
        logging_file: see :func:`monai.bundle.create_workflow`.

    Raises:
        FileNotFoundError: no such overlay.
        ValueError: a key that the command sets itself.
    """

    dataset_dir: str | Sequence[Any]
    out: Path
    folds: int = 5
    seed: int = 0
    stratify: str | None = None
    configs: Sequence[str | Path] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    logging_file: Any = None

    def __post_init__(self) -> None:
        for given, own in ((self.settings, _OWN), (self.evaluation, _OWN_EVALUATION)):
            for key in given:
                top = key.replace("#", "::").split("::")[0]
                if top in own:
                    msg = f"{key}: the cross-validation sets '{top}' itself, for each fold"
                    raise ValueError(msg)
        self._files()

    def run(self) -> list[SummaryRow] | None:
        """Train and score what isn't yet, then pool.

        Finished folds are left alone; an unfinished one goes on where it was.

        Returns:
            The summary of the out-of-fold table; ``None``: a fold's training ended before time
            (``max_minutes``), and nothing after it was done.

        Raises:
            FileExistsError: a fold's folder holds a run with other settings, or ``out`` other runs.
            NotADirectoryError: ``out`` is a file.
            OSError: another process trains or scores there.
            ValueError: the cases can't be dealt, a config doesn't take the folds, or a key of
                ``evaluation`` is wrong.
        """
        # before anything is trained
        fold_of = fold_of_cases(
            open_slices(self.dataset_dir),
            self.folds,
            self.seed,
            self.stratify,  # type: ignore[arg-type]  # checked there
        )
        self._check()
        with locked_folder(self.out):
            for fold in range(self.folds):
                logger.info("fold %d of %d", fold, self.folds)
                held_out = sorted(c for c, number in fold_of.items() if number == fold)
                if not self._train(fold, held_out):
                    return None
            tables = {self._run(fold).name: self._score(fold) for fold in range(self.folds)}
            self._write_curves()
            return pool_tables(tables, self.out / TABLE, run=self.out)

    @property
    def _device(self) -> dict[str, Any]:
        """Where the folds were trained, they are scored."""
        return {"device": self.settings["device"]} if "device" in self.settings else {}

    def _run(self, fold: int) -> Path:
        return self.out / f"fold_{fold}"

    def _files(self) -> list[str]:
        configs = Path(bundle_root("sam_finetune")) / "configs"
        files = [configs / "train.yaml"]
        for given in self.configs:
            named = configs / f"{str(given).removesuffix('.yaml')}.yaml"
            file = Path(given) if Path(given).is_file() else named
            if not file.is_file():
                msg = f"there is no config '{given}', neither a file nor in '{configs}'"
                raise FileNotFoundError(msg)
            files.append(file)
        return [str(file) for file in files]

    def _overrides(self, fold: int) -> dict[str, Any]:
        """What the training of a fold is given beside its files."""
        return {
            **self.settings,
            "dataset_dir": self.dataset_dir,
            "runs_dir": str(self.out),
            "run_name": f"fold_{fold}",
            "data": {
                "fold": fold,
                "folds": self.folds,
                "seed": self.seed,
                "stratify": self.stratify,
            },
        }

    def _check(self) -> None:
        """Everything that is known to be wrong before the first fold trains."""
        check_out(self.out)
        try:
            check_evaluation(
                {**self._device, **self.evaluation}, self._files(), self._overrides(0), self.out
            )
        except RuntimeError as error:
            _raise_cause(error)

    def _train(self, fold: int, held_out: list[str]) -> bool:
        """Train a fold; whether it came to its end."""
        path = self._run(fold)
        workflow: Any = None
        try:
            # checks the folder, too: another run in it is an error, also where it is finished
            workflow = create_workflow(
                config_file=self._files(),
                run_id="training",
                logging_file=self.logging_file,
                **self._overrides(fold),
            )
            found = load_run(path).record["data"]["split"].get("val")
            if found != held_out:
                msg = (
                    f"fold {fold} validates on {found}, expected {held_out}: a config sets "
                    "'manifest' and passes over 'data'"
                )
                raise ValueError(msg)
            epochs = int(workflow.parser.get_parsed_content("epochs"))
            workflow.run()  # a finished run says so, and writes an adapter that a kill left out
            workflow.finalize()
        except RuntimeError as error:
            _raise_cause(error)
        finally:
            del workflow
            _free()
        return _is_finished(path, epochs)

    def _score(self, fold: int) -> Path:
        """The table of a fold's held-out cases, made unless it is of these very weights."""
        path = self._run(fold)
        table = path / "metrics_val.csv"
        # what a fold's own cases chose would flatter it on them
        evaluation = {"postprocess": False, **self.evaluation}
        settings = json.loads(json.dumps(evaluation, default=str))
        adapter = adapter_path(path, settings.get("adapter", "best"))

        def state() -> dict[str, Any]:
            files = {"adapter": adapter, "table": table}
            if flag("postprocess", evaluation["postprocess"]):
                files["postprocessing"] = path / POSTPROCESSING
            hashes = {k: sha256_of(file) for k, file in files.items() if file.is_file()}
            return {**hashes, "evaluation": settings}

        record = _read_record(self.out / RECORD)
        if table.is_file() and record["scored"].get(path.name) == state():
            logger.info("'%s' is there", table)
            return table
        workflow: Any = None
        try:
            workflow = create_workflow(
                config_file=f"{bundle_root('sam_finetune')}/configs/evaluate.yaml",
                run_id="run",
                logging_file=self.logging_file,
                **{**self._device, **evaluation, "run_dir": str(path), "split": "val"},
            )
            workflow.run()
            workflow.finalize()
        except RuntimeError as error:
            _raise_cause(error)
        finally:
            del workflow
            _free()
        record["scored"][path.name] = state()
        record |= {"folds": self.folds, "seed": self.seed, "stratify": self.stratify}
        text = json.dumps(record, indent=2, sort_keys=True)
        write_atomically(self.out / RECORD, (text + "\n").encode())
        return table

    def _write_curves(self) -> None:
        """The folds' ``curve.csv`` below each other, with a column ``fold`` in front."""
        rows: list[dict[str, str]] = []
        for fold in range(self.folds):
            with (self._run(fold) / "curve.csv").open(newline="", encoding="utf-8") as file:
                rows += [{"fold": str(fold), **row} for row in csv.DictReader(file)]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
        write_atomically(self.out / CURVES, format_csv(lines).encode())


def _is_finished(run: Path, epochs: int) -> bool:
    state: dict[str, Any] = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    return bool(state.get("finished", False)) or int(state["epoch"]) >= epochs


def _read_record(file: Path) -> dict[str, Any]:
    """What was scored; a file that can't be read says nothing was."""
    try:
        record: Any = json.loads(file.read_bytes())
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or record.get("format_version") != FORMAT_VERSION:
        return {"format_version": FORMAT_VERSION, "scored": {}}
    return record


def _free() -> None:
    gc.collect()  # engines and handlers refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _raise_cause(error: RuntimeError) -> None:
    cause = root_cause(error)
    if isinstance(cause, ValueError | OSError):
        raise cause from None
    raise error
