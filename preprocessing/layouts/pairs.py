"""Pairs: a folder of images and one of labels, at the top or in each of the splits' folders.

With a rule such as ``{stem}_mask``, images and labels may lie in one folder. Folder names with
``{split}`` stand for one folder a split: ``{split}_images`` for ``train_images``, ``Val_images``.
"""

import re
from dataclasses import replace
from pathlib import Path

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.class_files import has_classes, pair_class_files
from samtune.preprocessing.layouts.files import (
    SPLIT_NAMES,
    case_names,
    image_files,
    naming,
    shown,
    split_folders,
    visible,
)
from samtune.preprocessing.layouts.listing import Evidence, LayoutOptions, Listing
from samtune.preprocessing.pair_rule import PairRule, Pairs, ambiguity, pair_stems, suggest_rules

SPLIT = "{split}"
IMAGES = ("images", "image", "imgs", "img", "scans", "inputs", "original")
LABELS = (
    "labels",
    "label",
    "masks",
    "mask",
    "gts",
    "gt",
    "annotations",
    "segmentations",
    "ground_truth",
    "groundtruth",
    "1st_manual",
)


def recognise(folder: Path) -> Evidence | None:
    """One folder of images and one of labels, by their usual names."""
    splits = split_folders(folder)
    roots = [folder] if _has_both(folder) else list(splits.values())
    if not roots or not all(_has_both(root) for root in roots):
        return None
    reasons = []
    for root in roots:
        for names in (IMAGES, LABELS):
            path = _folder(root, None, names)
            number = len(image_files(path))
            if not number:
                return None
            reasons.append(f"{path.relative_to(folder).as_posix()}/: {number} images")
    return Evidence("pairs", tuple(reasons))


def listing(folder: Path, options: LayoutOptions) -> Listing:
    """Cases whose label is found by the rule (default: the same stem).

    Raises:
        ValueError: several folders could be that of the images or labels, or several labels fit
            an image; all candidates are named.
        FileNotFoundError: no images, or no labels.
    """
    rule = PairRule(options.pair or "stem")
    found: list[tuple[str, CaseSource]] = []
    unpaired: list[str] = []
    classes: set[tuple[str, ...]] = set()
    for split, root, names in _roots(folder, options):
        images, labels = _sides(root, names, rule)
        matched, rest = _match(images, labels, rule)
        if rest.ambiguous:
            raise ValueError(
                f"{root}: rule {rule.text!r} pairs {ambiguity(rest, shown(images), shown(labels))}"
                f"; expected one label an image{_suggestion(images, labels)}"
            )
        prefix = f"{root.name if root != folder else split}/" if split else ""
        hint = _suggestion(images, labels) if rest.images or rest.labels else ""
        for stems, paths, text in (
            (rest.images, images, f"no label by rule {rule.text!r}{hint}"),
            (rest.labels, labels, f"no image by rule {rule.text!r}"),
        ):
            unpaired += [f"{prefix}{paths[s].parent.name}/{paths[s].name}: {text}" for s in stems]
        for image, by_class in matched.items():
            files = tuple(labels[by_class[name]] for name in sorted(by_class))
            found.append((f"{prefix}{image}", CaseSource(image, (images[image],), files, split)))
            classes.add(tuple(sorted(by_class)))
    if len(classes) > 1:
        raise ValueError(
            f"{folder}: splits have other classes: {'; '.join(', '.join(c) for c in classes)}"
        )
    ids = case_names(path for path, _ in found)
    cases = [replace(source, case=ids[path]) for path, source in found]
    return Listing(
        "pairs",
        folder,
        sorted(cases, key=lambda one: one.case),
        unpaired,
        class_names=dict(enumerate(next(iter(classes), ()), 1)) if has_classes(rule) else {},
    )


def _match(
    images: dict[str, Path], labels: dict[str, Path], rule: PairRule
) -> tuple[dict[str, dict[str, str]], Pairs]:
    """Image to class to label, the class nameless where a label holds all; and the rest."""
    if has_classes(rule):
        return pair_class_files(images, labels, rule)
    pairs = pair_stems(images, labels, rule)
    return {image: {"": label} for image, label in pairs.pairs.items()}, pairs


def _roots(folder: Path, options: LayoutOptions) -> list[tuple[str | None, Path, LayoutOptions]]:
    """Split, folder that holds the two sides, and their names there; a single one without split."""
    if SPLIT in (options.images or "") and SPLIT in (options.labels or ""):
        words = {
            match[1]: name
            for path in visible(folder)
            if (match := _split_pattern(options.images or "").fullmatch(path.name))
            and (name := SPLIT_NAMES.get(match[1].lower()))
        }
        if not words:
            raise FileNotFoundError(f"{folder}: no folder {options.images} for train, val or test")
        return [
            (
                name,
                folder,
                replace(
                    options,
                    images=(options.images or "").replace(SPLIT, word),
                    labels=(options.labels or "").replace(SPLIT, word),
                ),
            )
            for word, name in words.items()
        ]
    splits = split_folders(folder)
    if splits and not _has_both(folder, options):
        return [(split, root, options) for split, root in splits.items()]
    return [(None, folder, options)]


def _split_pattern(template: str) -> re.Pattern[str]:
    before, _, after = template.partition(SPLIT)
    return re.compile(rf"{re.escape(before)}(\w+){re.escape(after)}")


def _sides(
    root: Path, options: LayoutOptions, rule: PairRule
) -> tuple[dict[str, Path], dict[str, Path]]:
    if _has_both(root, options):
        images = image_files(_folder(root, options.images, IMAGES))
        labels = image_files(_folder(root, options.labels, LABELS))
    else:
        one = root / options.images if options.images else root
        everything = image_files(one)
        expected = {rule.image_key(stem) for stem in everything}
        labels = {stem: path for stem, path in everything.items() if stem in expected}
        if rule.text in ("stem", "number") or not labels:
            raise FileNotFoundError(
                f"{root}: found {naming(path.name for path in visible(root)) or 'nothing'}; "
                f"expected a folder of images ({', '.join(IMAGES[:3])}, ...) and one of labels "
                f"({', '.join(LABELS[:3])}, ...), or --image-folder and --label-folder, or a rule "
                "such as --pair '{stem}_mask'"
            )
        images = {stem: path for stem, path in everything.items() if stem not in labels}
    for side, name in ((images, "images"), (labels, "labels")):
        if not side:
            raise FileNotFoundError(f"{root}: its folder of {name} has no image files")
    return images, labels


def _has_both(root: Path, options: LayoutOptions | None = None) -> bool:
    options = options or LayoutOptions()
    return bool(
        _candidates(root, options.images, IMAGES) and _candidates(root, options.labels, LABELS)
    )


def _candidates(root: Path, given: str | None, names: tuple[str, ...]) -> list[Path]:
    if given is not None:
        return [root / given] if (root / given).is_dir() else []
    return [path for path in visible(root) if path.is_dir() and path.name.lower() in names]


def _folder(root: Path, given: str | None, names: tuple[str, ...]) -> Path:
    found = _candidates(root, given, names)
    if len(found) > 1:
        option = "--image-folder" if names is IMAGES else "--label-folder"
        raise ValueError(
            f"{root}: {naming(f'{path.name}/' for path in found)} could each be the folder of "
            f"{'images' if names is IMAGES else 'labels'}; choose with {option}"
        )
    return found[0]


def _suggestion(images: dict[str, Path], labels: dict[str, Path]) -> str:
    rules = suggest_rules(images, labels)
    return f"; would pair all: --pair {' or '.join(repr(rule) for rule in rules)}" if rules else ""
