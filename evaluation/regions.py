"""Regions: what one row of a metrics table scores, a single class or a union of classes.

The list of regions comes from the configuration or the command line, never from what a prediction
happens to hold: a class that a model never predicts must still cost it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Region:
    """One class, or several classes taken together, and the name that tables print.

    Args:
        name: what the ``name`` column says; not empty, one line.
        labels: the class values that belong to it, each >= 1, without repeats; 0 is background.
        tolerances_mm: its own Surface Dice tolerances, mm; None: those of the table.
        cldice: score its centrelines too: for vessels and other tubes.

    Raises:
        ValueError: an empty or many-line name, no labels, a repeated label, a label < 1, or a
            tolerance that is negative or not finite.
    """

    name: str
    labels: tuple[int, ...]
    tolerances_mm: tuple[float, ...] | None = None
    cldice: bool = False

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name.splitlines()) != 1:
            raise ValueError(f"region name {self.name!r}: expected one line of text")
        if not self.labels or len(set(self.labels)) != len(self.labels) or min(self.labels) < 1:
            raise ValueError(
                f"region '{self.name}': labels {list(self.labels)}, "
                "expected at least one, each >= 1 (0 is background) and listed once"
            )
        if self.tolerances_mm is not None and not (
            self.tolerances_mm and all(math.isfinite(t) and t >= 0 for t in self.tolerances_mm)
        ):
            raise ValueError(
                f"region '{self.name}': tolerances {list(self.tolerances_mm)} mm, expected at "
                "least one, each >= 0"
            )

    @property
    def label(self) -> str:
        """The ``label`` column: ``1`` for a class, ``1+2`` for a union."""
        return "+".join(str(value) for value in self.labels)


def parse_labels(text: str) -> list[Region]:
    """Read classes such as ``1:anterior,2:posterior``, in the order given.

    Raises:
        ValueError: an entry is not ``VALUE:NAME``, or a value or name appears twice.
    """
    regions = []
    for entry in text.split(","):
        value, colon, name = entry.partition(":")
        if not colon or not value.strip().isdecimal() or not name.strip():
            raise ValueError(f"label '{entry}' in '{text}': expected VALUE:NAME, as in 1:anterior")
        regions.append(Region(name.strip(), (int(value),)))
    return _checked(regions)


def parse_regions(text: str) -> list[Region]:
    """Read unions of classes such as ``whole=1+2``, several separated by commas.

    Raises:
        ValueError: an entry is not ``NAME=VALUE+VALUE…``, or a name appears twice.
    """
    regions = []
    for entry in text.split(","):
        name, equals, values = entry.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"region '{entry}' in '{text}': expected NAME=1+2, as in whole=1+2")
        regions.append(Region(name.strip(), _label_values(name.strip(), values)))
    return _checked(regions)


def regions_from_config(
    classes: Mapping[int, str], regions: Mapping[str, Sequence[int] | int | str] | None = None
) -> list[Region]:
    """All rows of a configuration: its classes in order, then its regions in order.

    Args:
        classes: class value -> name, as ``{1: "anterior", 2: "posterior"}``; without background.
        regions: region name -> its class values, as ``{"whole": [1, 2]}`` or ``{"whole": "1+2"}``.

    Raises:
        ValueError: a region uses a value that is no class, or a name appears twice.
    """
    rows = [Region(str(name), (int(value),)) for value, name in classes.items()]
    known = {value for region in rows for value in region.labels}
    for name, values in (regions or {}).items():
        region = Region(str(name), _label_values(str(name), values))
        unknown = sorted(set(region.labels) - known)
        if unknown:
            raise ValueError(
                f"region '{name}': label {unknown[0]} is no class; classes are {sorted(known)}"
            )
        rows.append(region)
    return _checked(rows)


def with_options(
    regions: Iterable[Region],
    *,
    tolerances_mm: Mapping[str, Sequence[float] | float] | None = None,
    cldice: Iterable[str] | str = (),
) -> list[Region]:
    """The regions with tolerances of their own and clDice, both by name; one may stand alone.

    Raises:
        ValueError: a name is that of no region.
    """
    regions, own = list(regions), dict(tolerances_mm or {})
    tubes = {cldice} if isinstance(cldice, str) else set(cldice)
    names = [region.name for region in regions]
    for name in sorted({*own, *tubes} - set(names)):
        raise ValueError(f"no class or region is named '{name}'; names are {', '.join(names)}")
    return [
        replace(
            region,
            tolerances_mm=(
                as_tolerances(own[region.name]) if region.name in own else region.tolerances_mm
            ),
            cldice=region.cldice or region.name in tubes,
        )
        for region in regions
    ]


def as_tolerances(values: Sequence[float] | float) -> tuple[float, ...]:
    """Tolerances of a configuration, where one may stand without brackets.

    Raises:
        ValueError: one is no number.
    """
    listed = values if isinstance(values, Sequence) and not isinstance(values, str) else [values]
    try:
        return tuple(map(float, listed))
    except (TypeError, ValueError) as error:
        msg = f"tolerances must be numbers in mm, as in [1, 2], got {values!r}"
        raise ValueError(msg) from error


def check_regions(regions: Iterable[Region]) -> tuple[Region, ...]:
    """The regions as a tuple, after checking that there is one and that names are distinct."""
    return tuple(_checked(list(regions)))


def _label_values(name: str, values: Sequence[int] | int | str) -> tuple[int, ...]:
    if isinstance(values, int):
        return (values,)
    parts = values.split("+") if isinstance(values, str) else [str(value) for value in values]
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"region '{name}': labels '{values}', expected whole numbers as in 1+2")
    return tuple(int(part) for part in parts)


def _checked(regions: list[Region]) -> list[Region]:
    if not regions:
        raise ValueError("no class and no region to score: list at least one, as in 1:anterior")
    for what, keys in (
        ("name", [region.name for region in regions]),
        ("label", [region.label for region in regions]),
    ):
        repeated = [key for key in keys if keys.count(key) > 1]
        if repeated:
            raise ValueError(f"{what} '{repeated[0]}' is listed twice; each row needs its own")
    return regions
