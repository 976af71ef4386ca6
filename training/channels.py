"""Overlapping regions as output channels, and how they become one label map again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Channel:
    """A foreground channel of a network with ``sigmoid``.

    Attributes:
        name: of the region.
        labels: label values that belong to it.
        painted: label value that its pixels get in a label map, later channels over earlier ones.
    """

    name: str
    labels: tuple[int, ...]
    painted: int


def make_channels(
    regions: Mapping[str, Sequence[int] | int | str],
    classes: Mapping[int, str],
    region_order: Sequence[int] | str = "auto",
) -> tuple[Channel, ...]:
    """Channels of regions such as ``{whole: [1, 2, 3], core: [2, 3], enhancing: [3]}``.

    Args:
        regions: name to label values, in channel order: a list, one value, or text such as ``1+2``.
        classes: label value to name.
        region_order: label value that each channel is painted with, in channel order, as nnU-Net's
            ``regions_class_order``; ``auto``: the one value of a channel that no later channel has.

    Raises:
        ValueError: unknown values, a class that is in no region, or an order that is not there or
            leaves open what a channel means.
    """
    parsed = {str(name): _values(str(name), values) for name, values in regions.items()}
    covered: set[int] = set()
    for name, values in parsed.items():
        unknown = sorted(set(values) - set(classes))
        if unknown:
            msg = f"channel '{name}' has label values {unknown}, the classes are {list(classes)}"
            raise ValueError(msg)
        covered |= set(values)
    left = [f"{value} ({name})" for value, name in classes.items() if value not in covered]
    if left or not parsed:
        msg = f"channels must hold every class, missing: {', '.join(left) or 'all'}"
        raise ValueError(msg)
    order = _order(parsed, region_order)
    return tuple(
        Channel(name, values, painted)
        for (name, values), painted in zip(parsed.items(), order, strict=True)
    )


def _values(name: str, values: Sequence[int] | int | str) -> tuple[int, ...]:
    listed: Sequence[Any] = values.split("+") if isinstance(values, str) else [values]
    if not isinstance(values, (str, int)):
        listed = list(values)
    try:
        found = tuple(int(value) for value in listed)
    except ValueError as error:
        msg = f"channel '{name}': labels '{values}', expected whole numbers such as [1, 2] or 1+2"
        raise ValueError(msg) from error
    if not found or len(set(found)) != len(found):
        msg = f"channel '{name}' must list at least one label value, each once, got {list(found)}"
        raise ValueError(msg)
    return found


def _order(regions: Mapping[str, tuple[int, ...]], given: Sequence[int] | str) -> list[int]:
    names, labels = list(regions), list(regions.values())
    if isinstance(given, str):
        if given != "auto":
            msg = f"region_order must be 'auto' or a list of label values, got '{given}'"
            raise ValueError(msg)
        order = []
        for i, name in enumerate(names):
            later = {value for values in labels[i + 1 :] for value in values}
            own = [value for value in labels[i] if value not in later]
            if len(own) != 1:
                msg = (
                    f"channel '{name}' has the label values {own} to itself once the later "
                    "channels are painted over it, expected one: list larger regions first, or "
                    "give region_order, a label value for each channel"
                )
                raise ValueError(msg)
            order += own
        return order
    order = [int(value) for value in given]
    fits = len(order) == len(names) and len(set(order)) == len(order)
    if not fits or any(value not in values for value, values in zip(order, labels, strict=True)):
        listed = ", ".join(f"{name}: {list(values)}" for name, values in regions.items())
        msg = f"region_order must be one label value of each channel ({listed}), got {order}"
        raise ValueError(msg)
    return order
