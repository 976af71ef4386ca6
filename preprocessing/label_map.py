"""Label values to label values, by rules such as ``1,2=>1:hippocampus``."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from samtune.preprocessing.volumes import Array

VALUE_MAX = int(np.iinfo(np.uint16).max)
SHOWN = 5
_RULE = re.compile(r"\s*(\*|[\d,\s]+?)\s*=>\s*(\d+)\s*(?::(.*))?", flags=re.DOTALL)


@dataclass(frozen=True)
class LabelRule:
    """One rule.

    Attributes:
        sources: values that are mapped; empty: all that no other rule maps (``*``).
        target: what they become; 0 is background.
        name: of the target class, None if it has none.
    """

    sources: tuple[int, ...]
    target: int
    name: str | None = None


@dataclass(frozen=True)
class LabelMap:
    """Rules that map every label value; 0 stays 0 unless a rule names it.

    Raises:
        ValueError: a value is in two rules, there are two rules ``*``, one target has two names
            or two have one, background has a name, or a target is above 65535.
    """

    rules: tuple[LabelRule, ...] = ()

    def __post_init__(self) -> None:
        sources = [value for rule in self.rules for value in rule.sources or ("*",)]
        twice = sorted({str(value) for value in sources if sources.count(value) > 1})
        if twice:
            raise ValueError(f"label map: {', '.join(twice)} is in more than one rule")
        names: dict[int, str] = {}
        for rule in self.rules:
            if rule.target > VALUE_MAX:
                raise ValueError(f"label map: target {rule.target} is above {VALUE_MAX}")
            if rule.name is None:
                continue
            if rule.target == 0:
                raise ValueError(f"label map: background (0) cannot be named {rule.name!r}")
            if names.setdefault(rule.target, rule.name) != rule.name:
                raise ValueError(
                    f"label map: {rule.target} is named {names[rule.target]!r} and {rule.name!r}"
                )
        if len(set(names.values())) < len(names):
            raise ValueError(f"label map: a name is there twice: {', '.join(names.values())}")

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "LabelMap":
        """Rules as text, ``VALUES=>TARGET[:NAME]``, several in one text divided by ``;``.

        Example:
            >>> LabelMap.parse(["1,2=>1:hippocampus; *=>0"]).class_names
            {1: 'hippocampus'}

        Raises:
            ValueError: a text that is no rule.
        """
        rules = []
        for text in (part for whole in texts for part in whole.split(";") if part.strip()):
            match = _RULE.fullmatch(text)
            values = [] if match is None else re.split(r"\s*,\s*", match[1])
            name = None if match is None or match[3] is None else match[3].strip()
            if match is None or name == "" or not all(v == "*" or v.isdecimal() for v in values):
                raise ValueError(
                    f"label map: {text.strip()!r} is not VALUE,...=>VALUE[:NAME] or *=>VALUE"
                )
            sources = () if match[1] == "*" else tuple(int(value) for value in values)
            rules.append(LabelRule(sources, int(match[2]), name))
        return cls(tuple(rules))

    @property
    def class_names(self) -> dict[int, str]:
        """Target value to name, of those that have one."""
        return {rule.target: rule.name for rule in self.rules if rule.name is not None}

    @property
    def targets(self) -> set[int]:
        """Values that may be there after the map, 0 left out."""
        return {rule.target for rule in self.rules} - {0}

    def apply(self, label: Array, *, ignore_label: int | None = None) -> Array:
        """Map a label.

        Args:
            label: unsigned or non-negative integers, any shape.
            ignore_label: value that stays what it is, whatever the rules say.

        Returns:
            The smallest of uint8 and uint16 that holds all targets.

        Raises:
            ValueError: a value that occurs has no rule.
        """
        if not self.rules:
            return label
        other = next((rule.target for rule in self.rules if not rule.sources), None)
        table = {value: rule.target for rule in self.rules for value in rule.sources}
        table.setdefault(0, 0)
        if ignore_label is not None:
            table[ignore_label] = ignore_label
        present = present_values(label)
        unmapped = [value for value in present if value not in table]
        if unmapped and other is None:
            more = ", ..." if len(unmapped) > SHOWN else ""
            raise ValueError(
                f"label value {', '.join(map(str, unmapped[:SHOWN]))}{more} has no rule in the "
                "label map; add one, or '*=>0' for background"
            )
        targets = [table.get(value, other or 0) for value in present]
        dtype = np.uint8 if max(targets) <= np.iinfo(np.uint8).max else np.uint16
        if present[-1] <= VALUE_MAX:
            lookup = np.zeros(present[-1] + 1, dtype=dtype)
            lookup[present] = targets
            return np.asarray(lookup[label])
        mapped = np.zeros(label.shape, dtype=dtype)
        for value, target in zip(present, targets, strict=True):
            mapped[label == value] = target
        return mapped

    def to_dict(self) -> list[dict[str, Any]]:
        """JSON-able form."""
        return [
            {"from": list(rule.sources) or "*", "to": rule.target, "name": rule.name}
            for rule in self.rules
        ]

    @classmethod
    def from_dict(cls, data: Sequence[Mapping[str, Any]]) -> "LabelMap":
        """Inverse of :meth:`to_dict`."""
        return cls(
            tuple(
                LabelRule(
                    () if rule["from"] == "*" else tuple(rule["from"]), rule["to"], rule["name"]
                )
                for rule in data
            )
        )


def present_values(label: Array) -> list[int]:
    """Values that occur in a label of non-negative integers, sorted."""
    if label.dtype.itemsize > 2:
        return [int(value) for value in np.unique(label)]
    seen: npt.NDArray[np.bool_] = np.zeros(2 ** (8 * label.dtype.itemsize), dtype=bool)
    for plane in label if label.ndim > 1 else [label]:  # an index is 64 bits inside NumPy
        seen[plane] = True
    return [int(value) for value in np.flatnonzero(seen)]
