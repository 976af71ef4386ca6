"""``samtune predict``: raw scans to label files with a trained run."""

import argparse
from pathlib import Path

HELP = "segment raw scans with a trained run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="folder of a training run")
    parser.add_argument(
        "images",
        metavar="SCAN",
        type=Path,
        nargs="+",
        help="file, folder of files, or DICOM folder",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder of the label files, named like scans"
    )
    parser.add_argument(
        "--adapter",
        choices=("best", "last"),
        default="best",
        help="which epoch's weights (default: best on validation)",
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="base weights (default: those it was trained with)"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N, mps (default: auto)"
    )
    parser.add_argument("--batch-size", type=int, default=4, help="slices at a time (default: 4)")
    parser.add_argument(
        "--format",
        choices=("nii.gz", "nii", "nrrd", "mha", "png"),
        help="of the label files (default: as each scan; NIfTI where that cannot hold a label)",
    )
    parser.add_argument(
        "--frame", type=int, metavar="N", help="of 4D files and films: which volume, from 0"
    )
    parser.add_argument(
        "--series",
        metavar="S",
        help="of DICOM folders with several: description, number or SeriesInstanceUID",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Predict and print the files written."""
    from samtune.training.predict import predict

    files = predict(
        args.run_dir,
        args.images,
        args.out,
        adapter=args.adapter,
        checkpoint=args.checkpoint,
        device=args.device,
        batch_size=args.batch_size,
        file_format=args.format,
        frame=args.frame,
        series=args.series,
        progress=False if args.quiet else None,
    )
    for file in files:
        print(file)
    return 0
