"""A split rule and the patients of cases: from the files of a run, or in a finished folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from samtune.preprocessing.folder_lock import locked_folder
from samtune.preprocessing.manifest import Manifest, load_manifest
from samtune.preprocessing.output_folder import check_split, with_split
from samtune.preprocessing.pairing import CaseFiles
from samtune.preprocessing.patients import PatientRule
from samtune.preprocessing.split_rule import SplitRule, label_volumes


@dataclass(frozen=True)
class SplitPlan:
    """The split of a run.

    Attributes:
        rule: how.
        patients: case id to patient, where it is known.
        patient_rule: what says so, as the settings have it; empty if nothing does.
        before_slicing: case id to split; None if it takes the labels' volumes.
    """

    rule: SplitRule
    patients: dict[str, str]
    patient_rule: dict[str, Any]
    before_slicing: dict[str, str] | None

    @classmethod
    def of(
        cls, rule: SplitRule, patients: PatientRule | None, files: Sequence[CaseFiles]
    ) -> "SplitPlan":
        """The plan for these cases.

        Raises:
            ValueError: the rule does not fit them, see :meth:`SplitRule.assign`.
        """
        cases = [one.case for one in files]
        known = {one.case: getattr(one, "patient", None) for one in files}
        of_case = {case: str(patient) for case, patient in known.items() if patient}
        patient_rule: dict[str, Any] = {"given": True} if of_case else {}
        if patients is not None:
            of_case, patient_rule = patients.of(cases), patients.to_dict()
        given = {one.case: getattr(one, "split", None) for one in files}
        split = rule.assign(
            cases,
            patients=of_case,
            labels={case: {} for case in cases},  # if it stratifies: only whether it can be done
            given={case: str(name) for case, name in given.items() if name},
        )
        return cls(rule, of_case, patient_rule, split if rule.stratify is None else None)

    def to_dict(self) -> dict[str, Any]:
        """As the settings of a manifest have it."""
        rule = self.rule.to_dict()
        return {**rule, "patients": self.patient_rule} if self.patient_rule else rule

    def apply(self, manifest: Manifest) -> Manifest:
        """The manifest with the split.

        Raises:
            ValueError: the folder's present manifest has a case in another split.
        """
        if self.before_slicing is not None:
            return with_split(manifest, self.before_slicing)
        split = _stratified(self.rule, manifest, self.patients)
        check_split(manifest.root, split)
        return with_split(manifest, split)


def resplit_folder(
    folder: Path,
    rule: SplitRule,
    patients: PatientRule | None = None,
    *,
    dry_run: bool = False,
) -> Manifest:
    """Rewrite the split of a folder of slices; no slice is made again.

    Only ``manifest.json`` changes, in one step. Patients that the manifest knows stay known.

    Args:
        folder: what ``samtune slice`` wrote.
        rule: how.
        patients: in place of the manifest's.
        dry_run: write nothing.

    Returns:
        The manifest with the new split.

    Raises:
        FileNotFoundError: no manifest.
        ValueError: the rule does not fit the cases, or a patient would be on two sides.
        OSError: another process writes there.
    """
    if dry_run:
        return _resplit(load_manifest(folder), rule, patients)
    root = load_manifest(folder).root
    with locked_folder(root):
        manifest = _resplit(load_manifest(root), rule, patients)
        manifest.save()
    return manifest


def _resplit(manifest: Manifest, rule: SplitRule, patients: PatientRule | None) -> Manifest:
    cases = list(manifest.cases)
    of_case, settings = manifest.patients(), rule.to_dict()
    patient_rule = manifest.settings["split"].get("patients") or (
        {"given": True} if of_case else {}
    )
    if patients is not None:
        of_case, patient_rule = patients.of(cases), patients.to_dict()
    if patient_rule:
        settings["patients"] = patient_rule
    if rule.stratify is None:
        given = {case: record.split for case, record in manifest.cases.items()}
        split = rule.assign(cases, patients=of_case, given=given)
    else:
        split = _stratified(rule, manifest, of_case)
    records = {
        case: replace(record, patient=of_case.get(case)) for case, record in manifest.cases.items()
    }
    _check_crops(manifest, split)
    manifest = replace(manifest, cases=records, settings={**manifest.settings, "split": settings})
    return with_split(manifest, split)


def _check_crops(manifest: Manifest, split: Mapping[str, str]) -> None:
    """Only training cases are cropped round their labels: who sees the label isn't tested on it."""
    if manifest.settings.get("slicing", {}).get("crop_margin") is None:
        return
    for case, record in manifest.cases.items():
        if (record.split == "train") != (split[case] == "train"):
            raise ValueError(
                f"{manifest.root}: case {case!r} would move from {record.split} to {split[case]}, "
                "but training cases are cropped round their labels there; slice into a new folder"
            )


def _stratified(rule: SplitRule, manifest: Manifest, patients: Mapping[str, str]) -> dict[str, str]:
    labels = label_volumes(manifest.cases, manifest.slices)
    return rule.assign(list(manifest.cases), patients=patients, labels=labels)
