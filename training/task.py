"""What a network segments: classes, their names, and the regions that are scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samtune.evaluation.regions import Region, regions_from_config
from samtune.preprocessing.manifest import Manifest


@dataclass(frozen=True)
class Task:
    """Classes and regions.

    Attributes:
        classes: label value to name, ascending; foreground channel i + 1 is the i-th.
        regions: region name to its label values, e.g. ``{"whole": (1, 2)}``.
    """

    classes: dict[int, str]
    regions: dict[str, tuple[int, ...]]

    @property
    def class_values(self) -> tuple[int, ...]:
        """Label values in channel order."""
        return tuple(self.classes)

    def scored(self) -> list[Region]:
        """What gets a row each in a table of metrics: the classes, then the regions."""
        return regions_from_config(self.classes, {k: list(v) for k, v in self.regions.items()})

    def channel_regions(self) -> list[list[int]]:
        """Channel indices of each scored region."""
        channel = {value: i for i, value in enumerate(self.class_values, start=1)}
        return [[channel[value] for value in region.labels] for region in self.scored()]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "classes": {str(k): v for k, v in self.classes.items()},
            "regions": {k: list(v) for k, v in self.regions.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Task":
        """The inverse of :meth:`to_dict`."""
        return make_task(data["classes"], data["regions"])


def make_task(
    classes: Mapping[Any, str], regions: Mapping[str, Sequence[int] | str] | None = None
) -> Task:
    """Build a task from config values.

    Args:
        classes: label value to name; the values may be text, as JSON and YAML keys are.
        regions: name to label values, a list or text such as ``1+2``.

    Raises:
        ValueError: no class, a value below 1, a region of unknown classes, or two rows of one name
            or of the same label values.
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
    task = Task(named, parsed)
    task.scored()  # refuses what can't be scored now, not after the training
    return task


def task_of(
    manifest: Manifest,
    classes: Mapping[Any, str] | str = "auto",
    regions: Mapping[str, Sequence[int] | str] | str | None = "auto",
) -> Task:
    """The task of a folder of slices.

    Args:
        classes: as in :func:`make_task`; ``auto``: the names given to ``samtune slice``, and for
            values without a name ``class_N``.
        regions: as in :func:`make_task`; ``auto``: all classes together as ``whole``, when there
            are two or more.

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
    return make_task(classes, regions)
