"""Run lengths: a folder of pictures and a table that holds the labels of all of them.

Kaggle's way: ``train_images/`` and ``train.csv`` with the columns ``ImageId,EncodedPixels``.
"""

from pathlib import Path

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.layouts.files import image_files, naming, stem_of, visible
from samtune.preprocessing.layouts.listing import Evidence, LayoutOptions, Listing
from samtune.preprocessing.readers.label_rule import RunLengths
from samtune.preprocessing.readers.run_lengths import has_columns, is_run_lengths, named_images


def recognise(folder: Path) -> Evidence | None:
    """One table with Kaggle's columns, and one folder of images beside it."""
    runs = RunLengths()
    tables, folders = _tables(folder, runs), _image_folders(folder)
    if len(tables) != 1 or len(folders) != 1:
        return None
    number = len(image_files(folders[0]))
    return Evidence(
        "run_lengths",
        (
            f"{tables[0].name} with the columns {runs.image},{runs.pixels}",
            f"{folders[0].name}/: {number} images",
        ),
    )


def listing(folder: Path, options: LayoutOptions) -> Listing:
    """Cases of the images that the table names.

    Raises:
        FileNotFoundError: no table with the columns, or no images.
        ValueError: several that could be meant.
    """
    table = _only(
        folder,
        _tables(folder, options.run_lengths) if not options.labels else [folder / options.labels],
        f"table (.csv) with the columns {options.run_lengths.image},{options.run_lengths.pixels}",
        "--label-folder",
    )
    images = _only(
        folder,
        _image_folders(folder) if not options.images else [folder / options.images],
        "folder of images",
        "--image-folder",
    )
    cases, unpaired = pair_table(image_files(images), table, options.run_lengths)
    return Listing("run_lengths", folder, cases, unpaired)


def pair_table(
    images: dict[str, Path], table: Path, runs: RunLengths
) -> tuple[list[CaseSource], list[str]]:
    """Cases of the images that a table names, and a phrase for each name on one side alone.

    An image without objects has a row without runs.

    Args:
        images: stem to path.
        table: the CSV file.
        runs: its columns.

    Raises:
        FileNotFoundError, ValueError: no such table, or one without these columns.
    """
    named = {stem_of(name) or name: name for name in named_images(table, runs)}
    cases = [CaseSource(stem, (path,), (table,)) for stem, path in images.items() if stem in named]
    unpaired = [
        f"{path.parent.name}/{path.name}: no row of {table.name} names it in column {runs.image}"
        for stem, path in images.items()
        if stem not in named
    ]
    unpaired += [
        f"{table.name}: {name}: no such image" for stem, name in named.items() if stem not in images
    ]
    return sorted(cases, key=lambda one: one.case), unpaired


def _tables(folder: Path, runs: RunLengths) -> list[Path]:
    return [
        path
        for path in visible(folder)
        if path.is_file() and is_run_lengths(path) and has_columns(path, runs)
    ]


def _image_folders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_dir() and image_files(path)]


def _only(folder: Path, found: list[Path], what: str, option: str) -> Path:
    if not found:
        entries = naming(path.name for path in visible(folder)) or "nothing"
        raise FileNotFoundError(f"{folder}: expected a {what}, found {entries}")
    if len(found) > 1:
        names = naming(path.name for path in found)
        raise ValueError(f"{folder}: {names} could each be the {what}; choose with {option}")
    return found[0]
