"""What the pixels of label files mean: colours, grey values, one file a class, run lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

Colour = tuple[int, int, int]
OVERLAPS = ("error", "later")
ORDERS = ("columns", "rows")
LARGEST_LABEL = 2**32 - 1


@dataclass(frozen=True)
class RunLengths:
    """Columns and counting of a CSV file with run lengths; the defaults are Kaggle's.

    Attributes:
        image: column with the image's name, with or without suffix.
        pixels: column with ``start length start length ...``; empty for no object.
        value: column with the class; None if all rows are class 1.
        order: ``columns`` counts down the first column first, ``rows`` along the first row.
        first: number of the first pixel, 0 or 1.
    """

    image: str = "ImageId"
    pixels: str = "EncodedPixels"
    value: str | None = None
    order: str = "columns"
    first: int = 1

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"run_lengths: order must be columns or rows, got {self.order!r}")
        if self.first not in (0, 1):
            raise ValueError(f"run_lengths: first must be 0 or 1, got {self.first!r}")


@dataclass(frozen=True)
class LabelRule:
    """How stored label pixels become classes. Without any rule integers are kept as they are.

    Attributes:
        colours: class to RGB, 0 to 255; black is 0 unless the table says otherwise.
        tolerance: largest distance (Euclidean, in RGB) to the nearest colour of the table.
        unmatched_share: share of a file's pixels that may be farther; they become
            ``ignore_label``, or 0 without one. More are an error.
        values: stored value to class; a value that isn't listed is an error, but for 0 and
            ``ignore_label``.
        threshold: grey values above it are class 1, others 0: for masks saved as JPEG.
        files: class to a pattern of file names (``*_artery.png``), for one file a class.
        structures: class to a pattern of names of segments or contours (DICOM SEG, RTSTRUCT);
            those that fit none are left out. Without it their numbers are the classes.
        overlap: where two classes' files overlap: ``error``, or ``later`` for the later class.
        ignore_label: stored value that counts for no class and is kept as it is.
        run_lengths: how to read a CSV file.

    Raises:
        ValueError: a value is out of range, two colours or two rules exclude each other.
    """

    colours: Mapping[int, Colour] = field(default_factory=dict)
    tolerance: float = 0.0
    unmatched_share: float = 0.0
    values: Mapping[int, int] = field(default_factory=dict)
    threshold: float | None = None
    files: Mapping[int, str] = field(default_factory=dict)
    structures: Mapping[int, str] = field(default_factory=dict)
    overlap: str = "error"
    ignore_label: int | None = None
    run_lengths: RunLengths = field(default_factory=RunLengths)

    def __post_init__(self) -> None:
        for name, classes in (
            ("colours", list(self.colours)),
            ("values", list(self.values.values())),
            ("files", list(self.files)),
            ("structures", list(self.structures)),
            ("ignore_label", [] if self.ignore_label is None else [self.ignore_label]),
        ):
            for value in classes:
                if not isinstance(value, int) or not 0 <= value <= LARGEST_LABEL:
                    raise ValueError(f"label rule: {name} has class {value!r}; expected whole >= 0")
        for colour in self.colours.values():
            if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
                raise ValueError(f"label rule: colour {colour!r} is not three numbers 0 to 255")
        if len(set(self.colours.values())) < len(self.colours):
            raise ValueError("label rule: two classes have one colour")
        if self.values and self.threshold is not None:
            raise ValueError("label rule: values and threshold exclude each other")
        if 0 in self.files:
            raise ValueError("label rule: class 0 is the background and has no file")
        if self.overlap not in OVERLAPS:
            raise ValueError(f"label rule: overlap must be error or later, got {self.overlap!r}")
        if self.tolerance < 0 or not 0 <= self.unmatched_share <= 1:
            raise ValueError("label rule: tolerance must be >= 0 and unmatched_share in [0, 1]")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "LabelRule":
        """A rule from a config section; colours are ``[r, g, b]`` or ``"#rrggbb"``.

        Raises:
            ValueError: an unknown key, or a value of the wrong kind.
        """
        known = {one.name for one in fields(cls)}
        unknown = sorted(set(mapping) - known)
        if unknown:
            raise ValueError(
                f"label rule: unknown {', '.join(unknown)}; expected some of "
                f"{', '.join(sorted(known))}"
            )
        settings = {name: value for name, value in mapping.items() if value is not None}
        try:
            if "colours" in settings:
                settings["colours"] = {
                    int(value): parse_colour(colour)
                    for value, colour in settings["colours"].items()
                }
            if "values" in settings:
                settings["values"] = {int(k): int(v) for k, v in settings["values"].items()}
            for name in ("files", "structures"):
                if name in settings:
                    settings[name] = {int(k): str(v) for k, v in settings[name].items()}
            if "run_lengths" in settings:
                settings["run_lengths"] = RunLengths(**settings["run_lengths"])
            return cls(**settings)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"label rule: a value is of the wrong kind ({error})") from error

    def class_of_file(self, path: Path) -> int:
        """Class of a file by the patterns of ``files``, whatever the case of its letters.

        Raises:
            ValueError: no pattern fits, or several.
        """
        name = path.name.lower()
        fitting = [value for value, pattern in self.files.items() if fnmatch(name, pattern.lower())]
        if len(fitting) != 1:
            patterns = ", ".join(f"{value}: {text}" for value, text in self.files.items())
            raise ValueError(
                f"{path}: its name fits {len(fitting)} classes; expected one of {patterns}"
            )
        return fitting[0]


def parse_colour(colour: str | Sequence[int]) -> Colour:
    """``[r, g, b]`` or ``"#rrggbb"`` as three numbers.

    Raises:
        ValueError: neither.
    """
    if isinstance(colour, str):
        digits = colour.removeprefix("#")
        try:
            if len(digits) != 6:
                raise ValueError
            parts = list(bytes.fromhex(digits))
        except ValueError as error:
            raise ValueError(f"label rule: colour {colour!r} is not #rrggbb") from error
    else:
        parts = [int(part) for part in colour]
    if len(parts) != 3:
        raise ValueError(f"label rule: colour {colour!r} is not three numbers")
    return parts[0], parts[1], parts[2]


def read_rule(path: Path) -> LabelRule:
    """A rule from a YAML or JSON file that holds its keys.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, or not a rule; names the file.
    """
    return LabelRule.from_mapping(read_rule_keys(path))


def read_rule_keys(path: Path) -> dict[str, Any]:
    """The keys of a rule file as they stand there, checked; raises as :func:`read_rule`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a YAML file with a label rule")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("expected keys and values, such as colours: {1: '#ff0000'}")
        LabelRule.from_mapping(content)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    return content
