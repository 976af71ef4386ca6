"""finetune-SAM: text files with a line ``image,mask`` a case, one file a split.

Source: https://github.com/mazurowski-lab/finetune-SAM. Its code splits at the comma, its README
shows white space; the mask may start with ``/``, as it is appended to the masks' folder.
"""

import re
from pathlib import Path

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.layouts.files import SPLIT_NAMES, case_names, naming, stem_of, visible
from samtune.preprocessing.layouts.listing import Evidence, LayoutOptions, Listing

SUFFIXES = (".csv", ".txt")
PARENTS = 2  # lists lie in the dataset folder or up to so many folders below what they count from


def recognise(folder: Path) -> Evidence | None:
    """A list file, or a folder with some, whose first line names two files that are there."""
    files = [path for path in _list_files(folder) if _looks_like_list(path)]
    if not any(_first_pair_is_there(path) for path in files):
        return None
    return Evidence("finetune_sam", tuple(f"{path.name}: lines of image,mask" for path in files))


def listing(folder: Path, options: LayoutOptions) -> Listing:
    """Cases of all lists; the split is in the list's name, none if there is a single list.

    Raises:
        ValueError: a line of another form, a path that fits two places, a list without a split in
            its name beside others, or a case in two lists.
    """
    files = [path for path in _list_files(folder) if _looks_like_list(path)]
    splits = {path: _split_of(path.stem) for path in files}
    unknown = [path.name for path, split in splits.items() if split is None]
    if len(files) > 1 and unknown:
        raise ValueError(
            f"{folder}: lists {naming(path.name for path in files)}; {unknown[0]} does not say "
            "train, val or test; give one list, or rename it"
        )
    rows: dict[Path, tuple[Path, str | None, str]] = {}
    unpaired = []
    for path in files:
        for number, (image, mask) in enumerate(_lines(path), 1):
            found = _find(path, image, options.images), _find(path, mask, options.labels)
            missing = [name for name, at in zip((image, mask), found, strict=True) if at is None]
            if found[0] is None or found[1] is None:
                unpaired.append(f"{path.name} line {number}: no file {', '.join(missing)}")
                continue
            if found[0] in rows:
                raise ValueError(
                    f"{path}: line {number}: {image!r} is listed twice, also in "
                    f"{rows[found[0]][2]}; an image belongs to one split"
                )
            rows[found[0]] = (found[1], splits[path], path.name)
    base = _common_parent(list(rows))
    relative = {image: _without_suffix(image, base) for image in rows}
    names = case_names(relative.values())
    cases = [
        CaseSource(names[relative[image]], (image,), (mask,), split)
        for image, (mask, split, _) in rows.items()
    ]
    return Listing("finetune_sam", folder, sorted(cases, key=lambda one: one.case), unpaired)


def _list_files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder] if folder.suffix.lower() in SUFFIXES else []
    return [path for path in visible(folder) if path.is_file() and path.suffix.lower() in SUFFIXES]


def _split_of(stem: str) -> str | None:
    found = {
        SPLIT_NAMES[word] for word in re.findall(r"[a-z]+", stem.lower()) if word in SPLIT_NAMES
    }
    return found.pop() if len(found) == 1 else None


def _lines(path: Path) -> list[tuple[str, str]]:
    pairs = []
    text = path.read_text(encoding="utf-8-sig")
    for number, line in enumerate(filter(str.strip, text.splitlines()), 1):
        parts = [part.strip() for part in line.split(",")] if "," in line else line.split()
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"{path}: line {number} is {line!r}; expected image,mask")
        pairs.append((parts[0], parts[1]))
    return pairs


def _looks_like_list(path: Path) -> bool:
    """Whether its first line is the names of two images, there or not."""
    try:
        first = next(filter(str.strip, path.read_text(encoding="utf-8-sig").splitlines()), "")
    except (UnicodeDecodeError, OSError):
        return False
    parts = first.split(",") if "," in first else first.split()
    return len(parts) == 2 and all(stem_of(part.strip()) is not None for part in parts)


def _first_pair_is_there(path: Path) -> bool:
    try:
        image, mask = _lines(path)[0]
        return bool(_find(path, image, None) and _find(path, mask, None))
    except ValueError:
        return False


def _find(list_file: Path, name: str, root: str | None) -> Path | None:
    folder = list_file.parent
    roots = [folder, *folder.parents[:PARENTS]]
    if root is not None:
        roots = [folder / root]
    else:
        roots += [path for path in visible(folder) if path.is_dir()]
    found = {path.resolve(): path for one in roots if (path := one / name.lstrip("/")).is_file()}
    if len(found) > 1:
        raise ValueError(
            f"{list_file}: {name!r} could be {naming(str(path) for path in found.values())}; "
            "expected one; name the folders with --image-folder and --label-folder"
        )
    return next(iter(found.values()), None)


def _common_parent(paths: list[Path]) -> Path:
    if not paths:
        return Path()
    return next(
        parent for parent in paths[0].parents if all(parent in path.parents for path in paths)
    )


def _without_suffix(path: Path, base: Path) -> str:
    relative = path.relative_to(base)
    return relative.with_name(stem_of(path.name) or path.stem).as_posix()
