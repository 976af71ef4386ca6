"""Which segments or contours of a DICOM object are which class, by their names."""

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from samtune.preprocessing.readers.label_rule import LabelRule


def classes_of(path: Path, names: Mapping[int, str], rule: LabelRule) -> dict[int, int]:
    """Class of each segment or region of interest that counts.

    Args:
        path: file, for messages.
        names: number to name, as in the file.
        rule: ``structures`` chooses by name; without them the numbers are the classes, mapped by
            ``values`` where there are any.

    Raises:
        ValueError: nothing is left, or a class's pattern fits no name or a name fits two classes.
    """
    listed = ", ".join(f"{number}: {name!r}" for number, name in names.items())
    if rule.structures:
        chosen: dict[int, int] = {}
        for value, pattern in rule.structures.items():
            fitting = [n for n, name in names.items() if fnmatch(name.lower(), pattern.lower())]
            if not fitting:
                raise ValueError(f"{path}: no structure is called {pattern!r}; found {listed}")
            for number in fitting:
                if number in chosen:
                    raise ValueError(
                        f"{path}: structure {names[number]!r} fits the classes {chosen[number]} "
                        f"and {value}; expected one"
                    )
                chosen[number] = value
        return chosen
    if rule.values:
        return {number: rule.values[number] for number in names if number in rule.values}
    if not names:
        raise ValueError(f"{path}: has no structure; expected at least one")
    return {number: number for number in names}
