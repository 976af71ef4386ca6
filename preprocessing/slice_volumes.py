"""Folders of volumes to slice files and a manifest: ``samtune slice`` as a function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from samtune.preprocessing.case_ids import safe_case_ids
from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.contact_sheet import draw_contact_sheet
from samtune.preprocessing.folder_lock import locked_folder
from samtune.preprocessing.hidden_ids import hide_ids, salt_fingerprint
from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.label_steps import LabelSteps
from samtune.preprocessing.output_folder import (
    CONTACT_SHEET_NAME,
    assemble_manifest,
    check_output_folder,
    check_split,
    clear_output,
    finished_cases,
    remove_slice_files,
    write_failures,
)
from samtune.preprocessing.pair_rule import PairRule
from samtune.preprocessing.pairing import pair_files
from samtune.preprocessing.patients import PatientRule
from samtune.preprocessing.read_case import (
    case_grid,
    chosen_volume,
    fixed_axis,
    label_grids,
    read_case_label,
    with_ignored,
)
from samtune.preprocessing.run_cases import Scheduler, run_cases
from samtune.preprocessing.slice_case import try_slice_case
from samtune.preprocessing.slice_settings import Slicing
from samtune.preprocessing.slicing import AXES, CaseGeometry
from samtune.preprocessing.source_splits import complete_split
from samtune.preprocessing.split_plan import SplitPlan
from samtune.preprocessing.split_rule import SplitRule
from samtune.preprocessing.splits import DEFAULT_RATIO
from samtune.preprocessing.volumes import check_same_grid

LAYOUTS = ("slice", "volume")


@dataclass(frozen=True)
class PlannedCase:
    """What slicing a case would give, from the headers alone."""

    geometry: CaseGeometry
    split: str
    is_done: bool

    @property
    def num_slices(self) -> int:
        """Number of slices, all of the volume's; of tiles if they are tiled."""
        return self.geometry.slices_shape[0] * self.geometry.num_tiles


@dataclass(frozen=True)
class SliceReport:
    """What a run did.

    Attributes:
        out: the output folder.
        done: cases sliced by this run.
        skipped: cases that a former run had completed.
        failed: case id to the reason, one line.
        num_slices: slices in the manifest; in a dry run, those it would have.
        planned: in a dry run, what would be done; else empty.
    """

    out: Path
    done: list[str]
    skipped: list[str]
    failed: dict[str, str]
    num_slices: int
    planned: list[PlannedCase] = field(default_factory=list)


def slice_volumes(
    images: Path | Sequence[CaseSource],
    labels: Path | None = None,
    *,
    modality: str,
    out: Path,
    axis: int | None = None,
    layout: Literal["slice", "volume"] = "slice",
    window: tuple[float, float] | None = None,
    intensity: Intensity | None = None,
    slicing: Slicing | None = None,
    label_steps: LabelSteps | None = None,
    split_ratio: Sequence[float] | None = None,
    split_counts: Sequence[int] | None = None,
    split_csv: Path | None = None,
    seed: int = 0,
    split: SplitRule | None = None,
    patients: PatientRule | None = None,
    class_names: Mapping[int, str] | None = None,
    pair_rule: PairRule | None = None,
    label_rule: Mapping[str, Any] | None = None,
    salt: str | None = None,
    workers: int | None = None,
    scheduler: Literal["processes", "dask"] = "processes",
    address: str | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: bool = True,
) -> SliceReport:
    """Turn NIfTI volumes into slice files with a manifest.

    Writes ``out/slices/CASE_000.npz`` ..., ``out/cases/CASE.json``, ``out/manifest.json``,
    ``out/contact_sheet.png`` and, if cases failed, ``out/failures.csv``. Every slice of every case
    is kept. Equal input gives equal bytes, whether or not a run was killed in between: a rerun does
    what is missing. One process at a time writes to ``out``.

    Args:
        images: folder of ``.nii``/``.nii.gz`` volumes, or one volume; or the cases of a dataset
            (:func:`samtune.preprocessing.layouts.list_dataset`), whose own split is kept: cases
            without one are then shared among the splits that no case has.
        labels: the same for labels of the same names, or None.
        modality: ``mr``, ``ct`` or ``oct``; see :class:`Intensity`.
        out: output folder.
        axis: RAS axis to cut; None takes the one with the largest spacing, ties 2.
        layout: one file a slice, or one a volume.
        window: level and width in HU, ct only.
        intensity: in place of the modality's defaults and of ``window``.
        slicing: crop, resampling, tiles and channels; its axis counts where ``axis`` is None.
        label_steps: label map and removal of small objects; names in the map are class names, and
            ``class_names`` counts for its other targets.
        split_ratio: shares of train, val and test; None takes the dataset's own split if it has
            one, else 0.7, 0.1 and 0.2.
        split_counts: numbers of cases in place of the shares.
        split_csv: file with columns case,split in place of both.
        seed: of the split by shares or numbers.
        split: any rule, in place of these four; one that stratifies is applied after slicing.
        patients: cases of one patient are in one split; None takes what the dataset says.
        class_names: label value to name; if given, every value that occurs must have one.
        pair_rule: other than equal names, see :func:`~samtune.preprocessing.pairing.pair_files`.
        label_rule: how stored label pixels become classes, see
            :meth:`samtune.preprocessing.readers.label_rule.LabelRule.from_mapping`.
        salt: secret text: case ids tell nothing of names, see
            :func:`samtune.preprocessing.hidden_ids.hide_ids`.
        workers: processes; None for as many as there are cores and cases, 1 for none extra.
        scheduler, address: of a Dask cluster that sees the same files, see :class:`Scheduler`.
        dry_run: write nothing, report what would be done.
        force: remove what is in ``out`` of a former run and do all of it.
        progress: a bar on stderr, if that is a terminal.

    Returns:
        Counts and names; cases that failed are in ``failed``, the manifest has the others. If
        all failed there is no manifest.

    Raises:
        FileNotFoundError: nothing to read; before anything is written.
        ValueError: unpaired files, no label voxel in any case, unusable settings, or ``out``
            holds another configuration, older sources or files of something else; before
            anything is written.
        OSError: another process writes to ``out``, or a worker was killed; the cases finished so
            far count for the next run.
        ImportError: ``scheduler`` is dask, and Dask is not installed.
    """
    out = Path(out)
    where = Scheduler(scheduler, workers, address)
    if axis is not None and axis not in AXES:
        raise ValueError(f"axis must be 0, 1, 2 or None, got {axis!r}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be slice or volume, got {layout!r}")
    intensity = intensity or Intensity.for_modality(modality, window=window)
    if intensity.modality != modality:
        raise ValueError(f"intensity is of modality {intensity.modality}, asked for is {modality}")
    slicing, label_steps = slicing or Slicing(), label_steps or LabelSteps()
    axis = slicing.axis if axis is None else axis
    if isinstance(images, str | Path):
        files = pair_files(images, labels, rule=pair_rule)
    else:
        files = list(images)
    is_labelled = any(one.labels for one in files)
    if not is_labelled and (label_steps != LabelSteps() or slicing.crop_margin is not None):
        source = images if isinstance(images, str | Path) else files[0].image.parent
        raise ValueError(f"{source}: a crop, label map or removal of objects needs labels")
    if scheduler == "dask":  # its workers are in other folders
        out, files = out.absolute(), [_absolute(one) for one in files]
    files = files if salt is None else hide_ids(files, salt)
    safe = safe_case_ids(one.case for one in files)
    files = sorted((replace(one, case=safe[one.case]) for one in files), key=lambda one: one.case)
    cases = [one.case for one in files]
    label_steps = _with_ignored(label_steps, label_rule)
    if split is None:
        by_counts = None if split_csv is not None else split_counts
        by_ratio = DEFAULT_RATIO if split_ratio is None else split_ratio
        split = SplitRule(by_ratio, by_counts, split_csv, seed=seed)
        unasked = split_ratio is None and split_counts is None and split_csv is None
        given = {one.case: one.split for one in files if one.split is not None}
        if unasked and given:
            complete, _ = complete_split(files, given, ratio=by_ratio, seed=seed)
            files = [replace(one, split=complete[one.case]) for one in files]
            split = SplitRule(given=True)
    if split.stratify is not None and not is_labelled:
        raise ValueError("split: labels are needed to stratify")
    if split.stratify is not None and slicing.crop_margin is not None:
        raise ValueError("split: a crop of training cases needs the split before slicing")
    plan = SplitPlan.of(split, patients, files)
    split_of = plan.before_slicing or {}
    settings: dict[str, Any] = {
        "modality": modality,
        "intensity": intensity.to_dict(),
        "axis": "auto" if axis is None else axis,
        "layout": layout,
        "labelled": is_labelled,
        "split": plan.to_dict(),
        "class_names": _names_by_text(label_steps.names(class_names or {})),
    }
    for key, value in (
        ("slicing", slicing.to_dict()),
        ("label_steps", label_steps.to_dict()),
        ("label_rule", dict(label_rule or {})),
        ("volume", chosen_volume(files)),
        ("case_ids", {} if salt is None else {"salt_fingerprint": salt_fingerprint(salt)}),
    ):
        if value:  # absent where nothing is asked for: as in folders of older versions
            settings[key] = value
    check_output_folder(out)
    if dry_run:
        skipped = _start(out, files, settings, plan, force=force)
        return _plan(out, files, slicing, axis, split_of, skipped)
    with locked_folder(out):
        skipped = _start(out, files, settings, plan, force=force)
        if force:
            clear_output(out, cases)
        todo = [one for one in files if one.case not in set(skipped)]
        outcomes = run_cases(
            try_slice_case,
            [(one, out, settings, split_of.get(one.case)) for one in todo],
            where,
            progress=progress,
        )
        failed = {one.case: one.error for one in outcomes if one.error is not None}
        failed = dict(sorted(failed.items()))
        manifest = assemble_manifest(out, settings, cases, failed, patients=plan.patients)
        remove_slice_files(out, cases, keep=[row.file for row in manifest.slices])
        write_failures(out, failed, todo)
        if manifest.cases:
            manifest = plan.apply(manifest)
            draw_contact_sheet(manifest, out / CONTACT_SHEET_NAME)
            manifest.save()
    done = [one.case for one in todo if one.case not in failed]
    return SliceReport(out, done, skipped, failed, len(manifest.slices))


def _absolute(one: CaseSource) -> CaseSource:
    return replace(
        one,
        images=tuple(path.absolute() for path in one.images),
        labels=tuple(path.absolute() for path in one.labels),
    )


def _start(
    out: Path,
    files: list[CaseSource],
    settings: dict[str, Any],
    plan: SplitPlan,
    *,
    force: bool,
) -> list[str]:
    """Cases that are done already; refuses what cannot go on or has no label anywhere."""
    skipped = [] if force else finished_cases(out, files, settings)
    if not force and plan.before_slicing is not None:
        check_split(out, plan.before_slicing)
    if not skipped and any(one.labels for one in files):
        ignore_label = settings.get("label_steps", {}).get("ignore_label")
        _require_some_label(files, settings.get("label_rule"), ignore_label)
    return skipped


def _plan(
    out: Path,
    files: list[CaseSource],
    slicing: Slicing,
    axis: int | None,
    split: Mapping[str, str],
    skipped: list[str],
) -> SliceReport:
    planned: list[PlannedCase] = []
    failed: dict[str, str] = {}
    for one in files:
        try:
            grid = case_grid(one)
            for label in label_grids(one):
                check_same_grid(grid, label)
        except (ValueError, OSError) as error:
            failed[one.case] = str(error)
            continue
        geometry = CaseGeometry.of(grid, case=one.case, axis=fixed_axis(one, axis))
        geometry = slicing.lay(geometry)
        in_split = split.get(one.case, "split after slicing")
        planned.append(PlannedCase(geometry, in_split, one.case in skipped))
    total = sum(case.num_slices for case in planned)
    return SliceReport(out, [], skipped, failed, total, planned)


def _with_ignored(steps: LabelSteps, label_rule: Mapping[str, Any] | None) -> LabelSteps:
    """What the rule leaves as ignored is no class for the steps after it."""
    named = (label_rule or {}).get("ignore_label")
    if named is None or named == steps.ignore_label:
        return steps
    if steps.ignore_label is not None:
        raise ValueError(
            f"ignore label {steps.ignore_label}: the label rule names {named}; expected one value"
        )
    return replace(steps, ignore_label=named)


def _require_some_label(
    files: list[CaseSource], label_rule: Mapping[str, Any] | None, ignore_label: int | None
) -> None:
    unreadable = 0
    for one in files:  # as a rule the first one ends it
        try:
            rule = with_ignored(label_rule, ignore_label, one)
            like = case_grid(one) if one.label is not None else None
            label = read_case_label(one, rule=rule, like=like)
            is_class = label is not None and (label.array != 0) & (label.array != ignore_label)
            if np.any(is_class):
                return
        except (ValueError, OSError):
            unreadable += 1  # reported as this case's failure later
    if unreadable < len(files):
        folder = next(one.label.parent for one in files if one.label is not None)
        raise ValueError(
            f"{folder}: no voxel > 0 in any of the {len(files) - unreadable} readable labels; "
            "expected labels with 0 for background and 1, 2, ... for classes"
        )


def _names_by_text(class_names: Mapping[int, str]) -> dict[str, str]:
    for value, name in class_names.items():
        if value < 1 or not name.strip():
            raise ValueError(f"class names: {value}:{name!r}; expected a value >= 1 and a name")
    if len(set(class_names.values())) < len(class_names):
        raise ValueError(f"class names: {', '.join(class_names.values())}; a name is there twice")
    return {str(value): class_names[value].strip() for value in sorted(class_names)}
