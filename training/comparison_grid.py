"""Image, reference and each method's prediction side by side, for chosen cases of sliced data."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from samtune.evaluation.label_files import find_labels
from samtune.evaluation.overlay import OverlayRow, overlay_grid
from samtune.preprocessing.contact_sheet import upright
from samtune.preprocessing.manifest import Manifest, SliceRecord
from samtune.preprocessing.slice_file import read_slice_file
from samtune.preprocessing.slicing import volume_to_slices
from samtune.preprocessing.volumes import AFFINE_TOLERANCE, Array, read_label

SLICE_RULE = "of each case, the slice with the most labelled pixels, the first of equal ones"


def draw_comparison_grid(
    manifest: Manifest,
    preds: Mapping[str, str | Path],
    cases: Mapping[str, str],
    out: str | Path,
    *,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    min_tile: int = 240,
    formats: Sequence[str] = (),
) -> list[Path]:
    """Draw one row a case, one column a method, beside image and reference.

    Args:
        manifest: slices of the cases, labelled.
        preds: method -> folder of its label files, ``CASE.nii.gz`` or, of pictures, ``CASE.png``,
            on the case's own grid.
        cases: row title (``worst``) -> case.
        out: file, ``.png``.
        scores: method -> case -> Dice for the column titles; None: titles without a number.
        min_tile: see :func:`overlay_grid`.
        formats: ``svg``, ``pdf``: the same with outlines as lines, beside ``out``.

    Returns:
        ``out`` and the other files.

    Raises:
        FileNotFoundError: a folder is missing or holds no volume.
        ValueError: a case that the slices don't have, or a prediction on another grid.
        ImportError: other formats are asked for, and matplotlib isn't installed.
    """
    out = Path(out)
    check_cases(manifest, cases.values())
    volumes = {method: find_labels(Path(folder)) for method, folder in preds.items()}
    rows: list[OverlayRow] = []
    for place, case in cases.items():
        record = largest_slice(manifest, case)
        images, labels = read_slice_file(manifest.path(record))
        columns: list[tuple[str, Array | None]] = [("image", None)]
        if labels is not None:
            columns.append(("reference", upright(labels[record.position])))
        for method, files in volumes.items():
            if case not in files:
                columns.append((f"{method} (no prediction)", None))
                continue
            score = (scores or {}).get(method, {}).get(case)
            title = method if score is None else f"{method} (Dice {score:.2f})"
            columns.append((title, upright(_prediction(manifest, case, files[case], record.index))))
        image = np.ascontiguousarray(upright(_grey(images[record.position])))
        rows.append((f"{place}: {case}", image, columns))
    names = manifest.settings.get("class_names") or {}
    classes = {int(value): str(name) for value, name in names.items()} or None
    written = [overlay_grid(rows, out, classes=classes, min_tile=min_tile)]
    if formats:
        from samtune.evaluation.overlay_figure import draw_overlay_figure

        written += draw_overlay_figure(rows, out.parent, out.stem, classes=classes, formats=formats)
    return written


def check_cases(manifest: Manifest, cases: Iterable[str]) -> None:
    """Refuse cases that the slices don't have.

    Raises:
        ValueError: names them.
    """
    unknown = sorted(set(cases) - set(manifest.cases))
    if unknown:
        raise ValueError(
            f"{manifest.root}: no slices of case(s) {', '.join(unknown)}; give the folder that the "
            "tables' cases were sliced to"
        )


def largest_slice(manifest: Manifest, case: str) -> SliceRecord:
    """The slice with the most labelled pixels; the middle one if none has any."""
    records = manifest.select(case=case)
    areas = [sum((record.labels or {}).values()) for record in records]
    if not any(areas):
        return records[len(records) // 2]
    return records[areas.index(max(areas))]


def _prediction(manifest: Manifest, case: str, path: Path, index: int) -> Array:
    geometry = manifest.cases[case].geometry
    volume = read_label(path)
    same = volume.shape == geometry.shape and (
        not volume.has_spacing  # of a picture
        or np.allclose(volume.affine, geometry.affine, rtol=0, atol=AFFINE_TOLERANCE)
    )
    if not same:
        raise ValueError(
            f"{path}: shape {volume.shape} or affine isn't that of case '{case}', "
            f"{geometry.shape}; expected the case's own grid"
        )
    return np.ascontiguousarray(volume_to_slices(volume.array, geometry)[index])


def _grey(image: Array) -> Array:
    """``h w`` or ``h w 3``, 8 or 16 bits, as 8-bit grey."""
    grey = image.mean(axis=2) if image.ndim == 3 else image
    if image.dtype == np.uint16:
        grey = grey / 257  # 65535 is 255
    return np.asarray(np.round(grey), dtype=np.uint8)
