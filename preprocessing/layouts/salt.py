"""SALT: ``images/``, ``masks/`` and ``data_split.csv`` with the columns ``imgs,split``.

Source: https://github.com/BioMedIA-MBZUAI/SALT. Its README pairs files of one name, its code reads
``STEM_mask.png``; both are taken, but not for one image.
"""

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.layouts.files import SPLIT_NAMES, image_files, naming, stem_of
from samtune.preprocessing.layouts.listing import Evidence, LayoutOptions, Listing
from samtune.preprocessing.pair_rule import PairRule

CSV_NAME = "data_split.csv"
COLUMNS = ("imgs", "split")
MASK_SUFFIX = "_mask"


def recognise(folder: Path) -> Evidence | None:
    """data_split.csv with its two columns, beside images/ and masks/."""
    path = folder / CSV_NAME
    folders = [name for name in ("images", "masks") if (folder / name).is_dir()]
    if not path.is_file() or len(folders) < 2:
        return None
    with path.open(newline="", encoding="utf-8-sig") as file:
        columns = next(csv.reader(file), [])
    if not set(COLUMNS) <= {column.strip() for column in columns}:
        return None
    return Evidence("salt", (f"{CSV_NAME} with the columns imgs,split", "images/", "masks/"))


def listing(folder: Path, options: LayoutOptions) -> Listing:
    """Cases of data_split.csv with their masks; the split is the file's."""
    images, masks = image_files(folder / "images"), image_files(folder / "masks")
    rules = (
        [PairRule(options.pair)]
        if options.pair
        else [PairRule("stem"), PairRule("{stem}" + MASK_SUFFIX)]
    )
    by_key = [{rule.label_key(stem): path for stem, path in masks.items()} for rule in rules]
    cases, unpaired = [], []
    used: set[Path] = set()
    for line, name, split in _rows(folder / CSV_NAME):
        stem = PurePosixPath(name).name
        stem = stem_of(stem) or stem
        if stem not in images:
            unpaired.append(f"{CSV_NAME} line {line}: no image images/{name}")
            continue
        image = images.pop(stem)
        found = {
            keys[key]
            for rule, keys in zip(rules, by_key, strict=True)
            if (key := rule.image_key(stem)) in keys
        }
        if len(found) > 1:
            raise ValueError(
                f"{folder}: image {image.name} has several masks: "
                f"{naming(sorted(path.name for path in found))}; remove all but one, or give the "
                "rule with --pair"
            )
        if not found:
            unpaired.append(f"images/{image.name}: no mask of that name or {stem}{MASK_SUFFIX}")
            continue
        used |= found
        cases.append(CaseSource(stem, (image,), tuple(found), split))
    unpaired += [f"images/{path.name}: not in {CSV_NAME}" for path in images.values()]
    unpaired += [f"masks/{path.name}: no image" for path in masks.values() if path not in used]
    return Listing("salt", folder, sorted(cases, key=lambda one: one.case), unpaired)


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
    seen: dict[str, int] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        reader.fieldnames = [column.strip() for column in reader.fieldnames or []]
        for row in reader:
            name, split = ((row.get(column) or "").strip() for column in COLUMNS)
            line = reader.line_num
            if split.lower() not in SPLIT_NAMES:
                raise ValueError(
                    f"{path}: line {line}: {name!r} has split {split!r}; expected train, val or "
                    "test"
                )
            stem = stem_of(PurePosixPath(name).name) or name
            if not name or stem in seen:
                where = f" (also line {seen[stem]})" if stem in seen else ""
                raise ValueError(f"{path}: line {line}: image {name!r}{where}; expected each once")
            seen[stem] = line
            yield line, name, SPLIT_NAMES[split.lower()]
