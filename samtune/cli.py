"""The ``samtune`` command: finds the verb, parses its arguments, turns errors into exit codes.

A verb is a module ``samtune.commands.<verb>`` with ``add_arguments(parser)`` and ``run(args)``.
Only the chosen verb's module is imported: ``samtune --help`` is quick and works without the rest.
Exit codes: 0 done, 1 failed with a one-line reason, 2 wrong usage, 130 interrupted.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from samtune import __version__


@dataclass(frozen=True)
class Verb:
    """One subcommand: where its code is, one line of help and a worked example."""

    module: str
    help: str
    example: str


VERBS = {
    "slice": Verb(
        "samtune.commands.slice",
        "cut NIfTI volumes into slice files and a manifest",
        "samtune slice scans/images --labels scans/labels --modality mr --out slices",
    ),
    "inspect": Verb(
        "samtune.commands.inspect",
        "report what a dataset folder holds, what is wrong with it and how to slice it",
        "samtune inspect Task04_Hippocampus --figure classes.png",
    ),
    "split": Verb(
        "samtune.commands.split",
        "choose which cases of a folder of slices are for train, val and test",
        "samtune split slices --folds 5 --fold 2 --stratify volume",
    ),
    "init": Verb(
        "samtune.commands.init",
        "write a config for training on a folder of slices: classes, paths, suggested settings",
        "samtune init liver --data slices",
    ),
    "crossval": Verb(
        "samtune.commands.crossval",
        "train and score the folds of a cross-validation; they are an ensemble for predict",
        "samtune crossval slices --out runs/cv --folds 5 --set epochs=20",
    ),
    "convert": Verb(
        "samtune.commands.convert",
        "rewrite an image or label of any format as NIfTI, NRRD, MetaImage or PNG",
        "samtune convert scans/patient_7 patient_7.nii.gz --series 'T2 axial'",
    ),
    "evaluate": Verb(
        "samtune.commands.evaluate",
        "compare two folders of label volumes, one CSV row a case and class",
        "samtune evaluate --pred predictions --ref scans/labels --out metrics.csv --tolerance-mm 1",
    ),
    "compare": Verb(
        "samtune.commands.compare",
        "compare tables of metrics: paired tests, ranking, figures",
        "samtune compare zero_shot.csv lora.csv --out comparison --names zero-shot LoRA",
    ),
    "predict": Verb(
        "samtune.commands.predict",
        "segment a raw scan with a trained run; writes a label volume on the scan's grid",
        "samtune predict runs/sam_finetune scan.nii.gz --out predictions",
    ),
    "postprocess": Verb(
        "samtune.commands.postprocess",
        "choose on a run's validation cases whether small objects are removed from predictions",
        "samtune postprocess runs/lora",
    ),
    "report": Verb(
        "samtune.commands.report",
        "write a run's results as one HTML file with pictures, and figures for a paper",
        "samtune report runs/lora --out report.html",
    ),
    "export": Verb(
        "samtune.commands.export",
        "write a trained run as ONNX or TorchScript files that run without samtune",
        "samtune export runs/lora --out exported --format onnx",
    ),
    "release": Verb(
        "samtune.commands.release",
        "make a bundle of a finished run: weights, frozen configs, metrics, licence, hashes",
        "samtune release runs/lora --name hippocampus_mr_lora --version 0.1.0 --licence Apache-2.0"
        " --data-source 'MSD Task04' --data-licence CC-BY-SA-4.0 --sample scan.nii.gz",
    ),
    "verify": Verb(
        "samtune.commands.verify",
        "check a released bundle: hashes, versions, weights, and what it makes of its sample",
        "samtune verify bundles/hippocampus_mr_lora",
    ),
    "weights": Verb(
        "samtune.commands.weights",
        "list, fetch, inspect and convert checkpoints; merge a run into a plain one",
        "samtune weights path lite_medsam",
    ),
    "text": Verb(
        "samtune.commands.text",
        "embed class names with a CLIP text encoder on this machine, for the class head",
        "samtune text liver spleen --clip clip-vit-base-patch32 --out names.safetensors",
    ),
    "methods": Verb(
        "samtune.commands.methods",
        "list the PEFT methods with what each of them trains",
        "samtune methods --backbone vit_b --json",
    ),
    "doctor": Verb(
        "samtune.commands.doctor",
        "report versions, device and weights; exit 1 if something needed is missing",
        "samtune doctor --json",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one ``samtune`` command line (``sys.argv`` by default) and return its exit code.

    Wrong usage, ``--help`` and ``--version`` leave through ``SystemExit``, as argparse does.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    # No option before the verb takes a value, so the first plain word is the verb.
    verb = next((word for word in argv if not word.startswith("-")), "")
    parser, subparsers = _build_parser()
    module = None
    if verb in VERBS:
        try:
            module = import_module(VERBS[verb].module)
        except ImportError as error:
            return _fail(verb, error, debug="--debug" in argv)
        module.add_arguments(subparsers[verb])
    return _run(module, parser.parse_args(argv))


def _build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="samtune",
        description="Fine-tune Segment Anything on medical images.\nNot for clinical use.",
        epilog=f"example: {VERBS['slice'].example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # keeps an example on one line
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"samtune {__version__}")
    parser.add_argument("--debug", action="store_true", help="print the trace of an error")
    children = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    subparsers = {}
    for name, verb in VERBS.items():
        child = children.add_parser(
            name,
            help=verb.help,
            description=verb.help[0].upper() + verb.help[1:] + ".",
            epilog=f"example: {verb.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        # SUPPRESS: without it the default would undo a --debug given before the verb.
        child.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,
            help="print the trace of an error",
        )
        subparsers[name] = child
    return parser, subparsers


def _run(module: ModuleType | None, args: argparse.Namespace) -> int:
    if module is None:  # parse_args has refused every line without a known verb
        raise RuntimeError(f"verb {args.verb!r} was parsed but its module was not imported")
    try:
        return int(module.run(args))
    except KeyboardInterrupt:
        print(f"samtune {args.verb}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:  # OSError: also FileNotFound, FileExists
        return _fail(args.verb, error, debug=args.debug)


def _fail(verb: str, error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    message = str(error) or type(error).__name__
    if isinstance(error, ImportError):
        ours = (error.name or "").partition(".")[0] == "samtune"
        message += "; reinstall samtune" if ours else "; 'samtune doctor' lists what is missing"
    print(f"samtune {verb}: {message}", file=sys.stderr)
    return 1
