"""Rules that say which label belongs to which image, by the names of the files."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
ARROW = "=>"
CLASS = "{class}"
HELP = "stem, number, a template such as '{stem}_mask', or '{id}_training=>{id}_manual1'"


@dataclass(frozen=True)
class PairRule:
    """A rule on stems, that is names without folder and suffix.

    Attributes:
        text: ``stem``: equal stems. ``number``: the same whole numbers in the same order, so
            ``img07`` and ``mask_7``. A template with ``{stem}``: the label's stem.
            ``IMAGE=>LABEL``: two templates that share their placeholders. ``{class}`` in the
            label's stands for a name of its own: one file a class.

    Raises:
        ValueError: none of these.
    """

    text: str
    _image: re.Pattern[str] | None = field(init=False, repr=False, compare=False, default=None)
    _label: str = field(init=False, repr=False, compare=False, default="")

    def __post_init__(self) -> None:
        if self.text in ("stem", "number"):
            return
        left, arrow, right = (part.strip() for part in self.text.partition(ARROW))
        if not arrow:
            left, right = "{stem}", left
        names, used = PLACEHOLDER.findall(left), PLACEHOLDER.findall(right)
        shared = [name for name in used if name != "class"]
        if (
            not names
            or not shared
            or len(set(names)) < len(names)
            or not set(shared) <= set(names)
            or "class" in names
            or used.count("class") > 1
        ):
            raise ValueError(f"pairing rule {self.text!r}; expected {HELP}")
        object.__setattr__(self, "_image", re.compile(_pattern(left)))
        object.__setattr__(self, "_label", right)

    def image_key(self, stem: str) -> Hashable | None:
        """What an image is paired by; None if the rule doesn't take a file of this name."""
        if self._image is None:
            return self.label_key(stem)
        match = self._image.fullmatch(stem)
        if match is None:
            return None
        groups = {**match.groupdict(), "class": CLASS}
        return PLACEHOLDER.sub(lambda one: groups[one[1]], self._label)

    def label_key(self, stem: str) -> Hashable | None:
        """What a label is paired by."""
        if self.text == "number":
            return tuple(int(digits) for digits in re.findall(r"\d+", stem)) or None
        return stem


@dataclass(frozen=True)
class Pairs:
    """Result of a rule; all are stems.

    Attributes:
        pairs: image to label, sorted.
        images: those without a label.
        labels: those without an image.
        ambiguous: images and labels of which several fit each other.
    """

    pairs: dict[str, str]
    images: list[str]
    labels: list[str]
    ambiguous: list[tuple[list[str], list[str]]]

    @property
    def is_complete(self) -> bool:
        """Every image has its label and every label its image."""
        return bool(self.pairs) and not (self.images or self.labels or self.ambiguous)


def pair_stems(images: Iterable[str], labels: Iterable[str], rule: PairRule) -> Pairs:
    """Pair stems by a rule; nothing is lost: each is in one of the four parts of the result."""
    by_key: dict[Hashable, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    alone_images: list[str] = []
    alone_labels: list[str] = []
    for stems, key_of, side, alone in (
        (images, rule.image_key, 0, alone_images),
        (labels, rule.label_key, 1, alone_labels),
    ):
        for stem in sorted(stems):
            key = key_of(stem)
            if key is None:
                alone.append(stem)
            else:
                by_key[key][side].append(stem)
    pairs: dict[str, str] = {}
    ambiguous = []
    for found_images, found_labels in by_key.values():
        if len(found_images) == 1 and len(found_labels) == 1:
            pairs[found_images[0]] = found_labels[0]
        elif found_images and found_labels:
            ambiguous.append((found_images, found_labels))
        else:
            alone_images += found_images
            alone_labels += found_labels
    return Pairs(dict(sorted(pairs.items())), sorted(alone_images), sorted(alone_labels), ambiguous)


def suggest_rules(images: Iterable[str], labels: Iterable[str]) -> list[str]:
    """Rules that would pair all of these stems one to one, for an error's text."""
    images, labels = list(images), list(labels)
    if not images or not labels:
        return []
    ends = [_common_end(images), _common_end(labels)]
    ends = [re.sub(r"^\d+", "", end) for end in ends]  # a digit there is part of the number
    tried = ["stem", "number", f"{{id}}{ends[0]}{ARROW}{{id}}{ends[1]}"]
    if not ends[0]:
        tried[2:] = [f"{{stem}}{ends[1]}"] if ends[1] else []
    return [text for text in tried if pair_stems(images, labels, PairRule(text)).is_complete]


def ambiguity(pairs: Pairs, images: Mapping[str, str], labels: Mapping[str, str]) -> str:
    """The candidates of all ambiguous pairs in one line.

    Args:
        pairs: with at least one ambiguous entry.
        images, labels: stem to the name to print.
    """
    return "; ".join(
        f"{', '.join(images[one] for one in left)} with {', '.join(labels[one] for one in right)}"
        for left, right in pairs.ambiguous
    )


def _pattern(template: str) -> str:
    parts = PLACEHOLDER.split(template)  # text, name, text, name, ..., text
    return "".join(
        f"(?P<{part}>.+?)" if index % 2 else re.escape(part) for index, part in enumerate(parts)
    )


def _common_end(stems: list[str]) -> str:
    first, last = min(stems, key=_reversed), max(stems, key=_reversed)
    length = 0
    while length < len(first) and first[-1 - length :] == last[max(0, len(last) - 1 - length) :]:
        length += 1
    return first[len(first) - length :]


def _reversed(stem: str) -> str:
    return stem[::-1]
