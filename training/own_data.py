"""Training on images that `samtune slice` did not make: a MONAI datalist, or a user's own Dataset.

Each item is a case of its own, ``train_0``, ``train_1``, ..., ``val_0``, ...; there is no scan
behind it, so nothing here knows of volumes, spacing or the intensity step.
"""

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from monai.transforms import Transform

from samtune.evaluation.dice import dice_score
from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.manifest import Manifest, SliceRecord
from samtune.preprocessing.read_case import read_case_image, read_case_label
from samtune.preprocessing.slice_transforms import channel_label, image_tensor
from samtune.training.case_dice import CaseDice, CaseScores
from samtune.training.case_stream import Array
from samtune.training.own_manifest import OWN, NoCases, OwnManifest
from samtune.training.task import Task

Item = dict[Hashable, Any]


class Pairs(Protocol):
    """A user's Dataset: map-style, the same item for an index each time.

    An item is a mapping with ``image`` and ``label``, or a pair of them: an image ``h w``,
    ``1 h w`` or ``3 h w``, uint8, uint16, or of floats from 0 (black) to 1 (white); a label ``h w``
    or ``1 h w`` of whole numbers, 0 the background.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class DatalistDataset:
    """Images and labels that a MONAI datalist names: pictures, or ``.npz`` files of one slice.

    A picture of 0 and 255 is a mask of class 1.

    Args:
        datalist: JSON ``{"training": [{"image": ..., "label": ...}, ...], "validation": [...]}``;
            files are relative to its folder.
        key: ``training`` or ``validation``.

    Raises:
        FileNotFoundError: no such file, or a file that it names is missing.
        ValueError: it is no such JSON, or has no entry there.
    """

    def __init__(self, datalist: str | Path | None, key: str) -> None:
        if datalist is None:
            raise ValueError(
                "datalist: null; expected a JSON file with lists training and validation, or "
                "datasets of your own as own::train and own::validate"
            )
        file = Path(datalist)
        if not file.is_file():
            raise FileNotFoundError(f"datalist: '{file}' does not exist")
        try:
            content: Any = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"'{file}' is no JSON: {error}") from error
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries:
            found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"'{file}': no entries in '{key}', found: {found}")
        self.files = [_files(entry, file, f"{key}/{n}") for n, entry in enumerate(entries)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Array]:
        image, label = self.files[index]
        source = CaseSource(image.stem, (image,), (label,))
        arrays = [read_case_image(source).array, _whole(read_case_label(source)).array]
        if any(array.ndim < 3 or array.shape[2] != 1 for array in arrays):
            raise ValueError(
                f"'{image}': {arrays[0].shape}, '{label}': {arrays[1].shape}; expected one slice "
                "each; volumes go through 'samtune slice'"
            )
        found = arrays[0][:, :, 0]
        return {
            "image": found if found.ndim == 2 else np.moveaxis(found, -1, 0),
            "label": arrays[1][:, :, 0],
        }


def _whole(volume: Any) -> Any:
    assert volume is not None  # the source has a label
    return volume


def _files(entry: Any, datalist: Path, where: str) -> tuple[Path, Path]:
    if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
        raise ValueError(f"'{datalist}', {where}: {entry!r}; expected image and label")
    image, label = (datalist.parent / str(entry[name]) for name in ("image", "label"))
    for file in (image, label):
        if not file.is_file():
            raise FileNotFoundError(f"'{datalist}', {where}: '{file}' does not exist")
    return image, label


def own_manifest(
    train: Pairs,
    validate: Pairs,
    *,
    classes: Mapping[Any, str] | str | None,
    source: str | None = None,
    ignore_label: int | None = None,
    fold: int | None = None,
) -> OwnManifest:
    """The stand-in for two datasets.

    Args:
        train, validate: see :class:`Pairs`.
        classes: label value to name; they can't be found out here.
        source: for the record, such as the datalist.
        ignore_label: value of pixels that nobody judged.
        fold: must be ``None``: whose images an item is of is not known.

    Raises:
        ValueError: no classes, a fold, a dataset is empty, or an item can't be used.
    """
    if fold is not None:
        raise ValueError(
            "data::fold: a dataset of your own is not dealt into folds by patient; give each "
            "fold's datasets as own::train and own::validate"
        )
    if not isinstance(classes, Mapping):
        raise ValueError(f"classes: {classes!r}; expected the names of label values, {{1: vessel}}")
    digest, rows = hashlib.sha256(), []
    for split, dataset in (("train", train), ("val", validate)):
        number = len(dataset)
        if number == 0:
            raise ValueError(f"the dataset for split '{split}' is empty")
        digest.update(f"{split} {number}".encode())
        for index in sorted({0, number // 2, number - 1}):
            for array in read_pair(dataset, index, f"{split}_{index}"):
                digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        rows += [
            SliceRecord(f"{split}_{n}", f"{split}_{n}", 0, split, {}, n) for n in range(number)
        ]
    settings: dict[str, Any] = {
        **{"modality": OWN, "intensity": {"mode": OWN}, "axis": None, "class_names": {}},
        "label_steps": {} if ignore_label is None else {"ignore_label": int(ignore_label)},
    }
    return OwnManifest(
        Path(OWN), settings, NoCases(), rows, fingerprint=digest.hexdigest(), source=source
    )


def own_items(manifest: OwnManifest, split: str, *, labelled_only: bool = False) -> list[Item]:
    """Items of a split for :class:`LoadOwn`.

    Raises:
        ValueError: ``labelled_only``: no label was read yet.
    """
    if labelled_only:
        raise ValueError("labelled_only needs a folder of slices; leave such items out yourself")
    return [
        {"file": str(manifest.path(row)), "position": row.position, "case": row.case, "index": 0}
        for row in manifest.select(split)
    ]


def read_pair(dataset: Pairs, index: int, name: str) -> tuple[Array, Array]:
    """Image ``h w`` or ``h w 3`` and label ``h w`` of an item, checked.

    Raises:
        ValueError: shapes, types or values that don't fit; names the item.
    """
    item = dataset[index]
    try:
        image, label = (item["image"], item["label"]) if isinstance(item, Mapping) else item
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"item {name}: expected a mapping with image and label, or a pair of them"
        ) from None
    image, label = (np.asarray(_plain(array)) for array in (image, label))
    label = label[0] if label.ndim == 3 and len(label) == 1 else label
    if image.ndim == 3 and len(image) in (1, 3):
        image = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    elif image.ndim != 2:
        raise ValueError(f"item {name}: image is {image.shape}, expected h w, 1 h w or 3 h w")
    if label.shape != image.shape[:2]:
        raise ValueError(f"item {name}: image is {image.shape[:2]}, label {label.shape}")
    if label.dtype.kind not in "bui" or (label.size and int(label.min()) < 0):
        raise ValueError(
            f"item {name}: label is {label.dtype}, expected whole numbers from 0 (background)"
        )
    if image.dtype.kind == "f":
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise ValueError(f"item {name}: floats of an image must be from 0 to 1")
        image = image.astype(np.float32) * np.float32(65535)  # as 16 bits
    elif image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"item {name}: image is {image.dtype}, expected uint8, uint16 or floats from 0 to 1"
        )
    return image, label.astype(np.uint8) if label.dtype == bool else label


def _plain(array: Any) -> Any:
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array


class LoadOwn(Transform):
    """Read an item of :func:`own_items`; the counterpart of ``LoadSliced``.

    Args:
        train, validate: see :class:`Pairs`.
        class_values: label values in the order of the network's foreground channels.
        neighbours: must be 0: items have no neighbours.
        ignore_label: value of pixels that nobody judged.

    Raises:
        ValueError: ``neighbours`` is not 0.
    """

    def __init__(
        self,
        train: Pairs,
        validate: Pairs,
        class_values: Sequence[int],
        *,
        neighbours: int = 0,
        ignore_label: int | None = None,
    ) -> None:
        if neighbours != 0:
            raise ValueError(
                f"neighbours: {neighbours}; items of a dataset of your own have none: give the "
                "image three channels instead"
            )
        self.datasets = {"train": train, "val": validate}
        self.class_values = tuple(class_values)
        self.ignore_label = None if ignore_label is None else int(ignore_label)

    def read(self, case: str) -> tuple[Array, Array]:
        """Image and label values of an item by its name."""
        split, _, number = case.partition("_")
        return read_pair(self.datasets[split], int(number), case)

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Add ``image``, ``label`` (channel indices) and ``size_hw``."""
        item = dict(data)
        image, label = self.read(str(item["case"]))
        # a copy: what a file reader hands out may be read-only, which torch warns of
        item["image"] = image_tensor(np.array(image))
        item["size_hw"] = np.array(image.shape[:2], dtype=np.int64)
        item["label"] = channel_label(label, self.class_values, item["case"], self.ignore_label)
        return item


class ItemDice(CaseDice):
    """Validation Dice where each item is a case: mean over classes of the mean over items.

    On the item's own pixels. A class that is in neither mask of an item is left out there.

    Args:
        load: reads the items.
        manifest: see :func:`own_manifest`.
        task: classes.
    """

    def __init__(self, load: LoadOwn, manifest: OwnManifest, task: Task) -> None:
        super().__init__(manifest, task)
        self._stream = _ItemScores(manifest, task, load)


class _ItemScores(CaseScores):
    def __init__(self, manifest: Manifest, task: Task, load: LoadOwn) -> None:
        super().__init__(manifest, task, False)
        self.load = load

    def finish(self, case: str, slices: Mapping[int, Array]) -> None:
        _, label = self.load.read(case)
        judged = np.ones(label.shape, bool)
        if self.load.ignore_label is not None:
            judged = label != self.load.ignore_label
        self.cases[case] = {
            name: dice_score(np.isin(slices[0], values) & judged, np.isin(label, values) & judged)
            for name, values in self.scored.items()
        }
