"""Medical Segmentation Decathlon: ``dataset.json`` lists ``training`` pairs and ``test`` images.

Several modalities are one 4D file (arXiv:1902.09063, sec. "Data Records").
"""

from pathlib import Path
from typing import Any

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.layouts.dataset_json import DatasetJson, read_dataset_json
from samtune.preprocessing.layouts.files import case_names, stem_of, visible
from samtune.preprocessing.layouts.listing import Evidence, LayoutOptions, Listing


def recognise(folder: Path) -> Evidence | None:
    """dataset.json lists training pairs, and a file of them is there under that very name.

    nnU-Net version 1 lists pairs too, but its files have a channel number that the list lacks.
    """
    described = read_dataset_json(folder)
    if described is None or not isinstance(described.data.get("training"), list):
        return None
    pairs = described.data["training"]
    if not any(isinstance(pair, dict) and _is_there(folder, pair.get("image")) for pair in pairs):
        return None
    return Evidence("msd", (f"dataset.json lists {len(pairs)} training pairs",))


def listing(folder: Path, options: LayoutOptions) -> Listing:
    """Cases of ``training``; the images of ``test`` have no labels and are left out."""
    described = read_dataset_json(folder)
    if described is None or not isinstance(described.data.get("training"), list):
        raise ValueError(
            f"{folder / 'dataset.json'}: expected a list 'training' of image and label"
        )
    pairs = [_pair(described, entry) for entry in described.data["training"]]
    names = case_names(_stem(described, image) for image, _ in pairs)
    cases, unpaired = [], []
    for image, label in pairs:
        missing = [name for name in (image, label) if not (folder / name).is_file()]
        if missing:
            unpaired.append(f"{', '.join(missing)}: listed in dataset.json, not there")
            continue
        case = names[_stem(described, image)]
        cases.append(CaseSource(case, (folder / image,), (folder / label,)))
    listed = {folder / name for pair in pairs for name in pair}
    for sub in ("imagesTr", "labelsTr"):
        unpaired += [
            f"{sub}/{path.name}: not listed in dataset.json"
            for path in visible(folder / sub)
            if stem_of(path.name) is not None and path not in listed
        ]
    test = described.data.get("test", [])
    return Listing(
        "msd",
        folder,
        sorted(cases, key=lambda one: one.case),
        unpaired,
        [f"{name}: a test image, no label" for name in test if _is_there(folder, name)],
        class_names=described.class_names,
        channel_names=described.channel_names,
        modality=described.modality,
        ignore_label=described.ignore_label,
    )


def _is_there(folder: Path, name: object) -> bool:
    return isinstance(name, str) and (folder / name).is_file()


def _pair(described: DatasetJson, entry: Any) -> tuple[str, str]:
    if isinstance(entry, dict) and isinstance(entry.get("image"), str):
        label = entry.get("label")
        if isinstance(label, str):
            return entry["image"].removeprefix("./"), label.removeprefix("./")
    raise ValueError(f"{described.path}: training has {entry!r}; expected image and label")


def _stem(described: DatasetJson, name: str) -> str:
    stem = stem_of(name)
    if stem is None:
        raise ValueError(f"{described.path}: {name!r} is not an image file that is known")
    return stem
