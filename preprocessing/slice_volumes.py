"""Folders of volumes to slice files and a manifest: ``samtune slice`` as a function."""

from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
from tqdm import tqdm

from samtune.preprocessing.contact_sheet import draw_contact_sheet
from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.label_steps import LabelSteps
from samtune.preprocessing.output_folder import (
    CONTACT_SHEET_NAME,
    assemble_manifest,
    clear_output,
    finished_cases,
    remove_slice_files,
)
from samtune.preprocessing.pairing import CaseFiles, pair_files
from samtune.preprocessing.slice_case import file_sha256, try_slice_case
from samtune.preprocessing.slice_settings import Slicing
from samtune.preprocessing.slicing import AXES, CaseGeometry
from samtune.preprocessing.splits import DEFAULT_RATIO, read_split_csv, split_cases
from samtune.preprocessing.volumes import check_same_grid, read_grid, read_label

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
    images: Path,
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
    split_ratio: Sequence[float] = DEFAULT_RATIO,
    split_counts: Sequence[int] | None = None,
    split_csv: Path | None = None,
    seed: int = 0,
    class_names: Mapping[int, str] | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: bool = True,
) -> SliceReport:
    """Turn NIfTI volumes into slice files with a manifest.

    Writes ``out/slices/CASE_000.npz`` ..., ``out/cases/CASE.json``, ``out/manifest.json`` and
    ``out/contact_sheet.png``. Every slice of every case is kept. Equal input gives equal bytes,
    whether or not a run was killed in between: a rerun does what is missing.

    Args:
        images: folder of ``.nii``/``.nii.gz`` volumes, or one volume.
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
        split_ratio: shares of train, val and test.
        split_counts: numbers of cases in place of the shares.
        split_csv: file with columns case,split in place of both.
        seed: of the split by shares or numbers.
        class_names: label value to name; if given, every value that occurs must have one.
        workers: processes; None for as many as there are cores and cases, 1 for none extra.
        dry_run: write nothing, report what would be done.
        force: remove what is in ``out`` of a former run and do all of it.
        progress: a bar on stderr, if that is a terminal.

    Returns:
        Counts and names; cases that failed are in ``failed``, the manifest has the others. If
        all failed there is no manifest.

    Raises:
        FileNotFoundError: nothing to read; before anything is written.
        ValueError: unpaired files, no label voxel in any case, unusable settings, or ``out``
            holds another configuration or older sources; before anything is written.
        OSError: a worker was killed; the cases finished so far count for the next run.
    """
    out = Path(out)
    if axis is not None and axis not in AXES:
        raise ValueError(f"axis must be 0, 1, 2 or None, got {axis!r}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be slice or volume, got {layout!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be >= 1, got {workers}")
    intensity = intensity or Intensity.for_modality(modality, window=window)
    if intensity.modality != modality:
        raise ValueError(f"intensity is of modality {intensity.modality}, asked for is {modality}")
    slicing, label_steps = slicing or Slicing(), label_steps or LabelSteps()
    axis = slicing.axis if axis is None else axis
    if labels is None and (label_steps != LabelSteps() or slicing.crop_margin is not None):
        raise ValueError(f"{images}: a crop, label map or removal of objects needs labels")
    files = pair_files(images, labels)
    cases = [one.case for one in files]
    if split_csv is not None:
        split = read_split_csv(split_csv, cases)
        rule: dict[str, Any] = {"rule": "csv", "sha256": file_sha256(Path(split_csv))}
    else:
        split = split_cases(cases, ratio=split_ratio, counts=split_counts, seed=seed)
        rule = {"rule": "ratio", "ratio": [float(share) for share in split_ratio], "seed": seed}
        if split_counts is not None:
            rule = {"rule": "counts", "counts": list(split_counts), "seed": seed}
    settings: dict[str, Any] = {
        "modality": modality,
        "intensity": intensity.to_dict(),
        "axis": "auto" if axis is None else axis,
        "layout": layout,
        "labelled": labels is not None,
        "split": rule,
        "class_names": _names_by_text(label_steps.names(class_names or {})),
    }
    for key, value in (("slicing", slicing.to_dict()), ("label_steps", label_steps.to_dict())):
        if value:  # absent where nothing is asked for: as in folders of older versions
            settings[key] = value
    skipped = [] if force else finished_cases(out, files, settings, split)
    if labels is not None and not skipped:
        _require_some_label(files, labels)
    if dry_run:
        return _plan(out, files, slicing, axis, split, skipped)
    if force:
        clear_output(out, cases)
    todo = [one for one in files if one.case not in set(skipped)]
    failed = _slice_all(todo, out, settings, split, workers=workers, progress=progress)
    manifest = assemble_manifest(out, settings, split, failed)
    remove_slice_files(out, cases, keep=[row.file for row in manifest.slices])
    if manifest.cases:
        manifest.save()
        draw_contact_sheet(manifest, out / CONTACT_SHEET_NAME)
    done = [one.case for one in todo if one.case not in failed]
    return SliceReport(out, done, skipped, failed, len(manifest.slices))


def _slice_all(
    todo: list[CaseFiles],
    out: Path,
    settings: dict[str, Any],
    split: Mapping[str, str],
    *,
    workers: int | None,
    progress: bool,
) -> dict[str, str]:
    number = min(workers or joblib.cpu_count(), len(todo)) or 1
    parallel = joblib.Parallel(n_jobs=number, return_as="generator_unordered")
    outcomes = parallel(
        joblib.delayed(try_slice_case)(one, out, settings, split[one.case]) for one in todo
    )
    failed: dict[str, str] = {}
    finished = 0
    try:
        # disable=None: no bar if stderr is not a terminal
        for outcome in tqdm(
            outcomes, total=len(todo), unit="case", desc="slice", disable=None if progress else True
        ):
            finished += 1
            if outcome.error is not None:
                failed[outcome.case] = outcome.error
    except BrokenProcessPool as error:
        raise OSError(
            f"a worker process was killed, most often for lack of memory, after {finished} of "
            f"{len(todo)} cases; run the same command again with fewer --workers to do the rest"
        ) from error
    return dict(sorted(failed.items()))


def _plan(
    out: Path,
    files: list[CaseFiles],
    slicing: Slicing,
    axis: int | None,
    split: Mapping[str, str],
    skipped: list[str],
) -> SliceReport:
    planned: list[PlannedCase] = []
    failed: dict[str, str] = {}
    for one in files:
        try:
            grid = read_grid(one.image)
            if one.label is not None:
                check_same_grid(grid, read_grid(one.label))
        except (ValueError, OSError) as error:
            failed[one.case] = str(error)
            continue
        geometry = slicing.lay(CaseGeometry.of(grid, case=one.case, axis=axis))
        planned.append(PlannedCase(geometry, split[one.case], one.case in skipped))
    total = sum(case.num_slices for case in planned)
    return SliceReport(out, [], skipped, failed, total, planned)


def _require_some_label(files: list[CaseFiles], labels: Path) -> None:
    unreadable = 0
    for one in files:  # as a rule the first one ends it
        try:
            if one.label is not None and np.any(read_label(one.label).array):
                return
        except (ValueError, OSError):
            unreadable += 1  # reported as this case's failure later
    if unreadable < len(files):
        raise ValueError(
            f"{labels}: no voxel > 0 in any of the {len(files) - unreadable} readable labels; "
            "expected labels with 0 for background and 1, 2, ... for classes"
        )


def _names_by_text(class_names: Mapping[int, str]) -> dict[str, str]:
    for value, name in class_names.items():
        if value < 1 or not name.strip():
            raise ValueError(f"class names: {value}:{name!r}; expected a value >= 1 and a name")
    if len(set(class_names.values())) < len(class_names):
        raise ValueError(f"class names: {', '.join(class_names.values())}; a name is there twice")
    return {str(value): class_names[value].strip() for value in sorted(class_names)}
