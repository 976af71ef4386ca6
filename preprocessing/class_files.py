"""Labels in one file a class: which files of a folder are those of an image."""

import re
from collections import defaultdict
from collections.abc import Iterable

from samtune.preprocessing.pair_rule import CLASS, PLACEHOLDER, PairRule, Pairs


def pair_class_files(
    images: Iterable[str], labels: Iterable[str], rule: PairRule
) -> tuple[dict[str, dict[str, str]], Pairs]:
    """Pair image stems with the label stems of their classes.

    Args:
        images: stems.
        labels: stems.
        rule: its label template has ``{class}``: ``{stem}_{class}`` takes ``a_liver`` and
            ``a_spleen`` for the image ``a``.

    Returns:
        Image to class to label, of the images that have all classes that occur; and the rest,
        with no ``pairs``: an image that lacks a class is in ``images`` and its labels in
        ``labels``, a label that fits several images in ``ambiguous``.
    """
    patterns = {image: _pattern(rule, image) for image in sorted(images)}
    found: dict[str, dict[str, str]] = defaultdict(dict)
    alone: list[str] = []
    ambiguous: list[tuple[list[str], list[str]]] = []
    for label in sorted(labels):
        fitting = {
            image: match["class"]
            for image, pattern in patterns.items()
            if pattern is not None and (match := pattern.fullmatch(label))
        }
        if len(fitting) > 1:
            ambiguous.append((list(fitting), [label]))
        elif fitting:
            ((image, name),) = fitting.items()
            found[image][name] = label
        else:
            alone.append(label)
    names = sorted({name for classes in found.values() for name in classes})
    complete = {image: found[image] for image in patterns if set(found[image]) == set(names)}
    partial = [image for image in patterns if image not in complete]
    alone += [label for image in partial for label in found[image].values()]
    return (complete if names else {}), Pairs({}, partial, sorted(alone), ambiguous)


def _pattern(rule: PairRule, image: str) -> re.Pattern[str] | None:
    filled = rule.image_key(image)  # the label's stem, {class} left as it is
    if not isinstance(filled, str):
        return None
    before, _, after = filled.partition(CLASS)
    return re.compile(f"{re.escape(before)}(?P<class>.+){re.escape(after)}")


def has_classes(rule: PairRule) -> bool:
    """Whether the rule is for one file a class."""
    return "class" in PLACEHOLDER.findall(rule.text)
