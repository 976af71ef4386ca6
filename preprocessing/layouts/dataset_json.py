"""``dataset.json`` of nnU-Net (versions 1 and 2) and of the Medical Segmentation Decathlon."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "dataset.json"
MR_NAMES = ("mr", "mri", "t1", "t1w", "t1gd", "t1ce", "t2", "t2w", "flair", "adc", "dwi", "pd")


@dataclass(frozen=True)
class DatasetJson:
    """The parts that matter here.

    Attributes:
        path: the file.
        data: all of it.
        class_names: label value to name; empty if the labels are regions of several values.
        channel_names: in channel order.
        ignore_label: value named ``ignore``, None if there is none.
    """

    path: Path
    data: dict[str, Any]
    class_names: dict[int, str]
    channel_names: tuple[str, ...]
    ignore_label: int | None

    @property
    def modality(self) -> str | None:
        """``ct`` or ``mr`` if all channels are that."""
        names = [name.lower() for name in self.channel_names]
        if names and all(name == "ct" for name in names):
            return "ct"
        return "mr" if names and all(name in MR_NAMES for name in names) else None

    @property
    def suffix(self) -> str | None:
        """``file_ending`` of nnU-Net version 2."""
        value = self.data.get("file_ending")
        return value if isinstance(value, str) else None


def read_dataset_json(folder: Path) -> DatasetJson | None:
    """Read the file of a folder; None if there is none.

    Raises:
        ValueError: not a JSON object, or ``labels`` or the channel names are of unknown form.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(data).__name__}")
    names, ignore = _classes(path, data.get("labels", {}))
    return DatasetJson(path, data, names, _channels(path, data), ignore)


def _classes(path: Path, labels: Any) -> tuple[dict[int, str], int | None]:
    if not isinstance(labels, Mapping):
        raise ValueError(f"{path}: 'labels' is {type(labels).__name__}; expected an object")
    names: dict[int, str] = {}
    ignore = None
    has_regions = False
    for key, value in labels.items():
        if isinstance(value, list):  # nnU-Net 2: a region of several values
            has_regions = True
            continue
        try:  # {"0": "background"} of version 1, {"background": 0} of version 2
            number, name = (int(key), str(value)) if key.isdecimal() else (int(value), key)
        except (TypeError, ValueError):
            raise ValueError(
                f"{path}: label {key!r}: {value!r}; expected a value and a name"
            ) from None
        if name == "ignore":
            ignore = number
        elif number > 0:
            names[number] = name
    return ({} if has_regions else dict(sorted(names.items()))), ignore


def _channels(path: Path, data: Mapping[str, Any]) -> tuple[str, ...]:
    channels = data.get("channel_names", data.get("modality", {}))
    if isinstance(channels, str):
        return (channels,)
    if isinstance(channels, list):
        return tuple(str(name) for name in channels)
    if not isinstance(channels, Mapping) or not all(key.isdecimal() for key in channels):
        raise ValueError(f"{path}: channel names are {channels!r}; expected channel to name")
    return tuple(str(channels[key]) for key in sorted(channels, key=int))
