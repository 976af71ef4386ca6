"""nnU-Net raw data: ``imagesTr/CASE_0000.nii.gz`` (one file a channel), ``labelsTr/CASE.nii.gz``.

Format: https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.layouts.dataset_json import DatasetJson, read_dataset_json
from samtune.preprocessing.layouts.files import image_files
from samtune.preprocessing.layouts.listing import Evidence, LayoutOptions, Listing

CHANNEL = re.compile(r"(.+)_(\d{4})")
FOLDERS = {"imagesTr": ("labelsTr", None), "imagesTs": ("labelsTs", "test")}


def recognise(folder: Path) -> Evidence | None:
    """Every image's name ends in a channel number; or dataset.json lists the files itself."""
    described = read_dataset_json(folder)
    if described is not None and isinstance(described.data.get("dataset"), dict):
        return Evidence("nnunet", (f"dataset.json lists {len(described.data['dataset'])} cases",))
    images = image_files(folder / "imagesTr")
    if not images or not all(CHANNEL.fullmatch(stem) for stem in images):
        return None
    if described is None and not (folder / "labelsTr").is_dir():
        return None
    reasons = [f"imagesTr with {len(images)} files CASE_0000 ..."]
    reasons += ["dataset.json"] if described is not None else []
    reasons += ["labelsTr"] if (folder / "labelsTr").is_dir() else []
    return Evidence("nnunet", tuple(reasons))


def listing(folder: Path, options: LayoutOptions) -> Listing:
    """Cases of imagesTr, and those of imagesTs that have labels, which are for testing."""
    described = read_dataset_json(folder)
    cases: list[CaseSource] = []
    unpaired: list[str] = []
    left_out: list[str] = []
    if described is not None and isinstance(described.data.get("dataset"), dict):
        cases = [
            _listed(folder, case, entry, described)
            for case, entry in sorted(described.data["dataset"].items())
        ]
    else:
        for images, (labels, split) in FOLDERS.items():
            if split is not None and not (folder / labels).is_dir():
                left_out += [
                    f"{images}/{path.name}: no {labels}"
                    for path in image_files(folder / images).values()
                ]
                continue
            found, alone = _pair(folder, images, labels, split)
            cases += found
            unpaired += alone
    return Listing(
        "nnunet",
        folder,
        sorted(cases, key=lambda one: one.case),
        unpaired,
        left_out,
        class_names=described.class_names if described else {},
        channel_names=described.channel_names if described else (),
        modality=described.modality if described else None,
        ignore_label=described.ignore_label if described else None,
    )


def _pair(
    folder: Path, images: str, labels: str, split: str | None
) -> tuple[list[CaseSource], list[str]]:
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    unpaired = []
    for stem, path in image_files(folder / images).items():
        match = CHANNEL.fullmatch(stem)
        if match is None:
            unpaired.append(f"{images}/{path.name}: no channel number such as _0000")
        else:
            channels[match[1]][int(match[2])] = path
    label_files = image_files(folder / labels)
    is_labelled = (folder / labels).is_dir()
    numbers = sorted({number for one in channels.values() for number in one})
    cases = []
    for case, found in sorted(channels.items()):
        missing = [number for number in numbers if number not in found]
        if missing:
            unpaired.append(
                f"{images}/{case}: no channel " + ", ".join(f"{n:04d}" for n in missing)
            )
        elif is_labelled and case not in label_files:
            unpaired.append(f"{images}/{found[numbers[0]].name}: no label {labels}/{case}")
        else:
            label = (label_files[case],) if is_labelled else ()
            cases.append(CaseSource(case, tuple(found[n] for n in numbers), label, split))
    unpaired += [
        f"{labels}/{path.name}: no image {images}/{case}_0000"
        for case, path in label_files.items()
        if case not in channels
    ]
    return cases, unpaired


def _listed(folder: Path, case: str, entry: Any, described: DatasetJson) -> CaseSource:
    try:
        images = tuple(folder / name for name in entry["images"])
        labels = (folder / entry["label"],) if entry.get("label") else ()
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{described.path}: dataset/{case} is {entry!r}; expected images and label"
        ) from None
    for path in (*images, *labels):
        if not path.is_file():
            raise FileNotFoundError(f"{described.path}: case {case!r}: no such file: {path}")
    return CaseSource(case, images, labels)
