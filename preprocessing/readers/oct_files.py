"""OCT files of Heidelberg, Topcon and Bioptigen devices through oct-converter (extra ``oct``).

Not tried on files of devices: the tests use objects with the attributes that oct-converter
documents.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samtune.preprocessing.readers.grid import Grid, Volume, picture_grid, with_values

# Suffix to oct-converter's class and the order of its pixel_spacing: column, row, slice.
READERS = {
    ".e2e": ("E2E", (0, 1, 2)),  # x, depth, slice; x and slice are oct-converter's defaults
    ".fda": ("FDA", (0, 2, 1)),  # width, slice thickness, height
    ".fds": ("FDS", (0, 2, 1)),
    ".oct": ("BOCT", (0, 1, 2)),
}
SUFFIXES = tuple(READERS)
DEFAULTS_NOTE = "spacing across columns and slices is oct-converter's default, not the file's"


def read_grid(path: Path, *, frame: int | None = None, series: str | None = None) -> Grid:
    """Grid of an OCT file; all of it is read for that."""
    return read(path, frame=frame, series=series)


def read(
    path: Path,
    *,
    frame: int | None = None,
    series: str | None = None,
    open_file: Callable[[Path], Any] | None = None,
) -> Volume:
    """Read an OCT volume: ``i j k`` is depth, column, B-scan.

    Nothing but B-scans and spacing is taken: these files hold names and dates of birth.

    Args:
        path: ``.e2e``, ``.fda``, ``.fds`` or ``.oct`` (Bioptigen).
        frame: unused, only 0 is accepted.
        series: which volume of a file of several, from 1.
        open_file: gives what ``read_oct_volume()`` returns; for tests.

    Raises:
        ImportError: oct-converter is missing.
        ValueError: damaged, several volumes without a choice, or a B-scan is missing.
    """
    if frame not in (None, 0):
        raise ValueError(f"{path}: there is no frame {frame}; a volume is chosen by series")
    name, order = READERS[path.suffix.lower()]
    try:
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always")
            found = (open_file or _open)(path)
    except ImportError:
        raise
    except Exception as error:  # its parsers raise whatever damaged bytes lead to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not a readable {name} file ({reason})") from error
    volumes = list(found) if isinstance(found, Sequence) else [found]
    scan = _choose(path, volumes, series)
    pages = [np.asarray(page) for page in scan.volume]
    missing = [index for index, page in enumerate(pages) if page.ndim != 2]
    if missing or not pages:
        raise ValueError(
            f"{path}: {len(missing)} of {len(pages)} B-scans are missing, the first is number "
            f"{missing[0] if missing else 0}; expected all"
        )
    sizes = {page.shape for page in pages}
    if len(sizes) > 1:
        raise ValueError(f"{path}: B-scans are of different size, {sorted(sizes)}; expected one")
    array = np.stack(pages, axis=-1)
    spacing, between = _spacing(scan.pixel_spacing, order)
    notes: tuple[str, ...] = (DEFAULTS_NOTE,) if name == "E2E" and spacing is not None else ()
    if doubts:
        notes += (f"oct-converter warned {len(doubts)} times: B-scans may have been left out",)
    shape = (array.shape[0], array.shape[1], array.shape[2])
    return with_values(picture_grid(path, shape, spacing, between, notes=notes), array)


def _choose(path: Path, volumes: Sequence[Any], series: str | None) -> Any:
    if not volumes:
        raise ValueError(f"{path}: has no OCT volume")
    listed = "; ".join(
        f"{index}: eye {volume.laterality or '?'}, {len(volume.volume)} B-scans"
        for index, volume in enumerate(volumes, start=1)
    )
    if series is None and len(volumes) > 1:
        raise ValueError(f"{path}: has {len(volumes)} volumes: {listed}; choose one (--series)")
    number = series or "1"
    if not number.isdecimal() or not 1 <= int(number) <= len(volumes):
        raise ValueError(f"{path}: there is no volume {number!r}; found {listed}")
    return volumes[int(number) - 1]


def _spacing(
    stored: Sequence[float] | None, order: tuple[int, int, int]
) -> tuple[tuple[float, float] | None, float | None]:
    """``(row, column)`` and distance of B-scans in mm, None for what the file doesn't say."""
    if not stored:
        return None, None
    sizes = [float(stored[n]) if n < len(stored) and stored[n] else None for n in order]
    column, row, between = sizes
    if row is None or column is None:
        return None, None
    return (row, column), between


def _open(path: Path) -> Any:
    try:
        from oct_converter import readers
    except ImportError as error:
        raise ImportError(
            f"{path}: OCT vendor files need oct-converter; pip install 'samtune[oct]'",
            name="oct_converter",
        ) from error
    return getattr(readers, READERS[path.suffix.lower()][0])(path).read_oct_volume()
