"""Which label belongs to which image, by file name: two folders that the user names."""

from pathlib import Path

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.layouts.files import image_files, stem_of, visible
from samtune.preprocessing.layouts.run_lengths import pair_table
from samtune.preprocessing.pair_rule import PairRule, ambiguity, pair_stems, suggest_rules
from samtune.preprocessing.readers.label_rule import RunLengths
from samtune.preprocessing.readers.run_lengths import is_run_lengths
from samtune.preprocessing.volumes import case_id, find_volumes, volume_suffix

CHANNEL_SUFFIX = "_0000"  # nnU-Net names the first channel of case.nii.gz so
MAX_NAMED = 5

CaseFiles = CaseSource  # its name before datasets had layouts


def pair_files(
    images: Path,
    labels: Path | None,
    *,
    rule: PairRule | None = None,
    run_lengths: RunLengths | None = None,
) -> list[CaseSource]:
    """Pair images with labels, sorted by case id.

    Without a rule the names are equal: ``case_0000.nii.gz`` pairs with the label
    ``case.nii.gz`` (and is then ``case``) if no label is called ``case_0000``. Two single files
    are a pair whatever their names; a single image takes its label from a folder of more. With a
    rule the case is called as its image.

    Args:
        images: folder of volumes, or one volume; of pictures, or of folders with a DICOM series,
            if there are no volumes.
        labels: the same for labels, or a table (``.csv``) of run lengths, or None.
        rule: other than equal names.
        run_lengths: columns of a table; None: Kaggle's.

    Raises:
        FileNotFoundError: a path does not exist, or a folder has no volumes.
        ValueError: an image without label, a label without image, or several that fit one
            another; all are named.
    """
    images = Path(images)
    found = _files(images)
    if labels is None:
        return [CaseSource(case, (path,)) for case, path in found.items()]
    labels = Path(labels)
    if is_run_lengths(labels):
        cases, alone = pair_table(found, labels, run_lengths or RunLengths())
        if alone and not images.is_file():
            raise ValueError(
                f"{labels}: {len(alone)} of its names and the images of {images} are without "
                f"their counterpart: {_names(alone)}; an image without objects has a row without "
                "runs"
            )
        if not cases:
            raise ValueError(f"{labels}: no row names {images.name}; expected one")
        return cases
    label_files = _files(labels)
    if labels.is_file() and images.is_file():
        return [CaseSource(next(iter(label_files)), (images,), (labels,))]
    if rule is not None:
        pairs, unpaired, alone = _by_rule(images, labels, found, label_files, rule)
    else:
        pairs, unpaired, alone = _by_name(labels, found, label_files)
    expected = "a label of the same name" if rule is None else f"one by rule {rule.text!r}"
    if unpaired:
        rules = suggest_rules(found, label_files) if images != labels else []
        number = len(pairs) + len(unpaired)
        raise ValueError(
            f"{images}: {len(unpaired)} of {number} images without a label in {labels}: "
            f"{_names(unpaired)}; expected {expected}"
            + (f"; labels without an image: {_names(alone)}" if alone else "")
            + (f"; would pair all: --pair {' or '.join(map(repr, rules))}" if rules else "")
        )
    if alone and not images.is_file():
        expected = expected.replace("a label", "an image")
        number = len(pairs) + len(alone)
        raise ValueError(
            f"{labels}: {len(alone)} of {number} labels without an image in {images}: "
            f"{_names(alone)}; expected {expected}"
        )
    return [pairs[case] for case in sorted(pairs)]


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        known = None if volume_suffix(path) else stem_of(path.name)
        return {known or case_id(path): path}
    if any(volume_suffix(child) for child in visible(path)):
        return find_volumes(path)
    return image_files(path) or find_volumes(path)  # which says what it looked for


def _by_name(
    labels: Path, found: dict[str, Path], label_files: dict[str, Path]
) -> tuple[dict[str, CaseSource], list[str], list[str]]:
    pairs: dict[str, CaseSource] = {}
    unpaired: list[str] = []
    for name, path in found.items():
        case = name
        if case not in label_files and name.endswith(CHANNEL_SUFFIX):
            case = name.removesuffix(CHANNEL_SUFFIX)
        if case not in label_files:
            unpaired.append(path.name)
        elif case in pairs:
            raise ValueError(
                f"{labels}: label {label_files[case].name} has two images, "
                f"{pairs[case].image.name} and {path.name}; expected one"
            )
        else:
            pairs[case] = CaseSource(case, (path,), (label_files[case],))
    return pairs, unpaired, [path.name for case, path in label_files.items() if case not in pairs]


def _by_rule(
    images: Path,
    labels: Path,
    found: dict[str, Path],
    label_files: dict[str, Path],
    rule: PairRule,
) -> tuple[dict[str, CaseSource], list[str], list[str]]:
    if images == labels:  # the labels are those files that the rule makes of others
        made = {rule.image_key(stem) for stem in found}
        label_files = {stem: path for stem, path in label_files.items() if stem in made}
        found = {stem: path for stem, path in found.items() if stem not in label_files}
    result = pair_stems(found, label_files, rule)
    if result.ambiguous:
        names = ({s: path.name for s, path in side.items()} for side in (found, label_files))
        raise ValueError(
            f"{images}: rule {rule.text!r} pairs {ambiguity(result, *names)}; expected one label "
            "an image"
        )
    pairs = {
        image: CaseSource(image, (found[image],), (label_files[label],))
        for image, label in result.pairs.items()
    }
    return (
        pairs,
        [found[stem].name for stem in result.images],
        [label_files[stem].name for stem in result.labels],
    )


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
