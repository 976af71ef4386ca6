"""What a report is made of, as plain data: who trains, and how, is not known here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from samtune.evaluation.report.scores import CaseScore


@dataclass(frozen=True, eq=False)
class CaseVolume:
    """One case as pictures, upright: row 0 of every slice is at the top.

    Attributes:
        image: ``n h w`` grey or ``n h w 3`` colour, uint8.
        reference: ``n h w`` class values, 0 is background.
        prediction: the same, None where there is none.
        pixel_mm: height and width of a pixel, > 0; only their ratio counts.

    Raises:
        ValueError: types or shapes are others.
    """

    image: npt.NDArray[np.uint8]
    reference: npt.NDArray[np.integer[Any]] | None
    prediction: npt.NDArray[np.integer[Any]] | None
    pixel_mm: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        image = self.image
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.size == 0:
            msg = f"image is {image.dtype} {image.shape}, expected uint8 n h w or n h w 3"
            raise ValueError(msg)
        for what, label in (("reference", self.reference), ("prediction", self.prediction)):
            if label is not None and label.shape != image.shape[:3]:
                msg = f"{what} has shape {label.shape}, the image {image.shape[:3]}"
                raise ValueError(msg)


@dataclass(frozen=True)
class RunFacts:
    """A run.

    Attributes:
        name: title of the page.
        scores: test metrics, a row a case and class; empty where it was not scored.
        split: which cases they are of.
        overview: short facts by name, such as the backbone.
        curve: column to its value at each epoch, NaN where there is none; with ``epoch``.
        parameters: ``trainable`` and ``total``.
        settings, versions, protocol: by name, as text.
        patients: case to patient, whom the intervals draw; empty: each case is its own.
        failures: case to why it could not be scored.
        missing: sentences on what this run does not have.
        load_case: gives the pictures of a case; None where there are none.
    """

    name: str
    scores: Sequence[CaseScore] = ()
    split: str = "test"
    overview: Mapping[str, str] = field(default_factory=dict)
    curve: Mapping[str, Sequence[float]] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    protocol: Mapping[str, str] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()
    load_case: Callable[[str], CaseVolume] | None = None
