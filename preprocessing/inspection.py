"""A dataset looked at before it is sliced: counts, geometry, values and what is wrong with them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samtune.preprocessing.case_facts import CaseFacts, case_facts
from samtune.preprocessing.layouts.files import naming
from samtune.preprocessing.layouts.listing import Listing
from samtune.preprocessing.source_splits import patients_in_two_splits
from samtune.preprocessing.splits import SPLITS

NO_SPLIT = "none"
CT_BELOW = -200  # HU of fat and air; no other modality stores such values
MASK_VALUE = 255


@dataclass(frozen=True)
class Inspection:
    """What a dataset holds.

    Attributes:
        listing: its cases as the layout gives them.
        facts: of every case; values only of those sampled.
        sampled: number of cases whose values were read.
    """

    listing: Listing
    facts: list[CaseFacts]
    sampled: int

    @property
    def values_of(self) -> str:
        """Which cases the values are of, for a sentence."""
        number = len(self.facts)
        return (
            f"all {number} cases" if self.sampled == number else f"{self.sampled} of {number} cases"
        )

    def splits(self) -> dict[str, int]:
        """Cases per split; ``none`` where the dataset has none."""
        counts = Counter(one.split or NO_SPLIT for one in self.facts)
        return {name: counts[name] for name in (*SPLITS, NO_SPLIT) if counts[name]}

    def totals(self, what: str) -> dict[str, dict[int, int]]:
        """Split to class to sum over the sampled cases.

        Args:
            what: ``cases``, ``slices`` (those with a pixel of the class) or ``pixels``.
        """
        totals: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for one in self.facts:
            counts = (one.slices if what == "slices" else one.pixels) or {}
            for value, number in counts.items():
                totals[one.split or NO_SPLIT][value] += 1 if what == "cases" else number
        return {split: dict(sorted(counts.items())) for split, counts in totals.items()}

    def label_values(self) -> list[int]:
        """Values > 0 in the sampled labels, sorted."""
        return sorted({value for one in self.facts for value in one.pixels or {}})

    def modality(self) -> tuple[str, str]:
        """A modality for ``samtune slice``, and where it is taken from."""
        if self.listing.modality is not None:
            return self.listing.modality, "dataset.json"
        limits = [one.intensity for one in self.facts if one.intensity is not None]
        types = {one.dtype for one in self.facts if one.dtype is not None}
        if limits and min(low for low, *_ in limits) < CT_BELOW:
            return "ct", f"a guess: values below {CT_BELOW}"
        if any((one.channels or 1) > 1 for one in self.facts):
            return "rgb", "a guess: pictures in colour"
        if types == {"uint8"}:
            return "oct", "a guess: values are uint8 and stay as they are"
        return "mr", "a guess: not CT's numbers, not uint8"

    def problems(self) -> list[str]:
        """What is wrong or doubtful, a sentence each."""
        found = [f"unpaired: {text}" for text in self.listing.unpaired]
        found += [f"{one.case}: {text}" for one in self.facts for text in one.problems]
        split = {one.case: one.split for one in self.listing.cases if one.split is not None}
        found += patients_in_two_splits(self.listing.cases, split)
        if split and "val" not in split.values():
            found.append("no case is for validation (val)")
        unsized = sum(not one.has_spacing for one in self.facts)
        if unsized:
            found.append(f"{unsized} images don't say how large a pixel is; it counts as 1 mm")
        unsplit = len(self.facts) - len(split)
        if split and unsplit:
            found.append(f"{unsplit} cases have no split, others do")
        return found + self._label_problems()

    def _label_problems(self) -> list[str]:
        labelled = [one for one in self.facts if one.pixels is not None]
        if not labelled:
            return []
        found = []
        values, names = self.label_values(), self.listing.class_names
        empty = [one.case for one in labelled if not one.pixels]
        if empty:
            found.append(f"{len(empty)} labels have no voxel > 0: {naming(empty)}")
        if values == [MASK_VALUE]:
            found.append("labels hold 0 and 255: a mask, whose class is better called 1")
        missing = [f"{value} {names[value]}" for value in names if value not in values]
        if missing:
            found.append(f"classes in no label ({self.values_of}): {', '.join(missing)}")
        unnamed = [value for value in values if names and value not in names]
        if unnamed and unnamed != [self.listing.ignore_label]:
            found.append(f"label values without a name: {', '.join(map(str, unnamed))}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        modality, reason = self.modality()
        limits = [one.intensity for one in self.facts if one.intensity is not None]
        return {
            "layout": self.listing.layout,
            "cases": len(self.facts),
            "labelled": sum(bool(one.labels) for one in self.listing.cases),
            "image_files": sum(len(one.images) for one in self.listing.cases),
            "label_files": sum(len(one.labels) for one in self.listing.cases),
            "patients": len({one.patient for one in self.listing.cases if one.patient}) or None,
            "splits": self.splits(),
            "channels": list(self.listing.channel_names),
            "slices": sum(one.num_slices for one in self.facts),
            "shapes": _counts(one.shape for one in self.facts),
            "spacings_mm": _counts(one.spacing for one in self.facts),
            "orientations": _counts(one.orientation for one in self.facts),
            "sampled_cases": self.sampled,
            "types": _counts(one.dtype for one in self.facts),
            "values_a_voxel": _counts(one.channels for one in self.facts),
            "intensity": None
            if not limits
            else {
                "minimum": min(one[0] for one in limits),
                "lowest_0.5_percentile": min(one[1] for one in limits),
                "highest_99.5_percentile": max(one[3] for one in limits),
                "maximum": max(one[4] for one in limits),
            },
            "labels": [
                {
                    "value": value,
                    "name": self.listing.class_names.get(value),
                    **{
                        what: sum(counts.get(value, 0) for counts in self.totals(what).values())
                        for what in ("cases", "slices", "pixels")
                    },
                }
                for value in self.label_values()
            ],
            "modality": modality,
            "modality_from": reason,
            "left_out": list(self.listing.left_out),
            "notes": _counts(note for one in self.facts for note in one.notes),
            "problems": self.problems(),
        }


def inspect_cases(
    listing: Listing, *, sample: int | None, label_rule: Mapping[str, Any] | None = None
) -> Inspection:
    """Look at the headers of all cases and the values of some.

    Args:
        listing: of a layout.
        sample: number of cases whose values are read, evenly spread; None for all.
        label_rule: how stored label pixels become classes.
    """
    number = len(listing.cases)
    chosen = set(range(number))
    if sample is not None and sample < number:
        chosen = {index * number // sample for index in range(sample)}
    facts = [
        case_facts(source, read_values=index in chosen, label_rule=label_rule)
        for index, source in enumerate(listing.cases)
    ]
    return Inspection(listing, facts, len(chosen))


def _counts(values: Any) -> list[dict[str, Any]]:
    """Values that occur, the most frequent first, with the number of cases."""
    counts = Counter(value for value in values if value is not None)
    return [
        {"value": list(value) if isinstance(value, tuple) else value, "cases": number}
        for value, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def as_text(data: Mapping[str, Any], reasons: Sequence[str], values_of: str) -> str:
    """The report of :meth:`Inspection.to_dict` as lines.

    Args:
        data: that report.
        reasons: why it is this layout.
        values_of: which cases the values are of.
    """
    lines = [("layout", data["layout"] + (f" ({'; '.join(reasons)})" if reasons else ""))]
    labelled = f", {data['labelled']} labelled" if data["labelled"] < data["cases"] else ""
    files = f"{data['image_files']} image and {data['label_files']} label files"
    lines.append(("cases", f"{data['cases']}{labelled}; {files}; {data['slices']} slices"))
    if data["patients"]:
        lines.append(("patients", str(data["patients"])))
    splits = {"without a split" if k == NO_SPLIT else k: n for k, n in data["splits"].items()}
    lines.append(("splits", ", ".join(f"{number} {name}" for name, number in splits.items())))
    if len(data["channels"]) > 1:
        lines.append(("channels", ", ".join(f"{i} {n}" for i, n in enumerate(data["channels"]))))
    for title, key in (
        ("shapes", "shapes"),
        ("spacings", "spacings_mm"),
        ("orientation", "orientations"),
        ("type", "types"),
    ):
        lines.append((title, _few(data[key], "mm" if key == "spacings_mm" else "")))
    if any(entry["value"] > 1 for entry in data["values_a_voxel"]):
        lines.append(("values a voxel", _few(data["values_a_voxel"], "")))
    if data["intensity"] is not None:
        low, low_p, high_p, high = (f"{value:g}" for value in data["intensity"].values())
        text = f"{low} to {high}; 0.5 and 99.5 percentiles of cases from {low_p} to {high_p}"
        lines.append(("intensity", f"{text} ({values_of})"))
    for label in data["labels"]:
        text = f"{label['cases']} cases, {label['slices']} slices, {label['pixels']} voxels"
        name = f"label {label['value']}"
        lines.append((name, f"{label['name'] or 'no name'}: {text} ({values_of})"))
    lines.append(("modality", f"{data['modality']} ({data['modality_from']})"))
    lines += [("note", f"{note['value']} ({note['cases']} cases)") for note in data["notes"]]
    if data["left_out"]:
        lines.append(("left out", f"{len(data['left_out'])}: {naming(data['left_out'])}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def _few(entries: Sequence[Mapping[str, Any]], unit: str) -> str:
    def one(value: Any) -> str:
        text = "x".join(f"{size:g}" for size in value) if isinstance(value, list) else str(value)
        return f"{text} {unit}".strip()

    texts = [f"{one(entry['value'])} ({entry['cases']})" for entry in entries]
    return naming(texts) or "unknown"
