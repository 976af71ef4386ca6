"""``samtune release``: a finished run as a bundle for others; full weights on request."""

import argparse
import json
from pathlib import Path

from samtune.commands.run_options import add_adapter_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        type=Path,
        nargs="+",
        help="folder of a finished and evaluated run, or of the folds of a cross-validation; "
        "several: an ensemble; with --materialise a released bundle will do",
    )
    about = parser.add_argument_group("needed, unless a released bundle is only built out")
    about.add_argument("--name", help="lower case with task and data, e.g. hippocampus_mr_lora")
    about.add_argument("--version", help="three numbers, e.g. 0.1.0")
    about.add_argument("--licence", metavar="SPDX|FILE", help="Apache-2.0, or a file with the text")
    about.add_argument("--data-source", metavar="TEXT", help="where the data comes from")
    about.add_argument("--data-licence", metavar="TEXT|FILE", help="what the data may be used for")
    parser.add_argument("-o", "--out", type=Path, help="folder (default: bundles/NAME)")
    parser.add_argument("--changes", metavar="TEXT", help="what is new; from the second version on")
    parser.add_argument("--sample", type=Path, metavar="SCAN", help="small scan to verify it with")
    parser.add_argument("--sample-label", type=Path, metavar="LABEL", help="its reference label")
    parser.add_argument("--title", help="name to show (default: NAME with blanks)")
    parser.add_argument("--authors", default="The samtune authors", help="default: %(default)s")
    add_adapter_option(parser)
    parser.add_argument(
        "--slices",
        type=Path,
        nargs="+",
        help="slices it was trained on, of an ensemble one folder a run (default: where they were)",
    )
    parser.add_argument(
        "--metrics",
        type=Path,
        metavar="DIR",
        help="folder that evaluate.yaml wrote (default: the run's, the folds', or each fold's)",
    )
    parser.add_argument(
        "--archive",
        choices=("zip", "tar.gz"),
        help="also pack it, as NAME_vVERSION beside the folder; same files, same bytes",
    )
    parser.add_argument(
        "--materialise",
        type=Path,
        metavar="DIR",
        help="also build DIR: the bundle with full merged weights, models/model.pt",
    )
    parser.add_argument(
        "--torchscript",
        action="store_true",
        help="with --materialise: model.ts and inference_ts.yaml too, which need MONAI alone",
    )
    parser.add_argument("--checkpoint", type=Path, help="base weights, for --materialise")


def run(args: argparse.Namespace) -> int:
    """Write bundle, archive and built-out bundle; print their paths."""
    from samtune.training.release.files import HASHES, write_archive
    from samtune.training.release.materialise import materialise

    if args.torchscript and args.materialise is None:
        msg = "--torchscript goes with --materialise DIR"
        raise ValueError(msg)
    released = [run for run in args.runs if (run / HASHES).is_file()]
    if released:
        if args.materialise is None or len(args.runs) > 1:
            msg = f"'{released[0]}' is a released bundle already; --materialise DIR builds it out"
            raise ValueError(msg)
        bundle = released[0]
    else:
        bundle = _release(args)
        print(bundle)
    if args.archive is not None:
        version = json.loads((bundle / "configs/metadata.json").read_bytes())["version"]
        name = f"{bundle.resolve().name}_v{version}.{args.archive}"
        print(write_archive(bundle, bundle.resolve().with_name(name)))
    if args.materialise is not None:
        made = materialise(
            bundle, args.materialise, torchscript=args.torchscript, checkpoint=args.checkpoint
        )
        print(made)
    return 0


def _release(args: argparse.Namespace) -> Path:
    from samtune.training.release.release import release_run

    needed = ("name", "version", "licence", "data_source", "data_licence")
    lacking = [f"--{key.replace('_', '-')}" for key in needed if getattr(args, key) is None]
    if lacking:
        msg = f"a release needs {', '.join(lacking)}"
        if args.materialise is not None:
            msg += f"; --materialise alone takes a released bundle, '{args.runs[0]}' is a run"
        raise ValueError(msg)
    return release_run(
        args.runs,
        **{key: getattr(args, key) for key in needed},
        out=args.out,
        changes=args.changes,
        sample=args.sample,
        sample_label=args.sample_label,
        adapter=args.adapter,
        slices=args.slices,
        metrics=args.metrics,
        title=args.title,
        authors=args.authors,
    )
