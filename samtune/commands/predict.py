"""``samtune predict``: raw scans to label files with trained runs, or what is prompted for."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from samtune.commands.run_options import (
    BATCH_SIZE,
    add_device_options,
    add_flips_option,
    add_weights_options,
)

if TYPE_CHECKING:
    from samtune.preprocessing.voxel_prompts import VoxelPrompt

HELP = "segment raw scans with a trained run"
# options that go with the classes of a run, not with prompts
UNPROMPTED = (
    *("ensemble", "flips", "probabilities", "statistics", "resume", "no_postprocess"),
    *("frame", "series"),  # not read there yet
    "batch_size",  # a slice at a time, with all of its prompts
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument(
        "run_dir",
        metavar="RUN",
        type=Path,
        help="folder of a training run, or of the folds of a cross-validation (an ensemble); left "
        "out with --base",
    )
    parser.add_argument(
        "images",
        metavar="SCAN",
        type=Path,
        nargs="*",
        help="file, folder of files, or DICOM folder",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder of the label files, named like scans"
    )
    add_weights_options(parser)
    add_device_options(parser)
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
    _add_averaging(parser.add_argument_group("mean of several predictions"))
    _add_outputs(parser.add_argument_group("what is written"))
    _add_prompts(parser.add_argument_group("prompts, in voxels of the scan"))
    # batch_size: prompts need to know whether it was given
    parser.set_defaults(usage_error=parser.error, batch_size=None)


def _add_averaging(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--ensemble",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="further runs, along other axes too; they stand last",
    )
    add_flips_option(
        group,
        "flipped slices too: left-right, up-down or both; 2, 2 or 4 times the work (default: none)",
    )


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--probabilities",
        choices=("nii.gz", "npz"),
        help="those of all channels too, on the scan's grid: float32 or float16 (default: none)",
    )
    group.add_argument(
        "--statistics", action="store_true", help="statistics.csv: ml of each class in each scan"
    )
    group.add_argument(
        "--resume", action="store_true", help="leave out scans that are done, keep their rows"
    )
    group.add_argument(
        "--no-postprocess",
        action="store_true",
        help="without what 'samtune postprocess' chose for the run",
    )


def _add_prompts(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--prompts", type=Path, metavar="JSON", help="file of prompts by scan")
    group.add_argument(
        "--slice", type=int, metavar="K", help="prompt this one slice of one scan; draws it as PNG"
    )
    group.add_argument(
        "--box", type=_numbers(4), action="append", metavar="X0,Y0,X1,Y1", help="may be repeated"
    )
    group.add_argument(
        "--point",
        type=_numbers(3),
        action="append",
        metavar="X,Y,L",
        help="L: 1 inside, 0 outside; may be repeated",
    )
    group.add_argument("--class", dest="class_name", help="name or value (default: 1)")
    group.add_argument(
        "--base",
        metavar="WEIGHTS",
        help="untouched model in place of RUN: lite_medsam, a name of 'samtune weights list', a "
        "file",
    )
    group.add_argument("--modality", help="of the scans, with --base: ct, mr, ...")


def _numbers(count: int) -> "type":
    def parse(text: str) -> list[float]:
        values = [float(part) for part in text.split(",")]
        if len(values) != count:
            raise ValueError(text)
        return values

    parse.__name__ = f"list of {count} numbers"  # argparse names it
    return parse  # type: ignore[return-value]


def run(args: argparse.Namespace) -> int:
    """Predict and print the files written."""
    single = args.slice is not None or bool(args.box) or bool(args.point)
    if args.base is not None:
        args.images = [args.run_dir, *args.images]
        if not single and args.prompts is None:
            args.usage_error("--base needs --prompts, or --box or --point")
        if args.modality is None:
            args.usage_error("--base needs --modality: how the scans' values become grey")
    elif args.modality is not None:
        args.usage_error("--modality goes with --base; a run knows it")
    if not args.images:
        args.usage_error("the following arguments are required: SCAN")
    if args.prompts is not None and single:
        args.usage_error("--prompts is a file in place of --slice, --box and --point")
    if args.class_name is not None and not single:
        args.usage_error("--class goes with --box or --point")
    if single or args.prompts is not None:
        for name in UNPROMPTED:
            if getattr(args, name) not in (None, False, "none"):
                args.usage_error(f"--{name.replace('_', '-')} does not go with prompts")
        files = _prompted(args)
    else:
        files = _automatic(args)
    for file in files:
        print(file)
    return 0


def _automatic(args: argparse.Namespace) -> list[Path]:
    from samtune.training.predict import FailedScansError, predict

    try:
        return predict(
            args.run_dir,
            args.images,
            args.out,
            adapter=args.adapter,
            checkpoint=args.checkpoint,
            device=args.device,
            batch_size=BATCH_SIZE if args.batch_size is None else args.batch_size,
            file_format=args.format,
            frame=args.frame,
            series=args.series,
            progress=False if args.quiet else None,
            ensemble=args.ensemble or (),
            flips=args.flips,
            postprocess=not args.no_postprocess,
            probabilities=args.probabilities,
            statistics=args.statistics,
            resume=args.resume,
        )
    except FailedScansError as error:
        for file in error.written:
            print(file)
        sys.stdout.flush()
        raise


def _prompted(args: argparse.Namespace) -> list[Path]:
    from samtune.preprocessing.voxel_prompts import read_prompts
    from samtune.training.scan_prompts import model_of_run, predict_prompted, untouched_model

    if args.prompts is None:
        _check_single(args)
    if args.base is None:
        model = model_of_run(
            args.run_dir, adapter=args.adapter, checkpoint=args.checkpoint, device=args.device
        )
    else:
        model = untouched_model(args.base, modality=args.modality, device=args.device)
    if args.prompts is not None:
        prompts = read_prompts(args.prompts, model.classes)
        return predict_prompted(model, args.images, prompts, args.out, file_format=args.format)
    return predict_prompted(
        model,
        args.images,
        _from_options(args, model.classes),
        args.out,
        file_format=args.format,
        overlays=True,
    )


def _check_single(args: argparse.Namespace) -> None:
    from samtune.preprocessing.label_files import is_picture
    from samtune.preprocessing.scans import find_scans

    if not args.box and not args.point:
        args.usage_error("--slice needs --box or --point")
    if len(args.box or []) > 1 and args.point:
        args.usage_error("points belong to one object: give one --box, or none")
    if args.slice is not None:
        return
    for path in find_scans(args.images).values():
        if not is_picture(path):
            args.usage_error(f"--box and --point need --slice: '{path}' is no picture")


def _from_options(
    args: argparse.Namespace, classes: "dict[int, str] | None"
) -> "list[VoxelPrompt]":
    from samtune.preprocessing.voxel_prompts import parse_prompt

    boxes, points = args.box or [], args.point or []
    value = args.class_name
    if value is None:
        value = 1 if classes is None else min(classes)
    entry = {"slice": args.slice or 0, "class": value, "points": points}
    return [
        parse_prompt({**entry, **({} if box is None else {"box": box})}, classes, "command line")
        for box in boxes or [None]
    ]
