"""Compare two folders of label volumes: a row a case and region, and a summary."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from samtune.evaluation.case_patients import patients_of
from samtune.evaluation.diagonals import diagonals_of
from samtune.evaluation.label_files import find_labels, label_grid, read_label_file
from samtune.evaluation.metrics import check_tolerances
from samtune.evaluation.metrics_csv import MetricsCsv
from samtune.evaluation.regions import Region, check_regions, with_options
from samtune.evaluation.score_case import label_values
from samtune.evaluation.score_files import Scoring, find_unit, score_files
from samtune.evaluation.summary import SummaryRow, summarise, write_summary
from samtune.evaluation.surface_scores import DEFAULT_DEFINITION, Definition, check_definition
from samtune.evaluation.table import Row, Unit
from samtune.preprocessing.run_cases import Scheduler, run_cases


@dataclass(frozen=True)
class FolderReport:
    """What :func:`evaluate_folders` found and wrote.

    Attributes:
        out: the metrics table; ``companion`` and ``summary_out`` lie beside it.
        regions: what was scored.
        labels_found: the regions are the labels of the reference files, for none were given.
        rows: all rows, by case, those kept from an earlier run included.
        summary: one line a region.
        num_kept: cases kept from an earlier run.
        failures: case -> why it couldn't be scored.
        missing: cases without a prediction.
        extra: predictions without a reference; not scored.
    """

    out: Path
    companion: Path
    summary_out: Path
    regions: tuple[Region, ...]
    labels_found: bool
    rows: list[Row]
    summary: list[SummaryRow]
    num_kept: int
    failures: dict[str, str]
    missing: list[str]
    extra: list[str]

    @property
    def is_complete(self) -> bool:
        """Every reference had a prediction, and every pair could be scored."""
        return not self.failures and not self.missing


def evaluate_folders(
    pred_dir: str | Path,
    ref_dir: str | Path,
    out: str | Path,
    *,
    regions: Sequence[Region] | None = None,
    cases: Sequence[str] | None = None,
    tolerances_mm: Sequence[float] = (1.0,),
    class_tolerances_mm: Mapping[str, Sequence[float]] | None = None,
    cldice: Sequence[str] = (),
    definition: Definition = DEFAULT_DEFINITION,
    unit: Unit | None = None,
    ignore_label: int | None = None,
    resample_pred: bool = False,
    workers: int | None = 1,
    scheduler: Literal["processes", "dask"] = "processes",
    address: str | None = None,
    force: bool = False,
    progress: bool = False,
    patients: Mapping[str, str] | None = None,
) -> FolderReport:
    """Score every reference volume against the prediction of the same name.

    A case that can't be scored (unreadable, other shape or affine, a label that isn't listed)
    doesn't end the run: it gets ``failed`` rows with the worst score. So does a missing
    prediction, as ``missing_pred``. Run again with the same arguments, scored cases whose files
    are unchanged are kept, and failed and missing ones are tried again.

    Args:
        pred_dir: predictions, ``CASE.nii.gz`` or another volume, picture or ``.npz``.
        ref_dir: references; the cases are these.
        out: CSV to write; ``NAME.json`` and ``NAME_summary.csv`` are put beside it.
        regions: what to score; None takes the labels of all reference files, never those of a
            prediction.
        cases: names of the references to score; None: all of them.
        tolerances_mm: Surface Dice tolerances in mm, one column each.
        class_tolerances_mm: region name -> its tolerances in place of these.
        cldice: names of the regions whose centrelines are scored too.
        definition: of the surface metrics, ``surface-distance`` or ``monai``.
        unit: of lengths and tolerances; ``px`` ignores the spacing (MedSAM's convention). None:
            ``mm``, or ``px`` if the first reference has no spacing.
        ignore_label: voxels of this class in the reference count as background in both.
        resample_pred: put a prediction that is on another grid on the reference's, nearest voxel;
            else it fails.
        workers: processes, one case each at a time; None: one a core. Not counted on a cluster.
        scheduler, address: of a Dask cluster that sees the same files, see
            :class:`samtune.preprocessing.run_cases.Scheduler`.
        force: overwrite a table of another evaluation.
        progress: show a bar on stderr if that is a terminal.
        patients: case -> patient, the unit of the summary's intervals; a case without is an
            error. None: each case is its own patient.

    Returns:
        The rows and what to tell the user.

    Raises:
        FileNotFoundError: a folder is missing or holds no volumes.
        FileExistsError: ``out`` holds another evaluation.
        ValueError: two files are one case, no name is in both folders, no labels are found, or
            tolerances, names, definition, workers or scheduler are wrong.
        ImportError: ``scheduler`` is dask, and Dask is not installed.
    """
    pred_dir, ref_dir = Path(pred_dir), Path(ref_dir)
    tolerances = check_tolerances(tolerances_mm)
    where = Scheduler(scheduler, workers, address)
    if scheduler == "dask":  # its workers are in other folders
        pred_dir, ref_dir = pred_dir.absolute(), ref_dir.absolute()
    preds, refs = find_labels(pred_dir), find_labels(ref_dir)
    if cases is not None:
        unknown = sorted(set(cases) - refs.keys())
        if unknown or not cases:
            raise ValueError(f"{ref_dir}: no reference for the case(s) {', '.join(unknown)}")
        refs = {case: path for case, path in refs.items() if case in cases}
    if patients is not None:
        patients_of(refs, patients, "patients")  # said now, not after hours of scoring
    if not preds.keys() & refs.keys():
        raise ValueError(
            f"{pred_dir}: no prediction has the name of a reference; found {next(iter(preds))}, "
            f"expected names as in {ref_dir}: {next(iter(refs))}"
        )
    extra = sorted(preds.keys() - refs.keys())
    missing = sorted(refs.keys() - preds.keys())
    found = _find_regions(ref_dir, refs, where, ignore_label) if regions is None else regions
    scored = check_regions(with_options(found, tolerances_mm=class_tolerances_mm, cldice=cldice))
    scoring = Scoring(
        regions=scored,
        tolerances_mm=tolerances,
        definition=check_definition(definition),
        unit=unit or find_unit(list(refs.values())),
        ignore_label=ignore_label,
        resample_pred=resample_pred,
    )
    table = MetricsCsv(
        out,
        regions=scored,
        tolerances_mm=tolerances,
        definition=scoring.definition,
        unit=scoring.unit,
        settings={
            "pred": str(pred_dir.resolve()),
            "ref": str(ref_dir.resolve()),
            **({} if cases is None else {"cases": sorted(cases)}),
            **({} if ignore_label is None else {"ignore_label": ignore_label}),
            **({"resample_pred": True} if resample_pred else {}),
        },
        inputs={case: f"{_hash(preds.get(case))} {_hash(path)}" for case, path in refs.items()},
        notes={
            "labels_from": "reference files" if regions is None else "arguments",
            "missing_predictions": missing,
            "predictions_without_reference": extra,
            **({} if patients is None else {"patients": {case: patients[case] for case in refs}}),
        },
        force=force,
    )
    todo = [case for case in refs if case not in table.finished]
    calls = [(case, preds.get(case), refs[case], scoring) for case in todo]
    failures = {}
    for rows, reason in run_cases(score_files, calls, where, progress=progress, what="evaluate"):
        if reason is not None:
            failures[rows[0].case] = reason
        table.add(rows, reason=reason)
    diagonals = diagonals_of(table.rows, refs, grid_of=label_grid)
    rows = table.finish(notes={"diagonals": diagonals})
    summary = summarise(rows, patients=patients, diagonals=diagonals)
    summary_out = table.path.with_name(f"{table.path.stem}_summary.csv")
    write_summary(summary_out, summary)
    return FolderReport(
        out=table.path,
        companion=table.companion,
        summary_out=summary_out,
        regions=scored,
        labels_found=regions is None,
        rows=rows,
        summary=summary,
        num_kept=len(table.finished),
        failures=dict(sorted(failures.items())),
        missing=[case for case in missing if case not in failures],
        extra=extra,
    )


def _find_regions(
    ref_dir: Path, refs: dict[str, Path], where: Scheduler, ignore_label: int | None
) -> tuple[Region, ...]:
    """One region a label of the reference files; unreadable ones fail later, as cases."""
    paths = [(path,) for path in refs.values()]
    found = run_cases(_label_values, paths, where, progress=False)
    values = sorted(set().union(*found) - {ignore_label})
    if not values:
        raise ValueError(
            f"{ref_dir}: no label in any of {len(refs)} reference files; expected classes >= 1, "
            "or list them (--labels 1:name)"
        )
    return tuple(Region(f"label_{value}", (value,)) for value in values)


def _label_values(path: Path) -> list[int]:
    try:
        return label_values(read_label_file(path).array)
    except (ValueError, OSError):
        return []


def _hash(path: Path | None) -> str:
    if path is None:
        return "missing"
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"
