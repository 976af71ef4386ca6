"""One picture of a sliced data set: a labelled slice a case, upright, to see that all is well."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from samtune.atomic import write_atomically
from samtune.preprocessing.label_files import is_picture
from samtune.preprocessing.manifest import Manifest, SliceRecord
from samtune.preprocessing.slice_file import LabelArray, read_slice_file
from samtune.preprocessing.slicing import stored_spacing
from samtune.preprocessing.volumes import Array

MAX_TILES = 20
COLUMNS = 5
TILE = 180  # pixels, square
CAPTION = 18
GAP = 4
BACKGROUND = (24, 24, 24)
TEXT = (235, 235, 235)
# Okabe and Ito 2008, without black: distinct for colour-blind readers
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)

RGB = npt.NDArray[np.uint8]


def draw_contact_sheet(manifest: Manifest, path: Path, *, max_tiles: int = MAX_TILES) -> None:
    """Draw the middle labelled slice of up to ``max_tiles`` cases, outlines coloured by class.

    Upright: superior (axial slices: anterior) is up; left-right runs from the subject's left to
    the right, posterior-anterior to the right. Tiles have true proportions in mm. Of more cases,
    evenly spaced ones are taken. A case without any label shows its middle slice.

    Args:
        manifest: of a folder whose slice files are complete.
        path: target PNG; equal input gives equal bytes.
        max_tiles: at least 1.

    Raises:
        ValueError: no case, or ``max_tiles`` < 1.
    """
    if not manifest.cases or max_tiles < 1:
        raise ValueError(f"contact sheet: {len(manifest.cases)} cases, {max_tiles} tiles; need 1")
    cases = list(manifest.cases)
    chosen = np.linspace(0, len(cases) - 1, min(max_tiles, len(cases))).round().astype(int)
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    legend = _legend(manifest)
    size = (
        columns * (TILE + GAP) + GAP,
        rows * (TILE + CAPTION + GAP) + GAP + (CAPTION if legend else 0),
    )
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    for number, index in enumerate(chosen):
        x = GAP + number % columns * (TILE + GAP)
        y = GAP + number // columns * (TILE + CAPTION + GAP)
        record = middle_slice(manifest, cases[index])
        tile = Image.fromarray(_tile(manifest, record))
        sheet.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
        caption = f"{record.case} [{record.index}]"
        if record.labels == {}:
            caption = f"{record.case} (no label)"
        draw.text((x + 2, y + TILE + 1), _shorten(caption, draw, font), fill=TEXT, font=font)
    x = GAP + 2
    for text, colour in legend:
        draw.text((x, size[1] - CAPTION - 1), text, fill=colour, font=font)
        x += int(draw.textlength(text, font=font)) + 14
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    write_atomically(Path(path), buffer.getvalue())


def middle_slice(manifest: Manifest, case: str) -> SliceRecord:
    """The middle one of a case's slices with label pixels; of all slices if none has any."""
    records = manifest.select(case=case)
    labelled = [record for record in records if record.labels]
    records = labelled or records
    return records[len(records) // 2]


def upright(array: Array) -> Array:
    """A slice ``H W ...`` of RAS axes as a picture: W runs up, H to the right."""
    return np.flip(np.swapaxes(array, 0, 1), axis=0)


def as_it_is(array: Array) -> Array:
    """A slice of a picture: rows run down, columns across."""
    return array


def _tile(manifest: Manifest, record: SliceRecord) -> RGB:
    imgs, gts = read_slice_file(manifest.path(record))
    case = manifest.cases[record.case]
    turn = upright
    across_mm, down_mm = stored_spacing(case.geometry)
    if is_picture(Path(case.image_name)):  # rows and columns as they are
        turn, across_mm, down_mm = as_it_is, down_mm, across_mm
    picture = turn(imgs[record.position])
    if picture.dtype != np.uint8:
        picture = np.rint(picture / 257).astype(np.uint8)  # 16 bits: 65535 is white
    height_mm, width_mm = picture.shape[0] * down_mm, picture.shape[1] * across_mm
    scale = TILE / max(height_mm, width_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    shown = Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.BILINEAR)
    rgb = np.array(shown.convert("RGB"))
    if gts is not None:
        _outline(rgb, turn(gts[record.position]), manifest.case_labels())
    return rgb


def _outline(rgb: RGB, label: LabelArray, values: list[int]) -> None:
    rows = np.arange(rgb.shape[0]) * label.shape[0] // rgb.shape[0]
    columns = np.arange(rgb.shape[1]) * label.shape[1] // rgb.shape[1]
    label = label[rows][:, columns]  # nearest pixel
    for number, value in enumerate(values):
        mask = np.pad(label == value, 1)
        inner = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        rgb[mask[1:-1, 1:-1] & ~inner] = COLOURS[number % len(COLOURS)]


def _legend(manifest: Manifest) -> list[tuple[str, tuple[int, int, int]]]:
    names: dict[str, str] = manifest.settings.get("class_names", {})
    return [
        (f"{value} {names.get(str(value), '')}".strip(), COLOURS[number % len(COLOURS)])
        for number, value in enumerate(manifest.case_labels())
    ]


def _shorten(text: str, draw: ImageDraw.ImageDraw, font: Any) -> str:
    while draw.textlength(text, font=font) > TILE - 4:
        text = f"{text.removesuffix('...')[:-1]}..."
    return text
