"""``samtune convert``: any readable image or label as NIfTI, NRRD, MetaImage or PNG."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samtune.preprocessing.volumes import Volume

HELP = "rewrite an image or label of any format as NIfTI, NRRD, MetaImage or PNG"
EPILOG = """examples:
  samtune convert scans/patient_7 patient_7.nii.gz --series "T2 axial"
  samtune convert mask.png mask.nii.gz --label --rule colours.yaml

A rule is a YAML file with the keys colours, tolerance, unmatched_share, values, threshold, files,
structures, overlap, ignore_label and run_lengths, for instance: colours: {1: "#ff0000"}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``samtune convert``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "source",
        type=Path,
        nargs="+",
        metavar="IN",
        help="file, DICOM folder, or several: volumes are channels, pictures are slices, labels "
        "are one file a class",
    )
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="file to write: .nii, .nii.gz, .nrrd, .mha or .png (OUT_000.png ... if there are "
        "several slices); pictures become volumes whose axes are row, column, page",
    )
    parser.add_argument(
        "--label", action="store_true", help="read IN as a label: whole numbers >= 0"
    )
    parser.add_argument("--frame", type=int, metavar="N", help="frame of a 4D file or film, from 0")
    parser.add_argument(
        "--series", metavar="S", help="series of a DICOM folder: description, UID or number"
    )
    parser.add_argument(
        "--stack",
        action="store_true",
        help="IN is a folder of pictures that are the slices of one volume, in the order of the "
        "numbers in their names",
    )
    parser.add_argument(
        "--rule", type=Path, metavar="FILE", help="YAML file that says what label values mean"
    )
    parser.add_argument(
        "--like",
        type=Path,
        metavar="IMAGE",
        help="image of the label; needed for contours (RTSTRUCT) and run lengths (CSV)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Convert; 0 if the files are written."""
    from samtune.preprocessing.write_volumes import existing, output_files, write_volume

    if not args.label and (args.rule or args.like):
        raise ValueError("--rule and --like are about labels; give --label too")
    volume = _read(args)
    found = existing(output_files(args.out, volume))
    if found and not args.force:
        raise ValueError(f"{found[0]}: is there already; give --force to overwrite it")
    files = write_volume(args.out, volume)
    if not args.quiet:
        for note in volume.notes:
            print(f"note: {note}", file=sys.stderr)
        size = "x".join(str(number) for number in volume.shape)
        spacing = "x".join(f"{number:g}" for number in volume.spacing)
        unit = f"{spacing} mm" if volume.has_spacing else "pixels of unknown size"
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        print(f"{files[0]}{more}: {size} voxels of {unit}, {volume.array.dtype}")
    return 0


def _read(args: argparse.Namespace) -> "Volume":
    from samtune.preprocessing.readers.formats import PICTURE_SUFFIXES
    from samtune.preprocessing.readers.label_rule import read_rule
    from samtune.preprocessing.readers.pictures import stack_files
    from samtune.preprocessing.volumes import read_grid, read_image, read_label

    source: Path | Sequence[Path] = args.source if len(args.source) > 1 else args.source[0]
    if args.stack:
        if not isinstance(source, Path) or not source.is_dir():
            raise ValueError(f"{args.source[0]}: --stack expects one folder of pictures")
        source = stack_files(source, PICTURE_SUFFIXES)
    if not args.label:
        return read_image(source, frame=args.frame, series=args.series)
    return read_label(
        source,
        frame=args.frame,
        series=args.series,
        rule=None if args.rule is None else read_rule(args.rule),
        like=None if args.like is None else read_grid(args.like),
    )
