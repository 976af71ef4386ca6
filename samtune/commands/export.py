"""``samtune export``: a trained run as files that other programs load."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from samtune.commands.run_options import add_weights_options

DESCRIPTION = "export.json"
PARTS = {
    "model": ("model",),
    "encoder-decoder": ("encoder", "decoder"),
    "all": ("model", "encoder", "decoder"),
}
SUFFIXES = {"onnx": (".onnx",), "torchscript": (".ts",), "both": (".onnx", ".ts")}
FRAME = (
    "the slice's long side becomes image_size (bilinear, antialiased), then its values are "
    "normalised, then the rest of the square below and to the right is 0; grey is repeated to 3 "
    "channels"
)
NORMALIZATIONS = {
    "sam": "values 0..255, minus (123.675, 116.28, 103.53), over (58.395, 57.12, 57.375)",
    "medsam": "each slice from its own minimum and maximum to 0 and 1",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="folder of a training run")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder of the files; made when missing"
    )
    parser.add_argument("--format", choices=SUFFIXES, default="onnx", help="default: onnx")
    parser.add_argument(
        "--part",
        choices=PARTS,
        default="model",
        help="model: image to class logits; encoder-decoder: image to embedding, embedding and "
        "points or box to a mask (default: model)",
    )
    parser.add_argument(
        "--mask-input", action="store_true", help="the decoder takes a mask to start from too"
    )
    add_weights_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write the files and print their paths."""
    names = [part + suffix for suffix in SUFFIXES[args.format] for part in PARTS[args.part]]
    for path in (args.out / name for name in (*names, DESCRIPTION)):
        if path.exists():
            msg = f"'{path}' exists already; choose another --out"
            raise FileExistsError(msg)
    from samtune import __version__
    from samtune.atomic import write_atomically
    from samtune.networks.export import export_onnx, export_torchscript
    from samtune.training.run_folder import load_run

    trained = load_run(args.run_dir)
    if trained.prompts is not None and "model" in PARTS[args.part]:
        msg = (
            f"'{args.run_dir}' was trained with prompts and has no trained class head: export it "
            "with --part encoder-decoder"
        )
        raise ValueError(msg)
    network = trained.network(args.adapter, args.checkpoint)
    merged = _merged(network)
    files = {}
    for name in names:
        export = export_onnx if name.endswith(".onnx") else export_torchscript
        files[name] = export(
            network,
            args.out / name,
            part=Path(name).stem,
            class_names=trained.task.channel_names,
            mask_input=args.mask_input,
        )
        print(args.out / name, flush=True)
    painted = trained.task.paint or list(trained.task.classes)
    description = {
        "samtune": __version__,
        "run": args.run_dir.resolve().name,
        "adapter": args.adapter,
        "merged": merged,
        "classes": [{"name": "background", "label": 0, "channel": 0}]
        + [
            {"name": name, "label": label, "labels": list(labels), "channel": channel}
            for channel, (label, (name, labels)) in enumerate(
                zip(painted, trained.task.channel_labels.items(), strict=True), start=1
            )
        ],
        # sigmoid: logits > 0, later channels painted over earlier ones; softmax: argmax
        "activation": trained.task.activation,
        "intensity": trained.intensity,
        "frame": FRAME,
        "normalization": NORMALIZATIONS[network.normalization],
        "files": files,
    }
    text = json.dumps(description, indent=2, sort_keys=True)
    write_atomically(args.out / DESCRIPTION, (text + "\n").encode())
    print(args.out / DESCRIPTION)
    return 0


def _merged(network: Any) -> bool:
    """Fold the adapters in where their method allows it."""
    from samtune.peft.adapt import merge_adapters
    from samtune.peft.protocol import NotMergeableError

    try:
        merge_adapters(network)
    except NotMergeableError as error:
        print(f"samtune export: {error}; its layers are exported with it", file=sys.stderr)
        return False
    return True
