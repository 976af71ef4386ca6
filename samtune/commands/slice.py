"""``samtune slice``: NIfTI volumes to slice files and a manifest."""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from samtune.commands.slice_input import add_input_arguments, for_slicing
from samtune.commands.split_options import (
    add_split_options,
    is_split_asked,
    patient_rule,
    split_rule,
)

if TYPE_CHECKING:
    from samtune.preprocessing.slice_volumes import SliceReport

HELP = "turn NIfTI volumes into slice files with a manifest"
EPILOG = """example:
  samtune slice images --labels labels --modality mr --out slices \\
    --split 0.7 0.1 0.2 --class-names "1:anterior,2:posterior"
  samtune slice Task04_Hippocampus --modality mr --out slices
  samtune slice CHASE --dataset chase --out slices
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``samtune slice``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Turn NIfTI volumes into slice files with a manifest; see --out."
    parser.epilog = EPILOG
    parser.add_argument(
        "images",
        type=Path,
        metavar="FOLDER",
        help="folder of .nii/.nii.gz volumes, or one volume; or the folder of a dataset, see "
        "'samtune inspect FOLDER'",
    )
    add_input_arguments(parser)
    parser.set_defaults(usage_error=parser.error)
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        type=Path,
        help="output folder: manifest.json, slices/, cases/, contact_sheet.png",
    )
    _add_intensity(parser.add_argument_group("intensity, recorded and the same in predict"))
    _add_labels(parser.add_argument_group("labels"))
    _add_slicing(parser.add_argument_group("slicing, recorded and the same in predict"))
    add_split_options(parser)
    _add_case_ids(parser.add_argument_group("case ids"))
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes, each with one case in memory (default: number of cores)",
    )
    parser.add_argument(
        "--scheduler",
        default="processes",
        choices=("processes", "dask"),
        help="where cases are worked on: processes of this machine, or a Dask cluster that sees "
        "the same files (default: processes)",
    )
    parser.add_argument(
        "--address",
        metavar="URL",
        help="of the Dask scheduler, such as tcp://host:8786; 'dask scheduler' starts one",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done, write nothing"
    )
    parser.add_argument(
        "--force", action="store_true", help="remove a former run's files in --out and do it all"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")


def _add_case_ids(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--case-ids",
        default="name",
        choices=("name", "hmac"),
        help="name of the file or folder, or an HMAC of the DICOM patient id (of the name for "
        "other files), and no file name in the output (default: name)",
    )
    group.add_argument(
        "--salt-file",
        type=Path,
        metavar="FILE",
        help="secret text for hmac, made if it is not there; the same salt gives the same ids "
        "(default: samtune/case_id_salt in ~/.config or $XDG_CONFIG_HOME)",
    )


def _salt(args: argparse.Namespace) -> str | None:
    from samtune.preprocessing.hidden_ids import default_salt_file, read_salt

    if args.case_ids != "hmac":
        if args.salt_file is not None:
            raise ValueError("--salt-file is for --case-ids hmac; give that too")
        return None
    path = args.salt_file or default_salt_file()
    if not path.exists() and not args.quiet:
        print(f"{path}: a new salt; without it the case ids can't be made again", file=sys.stderr)
    return read_salt(path)


def _add_intensity(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--modality",
        choices=("mr", "ct", "oct", "rgb"),
        help="intensity scaling: mr clips to 0.5-99.5 %% of voxels > 0, ct takes a window, oct and "
        "rgb (photographs, X-rays) keep 8-bit values or scale by minimum and maximum",
    )
    group.add_argument(
        "--window",
        nargs=2,
        type=float,
        metavar=("LEVEL", "WIDTH"),
        help="intensity window in HU, ct only (default: 40 400)",
    )
    group.add_argument(
        "--preset",
        choices=("soft_tissue", "lung", "brain", "bone", "liver", "medsam"),
        help="a window by name, ct only: level and width 40 400, -600 1500, 40 80, 400 1800, "
        "30 150; or medsam: clip, then minimum to maximum, truncated, as MedSAM's pre_CT_MR.py",
    )
    group.add_argument(
        "--percentiles",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="of the voxels > 0, not for ct (default: 0.5 99.5 for mr, none for oct and rgb)",
    )
    group.add_argument(
        "--scope",
        default="volume",
        choices=("volume", "slice"),
        help="what percentiles, minimum and maximum are taken of (default: volume)",
    )
    group.add_argument(
        "--bits", type=int, default=8, choices=(8, 16), help="stored a value (default: 8)"
    )


def _add_labels(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--label-map",
        action="append",
        default=[],
        metavar="RULE",
        help='VALUES=>VALUE[:NAME], such as "1,2=>1:hippocampus"; several, or divided by ";"; a '
        'value without a rule is an error unless there is "*=>0" (default: values stay)',
    )
    group.add_argument(
        "--class-names",
        type=parse_class_names,
        metavar="VALUE:NAME,...",
        help='names of the label values, such as "1:anterior,2:posterior"; every value that '
        "occurs must have one (default: no names, or those of --label-map)",
    )
    group.add_argument(
        "--min-voxels",
        type=int,
        default=0,
        metavar="N",
        help="objects of fewer voxels (26 neighbours) become background (default: 0, MedSAM: 1000)",
    )
    group.add_argument(
        "--min-pixels",
        type=int,
        default=0,
        metavar="N",
        help="then objects of fewer pixels in a slice (8 neighbours) (default: 0, MedSAM: 100)",
    )
    group.add_argument(
        "--ignore-label",
        type=int,
        metavar="VALUE",
        help="of pixels that nobody judged: kept whatever is done to labels, and no class",
    )


def _add_slicing(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--axis",
        default="auto",
        choices=("auto", "0", "1", "2", "sagittal", "coronal", "axial"),
        help="axis to cut: 0 left-right (sagittal), 1 posterior-anterior (coronal), 2 "
        "inferior-superior (axial) (default: auto, the largest spacing, ties 2)",
    )
    group.add_argument(
        "--layout",
        default="slice",
        choices=("slice", "volume"),
        help="one file a slice or one a volume (default: slice)",
    )
    group.add_argument(
        "--spacing",
        type=parse_spacing,
        metavar="MM[,MM]",
        help="pixel size to resample slices to: images bilinear, labels nearest (default: native)",
    )
    group.add_argument(
        "--crop",
        type=parse_margin,
        metavar="MARGIN",
        help="crop training cases to their label with a margin such as 10px or 5mm; val, test and "
        "predict have whole slices (default: none)",
    )
    group.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="cut slices into square tiles, after resampling; predictions are blended (default: "
        "none)",
    )
    group.add_argument(
        "--tile-overlap",
        type=int,
        metavar="PIXELS",
        help="least overlap of tiles (default: an eighth of --tile)",
    )
    group.add_argument(
        "--channels",
        type=int,
        default=1,
        choices=(1, 3),
        help="3: store grey slices three times, as SAM-LoRA reads them with --layout volume "
        "(default: 1)",
    )


def parse_spacing(text: str) -> tuple[float, float]:
    """``"0.5"`` or ``"0.5,0.75"`` as mm along H and W; wrong usage is an argparse error."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(0 < value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not MM or MM,MM with numbers > 0")
    return values[0], values[-1]


def parse_margin(text: str) -> tuple[float, str]:
    """``"10px"`` or ``"5mm"`` as number and unit; wrong usage is an argparse error."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(px|mm)\s*", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a margin such as 10px or 5mm")
    return float(match[1]), match[2]


def parse_class_names(text: str) -> dict[int, str]:
    """``"1:anterior,2:posterior"`` as a dictionary; wrong usage is an argparse error."""
    names: dict[int, str] = {}
    for item in text.split(","):
        value, colon, name = (part.strip() for part in item.partition(":"))
        if not colon or not name or not value.isdecimal() or int(value) < 1:
            raise argparse.ArgumentTypeError(
                f"{item.strip()!r} is not VALUE:NAME with a whole VALUE >= 1"
            )
        if int(value) in names or name in names.values():
            raise argparse.ArgumentTypeError(f"{item.strip()!r}: the value or name is there twice")
        names[int(value)] = name
    return names


def run(args: argparse.Namespace) -> int:
    """Slice; 0 if every case is complete, 1 if some failed (listed last, on stderr)."""
    from samtune.preprocessing.intensity import Intensity
    from samtune.preprocessing.label_map import LabelMap
    from samtune.preprocessing.label_steps import LabelSteps
    from samtune.preprocessing.slice_settings import ANATOMY, Slicing
    from samtune.preprocessing.slice_volumes import slice_volumes

    if args.modality is None and args.dataset is None:
        args.usage_error("the following arguments are required: --modality")
    if args.tile_overlap is not None and args.tile is None:
        raise ValueError("--tile-overlap is of tiles; give --tile too")
    axis = ANATOMY.get(args.axis, args.axis)
    margin, unit = args.crop or (None, "px")
    overlap = (args.tile or 0) // 8 if args.tile_overlap is None else args.tile_overlap
    cases, class_names = for_slicing(args)
    report = slice_volumes(
        cases,
        modality=args.modality,
        out=args.out,
        axis=None if axis == "auto" else int(axis),
        layout=args.layout,
        intensity=Intensity.for_modality(
            args.modality,
            window=args.window,
            preset=args.preset,
            percentiles=args.percentiles,
            scope=args.scope,
            bits=args.bits,
        ),
        slicing=Slicing(
            spacing_mm=args.spacing,
            crop_margin=margin,
            crop_unit=unit,
            tile_size=args.tile,
            tile_overlap=overlap,
            channels=args.channels,
        ),
        label_steps=LabelSteps(
            LabelMap.parse(args.label_map), args.min_voxels, args.min_pixels, args.ignore_label
        ),
        split=split_rule(args) if is_split_asked(args) else None,
        patients=patient_rule(args),
        seed=args.seed,
        class_names=class_names,
        label_rule=args.label_rule,
        salt=_salt(args),
        workers=args.workers,
        scheduler=args.scheduler,
        address=args.address,
        dry_run=args.dry_run,
        force=args.force,
        progress=not args.quiet,
    )
    if args.dry_run:
        _print_plan(report)
    elif not args.quiet:
        print(
            f"{report.out}: {report.num_slices} slices of "
            f"{len(report.done) + len(report.skipped)} cases; done {len(report.done)}, "
            f"skipped (already complete) {len(report.skipped)}, failed {len(report.failed)}"
        )
    sys.stdout.flush()
    for case, reason in report.failed.items():
        print(f"failed: {case}: {reason}", file=sys.stderr)
    return 1 if report.failed else 0


def _print_plan(report: "SliceReport") -> None:
    for planned in report.planned:
        geometry = planned.geometry
        size = "x".join(str(size) for size in geometry.shape)
        spacing = "x".join(f"{size:g}" for size in geometry.spacing)
        state = ", already complete" if planned.is_done else ""
        print(
            f"{geometry.case}: {size} voxels of {spacing} mm, {geometry.orientation}, "
            f"axis {geometry.axis}, {planned.num_slices} slices, {planned.split}{state}"
        )
    splits = [planned.split for planned in report.planned]
    names = dict.fromkeys(("train", "val", "test", *splits))
    counts = ", ".join(f"{splits.count(name)} {name}" for name in names)
    print(
        f"dry run, nothing written: {report.num_slices} slices of {len(report.planned)} cases "
        f"({counts}) would be in {report.out}"
    )
