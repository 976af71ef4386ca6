"""``samtune weights``: public checkpoints, what files are, conversions, and merged runs."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _of_registry(actions)
    _of_files(actions)
    _of_runs(actions)


def _of_registry(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    folder = "SAMTUNE_WEIGHTS_DIR (default: ~/.cache/samtune/weights, or the platform's cache)"
    listing = actions.add_parser(
        "list", help="list public checkpoints, with those that are here", description=folder
    )
    listing.add_argument("--json", action="store_true", help="as JSON")
    download = actions.add_parser(
        "download", help="fetch a public checkpoint; the only thing that uses the network"
    )
    download.add_argument("name", metavar="NAME", help="of `samtune weights list`")
    download.add_argument("--out", metavar="DIR", help=f"folder; default: {folder}")
    download.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    verify = actions.add_parser("verify", help="check size and hash against what is published")
    verify.add_argument("target", metavar="NAME|FILE", help="name of a checkpoint, or a file")
    large = actions.add_parser("large-files", help="print a bundle's large_files.yml")
    large.add_argument("names", nargs="+", metavar="NAME", help="of `samtune weights list`")
    large.add_argument("--folder", default="models", help="below the bundle (default: models)")
    path = actions.add_parser("path", help="print where an architecture's packaged weights lie")
    path.add_argument("arch", metavar="ARCH", help="architecture, e.g. lite_medsam")


def _of_files(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    inspect = actions.add_parser("inspect", help="say what a checkpoint file is")
    inspect.add_argument("file", metavar="FILE", help="file, or name of a checkpoint")
    inspect.add_argument("--json", action="store_true", help="as JSON")
    convert = actions.add_parser("convert", help="write a checkpoint under SAM's published names")
    convert.add_argument("file", metavar="IN", help="file in any known layout")
    convert.add_argument("out", metavar="OUT", help=".pth or .safetensors to write")
    convert.add_argument("--base", metavar="SAM", help="gives the parts that an encoder lacks")
    convert.add_argument("--encoder-only", action="store_true", help="write the encoder alone")
    convert.add_argument(
        "--normalization",
        choices=["sam", "medsam"],
        help="what it was trained with, kept in .safetensors (default: as known from the file)",
    )
    adapter = actions.add_parser(
        "convert-adapter", help="write an adapter from one of SAMed, SAM-LoRA or SAM-Adapter"
    )
    adapter.add_argument("file", metavar="IN", help="file of the reference")
    adapter.add_argument("out", metavar="OUT", help="adapter to write (.safetensors)")
    adapter.add_argument(
        "--checkpoint", required=True, metavar="SAM", help="the SAM it was trained on"
    )
    adapter.add_argument("--arch", default="auto", help="of the SAM (default: auto)")
    adapter.add_argument("--image-size", type=int, metavar="PX", help="default: the native size")
    adapter.add_argument(
        "--normalization",
        default="auto",
        choices=["auto", "sam", "medsam"],
        help="of its images; SAMed's are in [0, 1]: medsam (default: auto)",
    )
    adapter.add_argument(
        "--classes", type=int, metavar="N", help="foreground classes (default: the file's, or 1)"
    )
    adapter.add_argument(
        "--blocks", type=int, nargs="+", metavar="I", help="adapted blocks (default: all)"
    )
    adapter.add_argument(
        "--base-out", metavar="FILE", help=".pth to write the base with the file's decoder to"
    )


def _of_runs(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    merge = actions.add_parser(
        "merge",
        help="fold a run's adapter into its base: a plain SAM checkpoint, and a class head where "
        "it was trained without prompts",
    )
    merge.add_argument("run", metavar="RUN", help="folder of a run")
    merge.add_argument("--out", required=True, metavar="FILE", help="checkpoint to write (.pth)")
    merge.add_argument("--adapter", default="best", choices=["best", "last"], help="default: best")
    merge.add_argument("--checkpoint", metavar="FILE", help="base weights (default: the run's)")


def run(args: argparse.Namespace) -> int:
    """Do what was asked; results go to stdout."""
    return {
        "list": _list,
        "download": _download,
        "verify": _verify,
        "large-files": _large_files,
        "path": _path,
        "inspect": _inspect,
        "convert": _convert,
        "convert-adapter": _convert_adapter,
        "merge": _merge,
    }[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from samtune.networks.registry import REGISTRY
    from samtune.networks.weights import present, weights_folder

    places = {name: present(name) for name in REGISTRY}
    if args.json:
        rows = [
            {**asdict(c), "path": None if places[n] is None else str(places[n])}
            for n, c in REGISTRY.items()
        ]
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'name':<20}{'architecture':<16}{'size':>9}  {'images':<8}{'licence':<12}here")
    for name, checkpoint in REGISTRY.items():
        size = "?" if checkpoint.size is None else f"{checkpoint.size / 1e6:.0f} MB"
        place = places[name]
        print(
            f"{name:<20}{checkpoint.arch:<16}{size:>9}  {checkpoint.normalization:<8}"
            f"{checkpoint.licence:<12}{'-' if place is None else place}"
        )
    print(f"folder: {weights_folder()} (SAMTUNE_WEIGHTS_DIR); --json has URLs and hashes")
    return 0


def _download(args: argparse.Namespace) -> int:
    from samtune.networks.download import download
    from samtune.networks.registry import lookup
    from samtune.networks.weights import weights_folder

    folder = weights_folder() if args.out is None else Path(args.out)
    print(download(lookup(args.name), folder, progress=False if args.quiet else None))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from samtune.networks.download import check_file
    from samtune.networks.registry import REGISTRY, by_sha256
    from samtune.networks.weights import find_checkpoint, sha256_of

    path = find_checkpoint(args.target)
    named = (args.target, path.name)
    published = next((c for c in REGISTRY.values() if c.name in named or c.file in named), None)
    if published is None:
        published = by_sha256(sha256_of(path))
        if published is None:
            msg = f"'{path}' is no published file, by its name or hash: nothing to compare with"
            raise ValueError(msg)
    digest = check_file(path, published)
    if published.sha256 is None:
        note = "" if published.size is None else "size matches, "
        msg = f"'{path}': {note}no hash of {published.name} is published; it has sha256 {digest}"
        raise ValueError(msg)
    print(f"{path}: {published.name} as published, sha256 {digest}")
    return 0


def _large_files(args: argparse.Namespace) -> int:
    import yaml

    from samtune.networks.registry import large_files

    content = large_files(args.names, args.folder)
    print(yaml.safe_dump(content, sort_keys=False), end="")
    return 0


def _path(args: argparse.Namespace) -> int:
    from samtune.networks.weights import find_weights

    print(find_weights(args.arch))
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from samtune.networks.inspection import inspect_file
    from samtune.networks.weights import find_checkpoint

    found = inspect_file(find_checkpoint(args.file))
    if args.json:
        print(json.dumps(asdict(found), indent=2))
        return 0
    how = "known of this file" if found.normalization_known else "assumed: the architecture's"
    rows = {
        "file": f"{found.path} ({found.size:,} bytes)",
        "sha256": found.sha256,
        "published as": found.name or "not a known file",
        "layout": found.layout,
        "architecture": found.architecture or "unknown",
        "tensors": f"{found.num_tensors} ({found.num_parameters:,} numbers, "
        f"{', '.join(found.dtypes)})",
        "normalization": "unknown"
        if found.normalization is None
        else f"{found.normalization} ({how})",
        "missing": ", ".join(found.missing) or "nothing",
    }
    if found.problem is not None:
        rows["problem"] = found.problem
    for key, value in rows.items():
        print(f"{key:<15}{value}")
    return 0


def _convert(args: argparse.Namespace) -> int:
    from samtune.networks.convert_file import convert_file

    if args.encoder_only and args.base is not None:
        print("samtune weights: --encoder-only takes no --base", file=sys.stderr)
        return 2
    print(
        convert_file(
            args.file,
            args.out,
            base=args.base,
            encoder_only=args.encoder_only,
            normalization=args.normalization,
        )
    )
    return 0


def _convert_adapter(args: argparse.Namespace) -> int:
    from samtune.training.convert_adapter import convert_adapter

    lines = convert_adapter(
        args.file,
        args.out,
        checkpoint=args.checkpoint,
        arch=args.arch,
        image_size=args.image_size,
        normalization=args.normalization,
        num_classes=args.classes,
        blocks=args.blocks,
        base_out=args.base_out,
    )
    print(args.out)
    for line in lines:
        print(f"  {line}")
    return 0


def _merge(args: argparse.Namespace) -> int:
    from samtune.training.export import merge_run

    for path in merge_run(args.run, args.out, adapter=args.adapter, checkpoint=args.checkpoint):
        print(path)
    return 0
