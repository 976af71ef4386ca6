"""What a network segments: classes, their names, and the regions that are scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samtune.evaluation.regions import Region, regions_from_config
from samtune.preprocessing.manifest import Manifest
from samtune.training.channels import Channel, make_channels


@dataclass(frozen=True)
class Task:
    """Classes, scored regions, and what the network's foreground channels stand for.

    Attributes:
        classes: label value to name, ascending; with ``softmax`` foreground channel i + 1 is the
            i-th.
        regions: region name to its label values, e.g. ``{"whole": (1, 2)}``.
        channels: regions that may overlap, as the foreground channels of a network with
            ``sigmoid``; none with ``softmax``.
    """

    classes: dict[int, str]
    regions: dict[str, tuple[int, ...]]
    channels: tuple[Channel, ...] = ()

    @property
    def class_values(self) -> tuple[int, ...]:
        """Label values of the classes, ascending."""
        return tuple(self.classes)

    @property
    def activation(self) -> str:
        """``sigmoid`` when the channels are regions that may overlap, else ``softmax``."""
        return "sigmoid" if self.channels else "softmax"

    @property
    def channel_labels(self) -> dict[str, tuple[int, ...]]:
        """Name of each foreground channel, in order, to its label values."""
        if self.channels:
            return {channel.name: channel.labels for channel in self.channels}
        return {name: (value,) for value, name in self.classes.items()}

    @property
    def channel_names(self) -> list[str]:
        """Names of the foreground channels, in order."""
        return list(self.channel_labels)

    @property
    def target_channels(self) -> list[list[int]] | None:
        """Class indices (1, 2, ...) of each channel that may overlap; ``None`` with ``softmax``."""
        if not self.channels:
            return None
        index = {value: i for i, value in enumerate(self.class_values, start=1)}
        return [[index[value] for value in channel.labels] for channel in self.channels]

    @property
    def paint(self) -> list[int] | None:
        """Label value of each channel that may overlap, later over earlier; else ``None``."""
        return [channel.painted for channel in self.channels] or None

    def scored(self) -> list[Region]:
        """What gets a row each in a table of metrics: the classes, then the regions."""
        return regions_from_config(self.classes, {k: list(v) for k, v in self.regions.items()})

    def channel_regions(self) -> list[list[int]]:
        """Channel indices of each scored region."""
        channel = {value: i for i, value in enumerate(self.class_values, start=1)}
        return [[channel[value] for value in region.labels] for region in self.scored()]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        out: dict[str, Any] = {
            "classes": {str(k): v for k, v in self.classes.items()},
            "regions": {k: list(v) for k, v in self.regions.items()},
        }
        if self.channels:  # a list: files sort keys, the order counts
            out["channels"] = [
                {"name": c.name, "labels": list(c.labels), "painted": c.painted}
                for c in self.channels
            ]
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Task":
        """The inverse of :meth:`to_dict`."""
        channels = data.get("channels", [])
        return make_task(
            data["classes"],
            data["regions"],
            channels={c["name"]: c["labels"] for c in channels} or None,
            region_order=[c["painted"] for c in channels],
            activation="sigmoid" if channels else "softmax",
        )


def make_task(
    classes: Mapping[Any, str],
    regions: Mapping[str, Sequence[int] | str] | None = None,
    *,
    channels: Mapping[str, Sequence[int] | int | str] | None = None,
    region_order: Sequence[int] | str = "auto",
    activation: str = "softmax",
) -> Task:
    """Build a task from config values.

    Args:
        classes: label value to name; the values may be text, as JSON and YAML keys are.
        regions: name to label values, a list or text such as ``1+2``.
        channels, region_order: for ``sigmoid``, see
            :func:`samtune.training.channels.make_channels`; no channels: each class is one.
        activation: ``softmax`` or ``sigmoid``.

    Raises:
        ValueError: no class, a value below 1, a region of unknown classes, two rows of one name
            or of the same label values, or channels with ``softmax``.
    """
    named = {int(k): str(v) for k, v in sorted(classes.items(), key=lambda kv: int(kv[0]))}
    if not named or min(named) < 1:
        msg = f"classes must name at least one label value >= 1, got {dict(classes)}"
        raise ValueError(msg)
    parsed: dict[str, tuple[int, ...]] = {}
    for name, values in (regions or {}).items():
        listed = values.split("+") if isinstance(values, str) else values
        parsed[name] = tuple(int(v) for v in listed)
        unknown = sorted(set(parsed[name]) - set(named))
        if unknown:
            msg = f"region '{name}' has label values {unknown}, the classes are {list(named)}"
            raise ValueError(msg)
    if activation not in ("softmax", "sigmoid"):
        msg = f"activation must be 'softmax' or 'sigmoid', got '{activation}'"
        raise ValueError(msg)
    ordered = region_order != "auto" and len(region_order) > 0
    if activation == "softmax" and (channels is not None or ordered):
        msg = "channels and region_order are for regions that may overlap: activation 'sigmoid'"
        raise ValueError(msg)
    made: tuple[Channel, ...] = ()
    if activation == "sigmoid":
        given = channels or {name: [value] for value, name in named.items()}
        made = make_channels(given, named, region_order)
    task = Task(named, parsed, made)
    task.scored()  # refuses what can't be scored now, not after the training
    return task


def task_of(
    manifest: Manifest,
    classes: Mapping[Any, str] | str = "auto",
    regions: Mapping[str, Sequence[int] | str] | str | None = "auto",
    *,
    channels: Mapping[str, Sequence[int] | int | str] | None = None,
    region_order: Sequence[int] | str = "auto",
    activation: str = "softmax",
) -> Task:
    """The task of a folder of slices.

    Args:
        classes: as in :func:`make_task`; ``auto``: the names given to ``samtune slice``, and for
            values without a name ``class_N``.
        regions: as in :func:`make_task`; ``auto``: the channels of two or more classes, where there
            are channels; else all classes together as ``whole``, when there are two or more.
        channels, region_order, activation: as in :func:`make_task`.

    Raises:
        ValueError: the slices carry no label.
    """
    if isinstance(classes, str):
        if classes != "auto":
            msg = f"classes must be 'auto' or a mapping of label values to names, got '{classes}'"
            raise ValueError(msg)
        names = {int(k): str(v) for k, v in manifest.settings.get("class_names", {}).items()}
        values = sorted({*names, *manifest.case_labels()})
        if not values:
            msg = f"'{manifest.root}': the slices have no labels; run 'samtune slice' with --labels"
            raise ValueError(msg)
        classes = {value: names.get(value, f"class_{value}") for value in values}
    if isinstance(regions, str):
        if regions != "auto":
            msg = f"regions must be 'auto' or a mapping of names to label values, got '{regions}'"
            raise ValueError(msg)
        values = sorted(int(value) for value in classes)
        regions = {"whole": values} if len(values) > 1 else {}
        if channels:
            made = make_task(
                classes, channels=channels, region_order=region_order, activation=activation
            )
            regions = {k: v for k, v in made.channel_labels.items() if len(v) > 1}
    return make_task(
        classes, regions, channels=channels, region_order=region_order, activation=activation
    )
