"""``samtune text``: class names to vectors of a CLIP text encoder, for the class head."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="class name, e.g. liver")
    parser.add_argument(
        "--clip",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of a CLIP model as transformers saves it; nothing is downloaded",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help=".safetensors file to write"
    )
    parser.add_argument(
        "--template",
        default="a medical image of {}",
        help="sentence a name is put into, at {} (default: '%(default)s')",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def run(args: argparse.Namespace) -> int:
    """Encode, write, and print the file."""
    from samtune.networks.text_embeddings import encode_names, save_text_embeddings

    if args.out.exists() and not args.force:
        msg = f"'{args.out}' exists already; choose another --out, or pass --force"
        raise FileExistsError(msg)
    vectors = encode_names(args.names, args.clip, args.template)
    meta = {"model": args.clip.resolve().name, "template": args.template}
    save_text_embeddings(args.out, vectors, meta)
    print(args.out)
    return 0
