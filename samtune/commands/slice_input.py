"""What ``samtune slice`` and ``inspect`` are given: a dataset folder, or images and labels."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune.commands.split_options import is_split_asked

if TYPE_CHECKING:
    from samtune.preprocessing.case_source import CaseSource
    from samtune.preprocessing.dataset_description import DatasetDescription
    from samtune.preprocessing.layouts import Evidence, Listing

# names of samtune.preprocessing.layouts.LAYOUTS, written out: parsing imports nothing
INPUT_LAYOUTS = (
    "nnunet",
    "msd",
    "salt",
    "finetune_sam",
    "sam_lora",
    "medsam",
    "run_lengths",
    "pairs",
)
PLAIN = "folder"  # images and --labels, or images alone
SHOWN = 10
# what a description says beside where files are; an option of the command of the same name
FROM_DESCRIPTION = ("modality", "window", "channel", "label_map", "label_rule", "class_names")


@dataclass(frozen=True)
class SliceInput:
    """Cases, and what is known of them beyond their files.

    Attributes:
        cases: sorted.
        listing: of the dataset's layout.
        evidence: why it is taken for that layout; None if the user named it.
        description: of the named dataset, None if none is named.
    """

    cases: list["CaseSource"]
    listing: "Listing"
    evidence: "Evidence | None" = None
    description: "DatasetDescription | None" = None


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say what is in the folder."""
    group = parser.add_argument_group("dataset folders")
    group.add_argument(
        "--labels",
        type=Path,
        help="folder of label volumes of the same names (case_0000.nii.gz pairs with "
        "case.nii.gz), or one, or a .csv of run lengths (default: unlabelled, or as the dataset's "
        "layout says)",
    )
    group.add_argument(
        "--label-rule",
        type=Path,
        metavar="FILE",
        help="YAML file that says what stored label pixels mean: colours, tolerance, values, "
        "threshold, files, structures, run_lengths, ... (docs/inputs.md)",
    )
    group.add_argument(
        "--input-layout",
        default="auto",
        choices=("auto", *INPUT_LAYOUTS, PLAIN),
        help="how the folder is laid out; folder: nothing but images (default: auto, by what is "
        "in it; several that fit are an error)",
    )
    group.add_argument(
        "--dataset",
        metavar="NAME",
        help="take layout, modality, labels and patients from a description: a name in the "
        "bundle's configs/data (docs/datasets.md), or a .yaml file",
    )
    group.add_argument(
        "--pair",
        metavar="RULE",
        help="which label an image has: stem, number, '{stem}_mask', or "
        "'{id}_training=>{id}_manual1', or '{stem}_{class}', one file a class (default: the same "
        "name)",
    )
    group.add_argument(
        "--image-folder", metavar="NAME", help="folder of images in the dataset or in each split"
    )
    group.add_argument("--label-folder", metavar="NAME", help="the same for labels")
    group.add_argument(
        "--channel", metavar="N", help="number from 0, or name, where images have several channels"
    )
    group.add_argument(
        "--frame", type=int, metavar="N", help="of 4D files and films: which volume, from 0"
    )
    group.add_argument(
        "--series",
        metavar="S",
        help="of DICOM folders with several: description, number or SeriesInstanceUID",
    )
    group.add_argument(
        "--skip-unpaired",
        action="store_true",
        help="leave out files without their counterpart and list them (default: an error)",
    )


def apply_description(args: argparse.Namespace) -> "DatasetDescription | None":
    """Read ``--dataset`` and put what it says where the user said nothing.

    Raises:
        ValueError: no such name, or the description needs an option that this command lacks.
    """
    if args.dataset is None:
        return None
    from samtune.preprocessing.dataset_description import find_descriptions, read_description
    from samtune.training.paths import bundle_root

    known = find_descriptions(Path(bundle_root("sam_finetune")) / "configs" / "data")
    path = Path(args.dataset) if args.dataset.endswith((".yaml", ".yml")) else None
    if path is None and args.dataset not in known:
        raise ValueError(f"no dataset {args.dataset!r}; there are: {', '.join(known)}, or a .yaml")
    description = read_description(path or known[args.dataset])
    for key in FROM_DESCRIPTION:
        value = getattr(description, key)
        if value is None or getattr(args, key, None):
            continue
        if not hasattr(args, key):
            raise ValueError(f"{description.name}: needs the option {key}, which is not here")
        setattr(args, key, [value] if isinstance(getattr(args, key), list) else value)
    for key, option in (("pair", "pair"), ("images", "image_folder"), ("labels", "label_folder")):
        if getattr(args, option) is None:
            setattr(args, option, getattr(description, key))
    if args.input_layout == "auto":
        args.input_layout = description.layout
    return description


def find_input(args: argparse.Namespace, folder: Path) -> SliceInput:
    """Cases of the folder by its layout, or of images and ``--labels``.

    Raises:
        FileNotFoundError, ValueError: nothing there, several layouts or labels fit, or files are
            unpaired (unless ``--skip-unpaired``).
    """
    from samtune.preprocessing.layouts import (
        LayoutOptions,
        Listing,
        check_paired,
        choose_volume,
        list_dataset,
        recognise,
        with_patients,
    )
    from samtune.preprocessing.pair_rule import PairRule
    from samtune.preprocessing.pairing import pair_files
    from samtune.preprocessing.readers.label_rule import LabelRule, read_rule_keys

    description = apply_description(args)
    patient = None if description is None else description.patient
    if args.labels is not None and args.input_layout not in ("auto", PLAIN):
        args.usage_error("--labels is for a folder of images, --input-layout for a dataset's")
    if isinstance(args.label_rule, Path):
        args.label_rule_file, args.label_rule = args.label_rule, read_rule_keys(args.label_rule)
    runs = LabelRule.from_mapping(args.label_rule or {}).run_lengths
    evidence = None
    layout = args.input_layout
    if layout == "auto":
        plain = args.labels is not None or _is_volumes(folder)
        evidence = None if plain else recognise(folder)
        layout = PLAIN if evidence is None else evidence.layout
    if layout == PLAIN:
        rule = None if args.pair is None else PairRule(args.pair)
        cases = pair_files(folder, args.labels, rule=rule, run_lengths=runs)
        if patient is not None:
            cases = with_patients(cases, patient)
        listing = Listing(PLAIN, folder, cases)
    else:
        options = LayoutOptions(args.pair, args.image_folder, args.label_folder, patient, runs)
        listing = list_dataset(folder, layout, options)
        if not args.skip_unpaired:
            check_paired(listing)
    listing = choose_volume(listing, frame=args.frame, series=args.series)
    return SliceInput(listing.cases, listing, evidence, description)


def for_slicing(args: argparse.Namespace) -> tuple["list[CaseSource]", dict[int, str] | None]:
    """Cases with one channel each and the user's or no split, and their class names."""
    from samtune.preprocessing.layouts import choose_channel

    found = find_input(args, args.images)
    listing = choose_channel(found.listing, args.channel)
    if not args.quiet:
        _say(found)
    cases = listing.cases
    if is_split_asked(args):
        cases = [replace(one, split=None) for one in cases]
    if listing.ignore_label is not None and getattr(args, "ignore_label", 0) is None:
        args.ignore_label = listing.ignore_label
    names: Mapping[int, str] | None = args.class_names or listing.class_names or None
    return cases, None if names is None else dict(names)


def _is_volumes(path: Path) -> bool:
    """A volume, or a folder with one directly in it: images, as they always were."""
    from samtune.preprocessing.layouts.files import visible
    from samtune.preprocessing.volumes import volume_suffix

    if path.is_file():
        return volume_suffix(path) is not None
    return any(volume_suffix(child) for child in visible(path))


def _say(found: SliceInput) -> None:
    if found.evidence is not None:
        reasons = ", ".join(found.evidence.reasons)
        print(f"layout {found.evidence.layout}: {reasons}", file=sys.stderr)
    for title, files in (
        ("left out, unpaired", found.listing.unpaired),
        ("left out", found.listing.left_out),
    ):
        lines: list[Any] = [f"{title}: {len(files)} files"] if files else []
        lines += [f"  {text}" for text in files[:SHOWN]]
        lines += [f"  and {len(files) - SHOWN} more"] if len(files) > SHOWN else []
        for line in lines:
            print(line, file=sys.stderr)
