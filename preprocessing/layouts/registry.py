"""The layouts there are, and which of them a folder has."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.layouts import (
    finetune_sam,
    medsam,
    msd,
    nnunet,
    pairs,
    run_lengths,
    salt,
    sam_lora,
)
from samtune.preprocessing.layouts.files import naming, stem_of, visible
from samtune.preprocessing.layouts.listing import Evidence, LayoutOptions, Listing

NOTES = ("", ".csv", ".txt", ".json", ".md", ".yaml", ".yml", ".pdf", ".html", ".py", ".ipynb")
FALLBACK = "pairs"  # two folders: also part of other layouts, so taken if none of them fits


@dataclass(frozen=True)
class Layout:
    """A way to lay out a dataset.

    Attributes:
        name: in ``LAYOUTS``.
        title: what it is, a phrase.
        recognise: folder to the evidence for this layout, None if there is none. A folder that
            merely resembles it gives no error.
        listing: folder and options to the cases and what else the dataset says.
    """

    name: str
    title: str
    recognise: Callable[[Path], Evidence | None]
    listing: Callable[[Path, LayoutOptions], Listing]

    def cases(self, folder: Path, options: LayoutOptions | None = None) -> list[CaseSource]:
        """The cases alone; unpaired files are an error.

        Raises:
            ValueError: unpaired files, counted and named.
        """
        found = self.listing(Path(folder), options or LayoutOptions())
        check_paired(found)
        return found.cases


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("nnunet", "nnU-Net raw data", nnunet.recognise, nnunet.listing),
        Layout("msd", "Medical Segmentation Decathlon", msd.recognise, msd.listing),
        Layout("salt", "SALT: data_split.csv", salt.recognise, salt.listing),
        Layout(
            "finetune_sam",
            "finetune-SAM: lists of image,mask",
            finetune_sam.recognise,
            finetune_sam.listing,
        ),
        Layout("sam_lora", "SAM-LoRA: .npz in split folders", sam_lora.recognise, sam_lora.listing),
        Layout("medsam", "MedSAM: a folder of .npz", medsam.recognise, medsam.listing),
        Layout(
            "run_lengths",
            "a folder of pictures and a table of run lengths",
            run_lengths.recognise,
            run_lengths.listing,
        ),
        Layout("pairs", "folders of images and labels", pairs.recognise, pairs.listing),
    )
}


def recognise(folder: Path) -> Evidence | None:
    """The layout of a folder by what is in it; None if it has none that is known.

    Raises:
        ValueError: it has several; all are named with their evidence.
    """
    folder = Path(folder)
    found = {
        name: evidence
        for name, layout in LAYOUTS.items()
        if name != FALLBACK and (evidence := layout.recognise(folder)) is not None
    }
    if len(found) > 1:
        both = "; ".join(f"{name} ({', '.join(one.reasons)})" for name, one in found.items())
        raise ValueError(f"{folder}: could be {both}; choose with --input-layout")
    return next(iter(found.values()), None) or LAYOUTS[FALLBACK].recognise(folder)


def list_dataset(
    folder: Path, layout: str = "auto", options: LayoutOptions | None = None
) -> Listing:
    """Cases of a dataset folder.

    Args:
        folder: the folder, or the file of a layout that may be one (a list, a ``.npz``).
        layout: name in ``LAYOUTS``, or ``auto``.
        options: rule and folder names, where the layout takes them.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no layout or several, no cases, or what the layout's own listing raises.
    """
    folder, options = Path(folder), options or LayoutOptions()
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    if layout == "auto":
        evidence = recognise(folder)
        if evidence is None:
            entries = naming(path.name for path in visible(folder)) or "nothing"
            raise ValueError(
                f"{folder}: none of the layouts {', '.join(LAYOUTS)}; found {entries}; choose "
                "with --input-layout, or give images and --labels"
            )
        layout = evidence.layout
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}; expected auto, {', '.join(LAYOUTS)}")
    found = LAYOUTS[layout].listing(folder, options)
    if not found.cases:
        problems = naming(found.unpaired) or "no images"
        raise ValueError(f"{folder}: layout {layout} has no cases here: {problems}")
    found = replace(found, left_out=[*found.left_out, *_unknown_files(found)])
    if options.patient is not None:
        found = replace(found, cases=with_patients(found.cases, options.patient))
    return found


def _unknown_files(found: Listing) -> list[str]:
    """Files beside those of the cases that are neither images nor notes: of an unknown format."""
    paths = {path for one in found.cases for path in (*one.images, *one.labels)}
    return [
        f"{parent.name}/{path.name}: not an image format that is known"
        for parent in sorted({path.parent for path in paths})
        for path in visible(parent)
        if path.is_file()
        and path not in paths
        and stem_of(path.name) is None
        and path.suffix.lower() not in NOTES
    ]


def with_patients(cases: list[CaseSource], pattern: str) -> list[CaseSource]:
    """The same cases with the patient that a regular expression finds in each case id.

    Raises:
        ValueError: not a regular expression, or it does not fit a case.
    """
    try:
        rule = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"patient rule {pattern!r}: {error}") from error
    named = []
    for case in cases:
        match = rule.search(case.case)
        if match is None:
            raise ValueError(f"patient rule {pattern!r} does not fit case {case.case!r}")
        named.append(replace(case, patient=match[1] if rule.groups else match[0]))
    return named


def check_paired(found: Listing) -> None:
    """Do nothing if every file belongs to a case.

    Raises:
        ValueError: some don't; they are counted and named.
    """
    if found.unpaired:
        raise ValueError(
            f"{found.folder}: {len(found.unpaired)} files without their counterpart: "
            f"{naming(found.unpaired)}; correct them, or leave them out with --skip-unpaired"
        )
