"""What a layout finds in a folder: the evidence for it, its options, its cases."""

from dataclasses import dataclass, field
from pathlib import Path

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.readers.label_rule import RunLengths


@dataclass(frozen=True)
class Evidence:
    """Why a folder is taken for a layout.

    Attributes:
        layout: name in ``LAYOUTS``.
        reasons: what was found, a phrase each.
    """

    layout: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class LayoutOptions:
    """What a user may say about a folder.

    Attributes:
        pair: rule of :class:`~samtune.preprocessing.pair_rule.PairRule`; None: the layout's own.
        images, labels: names of the folders of images and labels, below the folder or below
            each split's; None: the usual names.
        patient: regular expression found in the case id; its first group (else all of it) names
            the patient. None: the layout's own, as a rule unknown.
        run_lengths: columns of a table that holds the labels.
    """

    pair: str | None = None
    images: str | None = None
    labels: str | None = None
    patient: str | None = None
    run_lengths: RunLengths = field(default_factory=RunLengths)


@dataclass(frozen=True)
class Listing:
    """Cases of a dataset folder.

    Attributes:
        layout: name in ``LAYOUTS``.
        folder: the folder.
        cases: sorted by case id.
        unpaired: files that should belong to a case but don't, a phrase each.
        left_out: files that the layout has no use for here, such as unlabelled test images.
        class_names: label value to name, as far as the dataset says.
        channel_names: of the image's channels, several if it has several.
        modality: ``ct`` or ``mr`` where the dataset says so.
        ignore_label: label value that counts for nothing, where the dataset has one.
    """

    layout: str
    folder: Path
    cases: list[CaseSource]
    unpaired: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    class_names: dict[int, str] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    modality: str | None = None
    ignore_label: int | None = None
