"""What every figure shares: the drawing library when it is there, colours, deterministic files."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from samtune.atomic import whole_file
from samtune.evaluation.overlay import COLOURS

FORMATS = ("png", "svg", "pdf")
PNG_DPI = 150
# hatches tell methods apart without colour
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def load_pyplot() -> ModuleType:
    """Matplotlib's pyplot, drawing without a screen.

    Raises:
        ImportError: matplotlib isn't installed; says how to get it.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        msg = 'figures need matplotlib: pip install "samtune[plots]"'
        raise ImportError(msg, name="matplotlib") from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def method_colour(index: int) -> tuple[float, ...]:
    """Colour of the method with this number, 0 to 1 a channel; repeats after seven."""
    return tuple(channel / 255 for channel in COLOURS[index % len(COLOURS)])


def method_hatch(index: int) -> str:
    """Hatch of the method; colour and hatch together repeat after 49."""
    return HATCHES[_shifted(index)]


def method_marker(index: int) -> str:
    """Marker of the method; colour and marker together repeat after 49."""
    return MARKERS[_shifted(index)]


def _shifted(index: int) -> int:
    """Place in a list of seven, one further each time the colours begin again."""
    return (index + index // len(COLOURS)) % len(HATCHES)


def save_figure(
    figure: Any, folder: Path, name: str, *, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Save a figure as PNG, SVG and PDF, or some of them; equal input gives equal bytes.

    Returns:
        The files.
    """
    import matplotlib as mpl

    dates = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    # text stays text in SVG and PDF: a journal can edit it
    settings: Any = {"svg.hashsalt": name, "svg.fonttype": "none", "pdf.fonttype": 42}
    paths = []
    with mpl.rc_context(settings):
        for suffix in formats:
            path = folder / f"{name}.{suffix}"
            with whole_file(path) as partial:
                figure.savefig(partial, format=suffix, dpi=PNG_DPI, metadata=dates[suffix])
            paths.append(path)
    return paths
