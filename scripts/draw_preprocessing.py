"""Draw the pictures of docs/preprocessing.md from the sample data.

    python scripts/draw_preprocessing.py --chase ../shared/data/retina_chase

``--chase`` is a folder with ``images`` and ``masks`` of CHASE_DB1; without it there is no picture
of tiles. Equal data gives equal bytes, but for other versions of matplotlib and Pillow.
"""

import argparse
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from samtune.atomic import write_atomically
from samtune.cli import main as samtune
from samtune.preprocessing.contact_sheet import COLOURS, draw_contact_sheet, middle_slice, upright
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.slice_file import read_slice_file
from samtune.preprocessing.slicing import CaseGeometry
from samtune.preprocessing.tiles import TileGrid
from samtune.preprocessing.volumes import read_image

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "examples/hippocampus_mr"
CASE = "hippocampus_001"
NAMES = "1:anterior,2:posterior"
PHOTO = "Image_01L"
PHOTO_PX = 480  # shown; files are 999 x 960
TILE, OVERLAP = 512, 64
SHEET_CASES = 10


def draw_all(out: Path, chase: Path | None) -> list[Path]:
    """Draw the pictures and give their files."""
    files = [out / f"preprocessing_{name}.png" for name in ("sheet", "inspect", "steps")]
    with tempfile.TemporaryDirectory() as folder:
        sliced = Path(folder) / "slices"
        _slice(sliced)
        draw_contact_sheet(load_manifest(sliced), files[0], max_tiles=SHEET_CASES)
        _save_picture(Image.open(files[0]), files[0])
        data = [str(SAMPLE / "images"), "--labels", str(SAMPLE / "labels")]
        if samtune(["inspect", *data, "--sample", "0", "--figure", str(files[1])]):
            raise RuntimeError("samtune inspect failed")
        _steps(files[2], Path(folder))
    if chase is not None:
        files.append(out / "preprocessing_tiles.png")
        _tiles(files[-1], chase)
    return files


def _slice(out: Path, *options: str) -> None:
    argv = [str(SAMPLE / "images"), "--labels", str(SAMPLE / "labels"), "--modality", "mr"]
    argv += ["--class-names", NAMES, "--split", "1", "0", "0", "-o", str(out), "-q", *options]
    if samtune(["slice", *argv]):
        raise RuntimeError("samtune slice failed")


def _steps(path: Path, folder: Path) -> None:
    """A slice as read, after intensity, cropped, and resampled, labels outlined."""
    native = read_image(SAMPLE / f"images/{CASE}.nii.gz")
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels: Any = figure.subplots(1, 4)
    titles = ("file", "intensity", "crop", "resampled")
    options: tuple[tuple[str, ...], ...] = (
        (),
        ("--crop", "4px"),
        ("--crop", "4px", "--spacing", "0.5"),
    )
    for number, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        out = folder / f"steps_{number}"
        _slice(out, *options[max(0, number - 1)])
        manifest = load_manifest(out)
        record = middle_slice(manifest, CASE)
        image, label = read_slice_file(manifest.path(record))
        shown, largest = image[0], 255.0
        if number == 0:
            geometry = CaseGeometry.of(native, case=CASE, axis=manifest.cases[CASE].geometry.axis)
            index: list[Any] = [slice(None)] * 3
            index[geometry.axis] = record.index  # the file is RAS
            shown, largest = native.array[tuple(index)], float(native.array.max())
        axes.imshow(upright(shown), cmap="gray", vmin=0, vmax=largest, interpolation="nearest")
        if number and label is not None:
            for value, colour in zip((1, 2), COLOURS, strict=False):
                _outline(axes, upright(label[0]) == value, colour)
        limits = "0 to 255" if number else f"0 to {largest:.0f}"
        axes.set_title(f"{title}\n{shown.shape[0]}x{shown.shape[1]}, {limits}", fontsize=9)
        axes.set_axis_off()
    _save(figure, path)


def _tiles(path: Path, chase: Path) -> None:
    """A photograph with its vessels, and the tiles that slicing cuts it into."""
    photo = Image.open(chase / f"images/{PHOTO}.jpg")
    mask = Image.open(chase / f"masks/{PHOTO}.png").convert("L")
    scale = PHOTO_PX / max(photo.size)
    size = (round(photo.width * scale), round(photo.height * scale))
    grid = TileGrid.of((photo.height, photo.width), TILE, OVERLAP)
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(photo.resize(size), extent=(0, photo.width, photo.height, 0))
    vessels = np.asarray(mask.resize(size, Image.Resampling.NEAREST)) > 0
    tint = np.zeros((*vessels.shape, 4), np.uint8)
    tint[vessels] = (*COLOURS[3], 150)
    axes.imshow(tint, extent=(0, photo.width, photo.height, 0))
    for number, (row, column) in enumerate(grid.corners):
        colour = [part / 255 for part in COLOURS[(number + 4) % len(COLOURS)]]
        corner = (column + 4 * number, row + 4 * number)  # apart, where edges coincide
        axes.add_patch(
            Rectangle(corner, TILE - 16, TILE - 16, fill=False, edgecolor=colour, linewidth=2)
        )
    axes.set_title(f"{photo.height}x{photo.width} pixels, {len(grid)} tiles of {TILE}", fontsize=9)
    axes.set_axis_off()
    _save(figure, path)


def _outline(axes: Axes, mask: Any, colour: tuple[int, int, int]) -> None:
    if mask.any():
        axes.contour(mask, levels=[0.5], colors=[[part / 255 for part in colour]], linewidths=1)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    _save_picture(Image.open(buffer), path)


def _save_picture(picture: Image.Image, path: Path) -> None:
    """With few colours: a fifth of the bytes."""
    image = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    write_atomically(path, buffer.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images", help="folder of the .png")
    parser.add_argument("--chase", type=Path, help="folder with images/ and masks/ of CHASE_DB1")
    args = parser.parse_args(argv)
    for file in draw_all(args.out, args.chase):
        print(f"{file}: {file.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
