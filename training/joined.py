"""Several folders of slices as one, their classes joined by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from samtune.networks.weights import sha256_of
from samtune.preprocessing.manifest import (
    MANIFEST_NAME,
    Manifest,
    SliceRecord,
    label_values,
    load_manifest,
)
from samtune.training.own_manifest import OwnManifest
from samtune.training.paths import dataset_folder

# what a network saw must be one thing, or prediction on a raw scan would not know what to do
SAME_SETTINGS = ("modality", "intensity", "axis", "slicing")


@dataclass(frozen=True)
class Part:
    """One of the joined folders.

    Attributes:
        manifest: its own.
        name: in front of its case ids.
        weight: how often its slices are drawn in an epoch, 1 is once.
        values: its label values to those of the joined folders: the classes that it annotates.
    """

    manifest: Manifest
    name: str
    weight: float
    values: dict[int, int]


@dataclass(frozen=True)
class JoinedManifest(Manifest):
    """A manifest over several folders; files of slices are absolute, case ids have a prefix.

    Attributes:
        parts: the folders.
        part_of: case id to its folder.
    """

    parts: Sequence[Part] = ()
    part_of: Mapping[str, Part] = field(default_factory=dict)

    def part(self, case: str) -> Part:
        """The folder that a case is of."""
        return self.part_of[case]

    def joint_values(self, case: str) -> dict[int, int]:
        """Label values in the case's files to those of the joined folders."""
        return self.part(case).values

    def ignore_label(self, case: str) -> int | None:
        """That of the case's folder."""
        return self.part(case).manifest.ignore_label(case)


def open_slices(
    folders: str | Path | Sequence[Any], classes: Mapping[int, str] | None = None
) -> Manifest:
    """The manifest of a folder of slices, or of several as one.

    Args:
        folders: see :func:`samtune.training.paths.dataset_folder`; or a list of folders, each also
            as ``{folder: DIR, weight: 2}``.
        classes: label value to name that a joined manifest takes; None: as :func:`join` finds them.

    Raises:
        FileNotFoundError: a folder without manifest.
        ValueError: folders that cannot be joined, see :func:`join`.
    """
    if isinstance(folders, str | Path):
        return load_manifest(dataset_folder(folders))
    manifests, weights = [], []
    for one in folders:
        entry = one if isinstance(one, Mapping) else {"folder": one}
        unknown = sorted(set(entry) - {"folder", "weight"})
        if unknown or "folder" not in entry:
            msg = f"dataset_dir: {dict(entry)}; expected a folder, or {{folder: DIR, weight: 2}}"
            raise ValueError(msg)
        manifests.append(load_manifest(dataset_folder(entry["folder"])))
        weights.append(float(entry.get("weight", 1)))
    return join(manifests, weights, classes)


def slices_hash(manifest: Manifest) -> str | list[str]:
    """SHA-256 of the manifest's file; of joined folders a list, one a folder."""
    if isinstance(manifest, OwnManifest):
        return manifest.fingerprint
    if isinstance(manifest, JoinedManifest):
        return [sha256_of(part.manifest.root / MANIFEST_NAME) for part in manifest.parts]
    return sha256_of(manifest.root / MANIFEST_NAME)


def join(
    manifests: Sequence[Manifest],
    weights: Sequence[float] | None = None,
    classes: Mapping[int, str] | None = None,
) -> JoinedManifest:
    """Join manifests: classes of one name are one class, whatever their label values.

    A class keeps the label value of the first folder that has it, or takes the next free one.

    Args:
        manifests: each with names for all its classes.
        weights: see :class:`Part`; None: all 1.
        classes: label value to name, in place of what the folders give.

    Raises:
        ValueError: none, a folder twice, a class without a name, a weight that is not above 0, or
            folders that were sliced in different ways.
    """
    weights = [1.0] * len(manifests) if weights is None else list(weights)
    if not manifests:
        msg = "dataset_dir: expected at least one folder of slices, got an empty list"
        raise ValueError(msg)
    for manifest, weight in zip(manifests, weights, strict=True):
        _check(manifest, weight, first=manifests[0])
    names = _part_names([manifest.root for manifest in manifests])
    value_of = _joint_values(manifests, classes)
    parts = []
    for manifest, name, weight in zip(manifests, names, weights, strict=True):
        own = {int(k): str(v) for k, v in manifest.settings["class_names"].items()}
        values = {value: value_of[name] for value, name in own.items() if name in value_of}
        parts.append(Part(manifest, name, weight, values))
    cases, part_of, slices = {}, {}, list[SliceRecord]()
    for part in parts:
        for case, record in part.manifest.cases.items():
            joint = f"{part.name}-{case}"
            if joint in cases:
                msg = f"dataset_dir: two folders have a case '{joint}'; rename one folder"
                raise ValueError(msg)
            cases[joint], part_of[joint] = record, part
        slices += [_joined(row, part) for row in part.manifest.slices]
    settings = {
        **manifests[0].settings,
        "class_names": {str(value): name for name, value in value_of.items()},
        "label_values": label_values(slices),
    }
    return JoinedManifest(manifests[0].root, settings, cases, slices, parts=parts, part_of=part_of)


def _joined(row: SliceRecord, part: Part) -> SliceRecord:
    labels = row.labels
    if labels is not None:
        labels = {part.values.get(value, value): pixels for value, pixels in labels.items()}
    file = (part.manifest.root / row.file).resolve()
    return replace(row, file=str(file), case=f"{part.name}-{row.case}", labels=labels)


def _joint_values(
    manifests: Sequence[Manifest], classes: Mapping[int, str] | None
) -> dict[str, int]:
    if classes is not None:
        return {str(name): int(value) for value, name in classes.items()}
    value_of: dict[str, int] = {}
    for manifest in manifests:
        names = {int(k): str(v) for k, v in manifest.settings["class_names"].items()}
        for value in sorted(names):
            taken = set(value_of.values())
            free = next(number for number in range(1, len(taken) + 2) if number not in taken)
            value_of.setdefault(names[value], free if value in taken else value)
    return value_of


def _check(manifest: Manifest, weight: float, *, first: Manifest) -> None:
    named = {int(value) for value in manifest.settings["class_names"]}
    unnamed = sorted(set(manifest.case_labels()) - named)
    if unnamed or not named:
        msg = (
            f"'{manifest.root}': label value {unnamed[0] if unnamed else 1} has no name; folders "
            "are joined by class names: run 'samtune slice' with --class-names"
        )
        raise ValueError(msg)
    if not 0 < weight < float("inf"):
        msg = f"'{manifest.root}': weight must be a number above 0, got {weight:g}"
        raise ValueError(msg)
    for key in SAME_SETTINGS:
        was, now = first.settings.get(key), manifest.settings.get(key)
        if was != now:
            msg = (
                f"'{manifest.root}' was sliced with {key} {now}, '{first.root}' with {was}; "
                "expected folders sliced alike"
            )
            raise ValueError(msg)


def _part_names(roots: Sequence[Path]) -> list[str]:
    resolved = [root.resolve() for root in roots]
    twice = next((root for root in resolved if resolved.count(root) > 1), None)
    if twice is not None:
        msg = f"dataset_dir: '{twice}' is there twice; give it a weight instead"
        raise ValueError(msg)
    names = [root.name for root in resolved]
    for depth in range(2, 20):  # DATASET/slices and OTHER/slices: the folders above differ
        if len(set(names)) == len(names):
            break
        names = ["_".join(root.parts[-depth:]).strip("/\\") for root in resolved]
    return names
