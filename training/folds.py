"""Folds of a cross-validation: who validates, who trains, and how a fold's run finds them again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from samtune.preprocessing.manifest import Manifest
from samtune.preprocessing.output_folder import with_split
from samtune.preprocessing.split_rule import deal_folds, label_volumes
from samtune.training.joined import open_slices, slices_hash
from samtune.training.own_manifest import OWN
from samtune.training.run_folder import TrainedRun

POOLED = ("train", "val")  # a test case is in no fold


def open_fold(
    folders: str | Path | Sequence[Any],
    fold: int | None = None,
    folds: int = 5,
    seed: int = 0,
    stratify: Literal["presence", "volume"] | None = None,
) -> Manifest:
    """The manifest of slices; with ``fold`` its cases of train and val as that fold has them.

    These cases are dealt into folds by patient; those of ``fold`` are for validation, the others
    for training. Which case is in which fold depends on their ids, ``folds``, ``seed`` and
    ``stratify`` alone, not on which were for training before. Test cases stay test cases.

    Args:
        folders: see :func:`samtune.training.joined.open_slices`.
        fold: from 0; ``None``: the split of the manifest.
        folds: number of folds.
        seed: another seed deals them in another way.
        stratify: deal alike to all folds: ``presence``, cases with the same label values;
            ``volume``, each quarter by total label volume.

    Raises:
        FileNotFoundError: a folder without manifest.
        ValueError: no such fold, fewer patients than folds, or training cases that are cropped
            round their labels.
    """
    manifest = open_slices(folders)
    if fold is None:
        return manifest
    numbers = (fold, folds, seed)
    if any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        msg = f"data: fold, folds and seed must be whole numbers, got {fold!r}, {folds!r}, {seed!r}"
        raise ValueError(msg)
    if not 0 <= fold < folds:
        msg = f"data: fold must be from 0 to folds - 1, got fold {fold} of {folds}"
        raise ValueError(msg)
    if manifest.settings.get("slicing", {}).get("crop_margin") is not None:
        msg = (
            f"'{manifest.root}': training cases are cropped round their labels, so they can't "
            "validate; slice without --crop for a cross-validation"
        )
        raise ValueError(msg)
    dealt = fold_of_cases(manifest, folds, seed, stratify)
    split = {case: record.split for case, record in manifest.cases.items()}
    split |= {case: "val" if number == fold else "train" for case, number in dealt.items()}
    return with_split(manifest, split)


def fold_of_cases(
    manifest: Manifest,
    folds: int,
    seed: int = 0,
    stratify: Literal["presence", "volume"] | None = None,
) -> dict[str, int]:
    """The fold of each case of train and val.

    Raises:
        ValueError: see :func:`open_fold`.
    """
    cases = {case: one for case, one in manifest.cases.items() if one.split in POOLED}
    labels = None
    if stratify is not None:
        labels = label_volumes(cases, [row for row in manifest.slices if row.case in cases])
    patients = manifest.patients()
    try:
        return deal_folds(
            list(cases), folds, patients=patients, labels=labels, stratify=stratify, seed=seed
        )
    except ValueError as error:
        msg = f"'{manifest.root}', splits train and val: {error}"
        raise ValueError(msg) from error


def open_run_slices(
    runs: Sequence[TrainedRun], dataset_dir: str | Path | Sequence[Any] | None = None
) -> Manifest:
    """Slices to score runs on; of one fold's run with the fold's cases as its validation split.

    The run's own record says which those are, so it holds for the slices that it was trained on;
    other slices, and those of several runs, have the split of their manifest.

    Args:
        runs: one, or the members of an ensemble.
        dataset_dir: ``None``: what the first was trained on.

    Raises:
        FileNotFoundError: a folder without manifest.
        ValueError: the slices have changed since a fold's run was trained on them.
    """
    run = runs[0]
    if dataset_dir is None and run.record["data"].get("modality") == OWN:
        msg = (
            f"run '{run.path}' was trained on a dataset of its own; name a folder of slices to "
            "score it on by dataset_dir"
        )
        raise ValueError(msg)
    manifest = open_slices(dataset_dir or run.dataset_dir, classes=run.task.classes)
    if len(runs) > 1 or fold_of_run(run) is None:
        return manifest
    if slices_hash(manifest) != run.record["data"]["slices"]:
        if dataset_dir is not None:
            return manifest
        msg = (
            f"'{manifest.root}' has changed since run '{run.path}' was trained on it, so its fold "
            "can't be told; name slices by dataset_dir"
        )
        raise ValueError(msg)
    of_run = run.record["data"]["split"]
    return with_split(manifest, {case: name for name in of_run for case in of_run[name]})


def fold_of_run(run: TrainedRun) -> int | None:
    """Which fold a run trained; ``None``: it is not of a cross-validation."""
    fold = (run.record["settings"].get("data") or {}).get("fold")
    return None if fold is None else int(fold)
