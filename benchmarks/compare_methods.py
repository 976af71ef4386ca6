"""Compare PEFT methods on equal terms: same slices, same steps, same blocks, one bundle run a row.

    python benchmarks/compare_methods.py --slices hippocampus=slices/hippocampus \
        --out runs/compare --methods zero_shot,lora,salt --steps 230 --blocks last:2 \
        --set blocks:learning_rate=2e-4

Each row is one ``python -m monai.bundle run training`` whose merged config lies beside its results,
``OUT/DATASET/METHOD/config.yaml``, and one evaluation of the test cases. A finished row is not done
again, with other settings it is refused: stop and start as you like. Untouched SAM runs at its
native size, whatever the others are trained at. Methods on the same blocks share their cached
features: who comes first makes them, which ``seconds`` holds and ``seconds_a_step`` doesn't.
``results.csv`` has a row a dataset and method:
trained parameters, seconds a step, peak memory, and for each class and region the mean with its
95 % BCa interval over the test cases.
"""

import argparse
import csv
import io
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser
from tqdm import tqdm

from samtune.atomic import write_atomically
from samtune.evaluation import read_metrics
from samtune.evaluation.bootstrap import mean_interval
from samtune.peft.registry import METHODS
from samtune.preprocessing.manifest import load_manifest
from samtune.training.paths import bundle_root

DEFAULT = (
    "zero_shot,lora,dora,salt,ssam,adaptformer,fact,sam_adapter,decoder_only,blocks"  # last-2 full
)
CONFIGS = Path(bundle_root("sam_finetune")) / "configs"
# on the whole encoder, nothing can be cached: told apart in the table
UNCACHED = ("sam_adapter", "full", "pos_embed")


@dataclass(frozen=True)
class Row:
    """One method on one dataset."""

    dataset: str
    slices: Path
    method: str
    folder: Path
    settings: dict[str, Any]
    cache_dir: Path | None = None  # no setting: features are the same wherever they lie


def plan(args: argparse.Namespace) -> list[Row]:
    """The rows that were asked for.

    Raises:
        ValueError: a dataset's name twice, an unknown method, or ``--set`` for one that isn't run.
    """
    datasets = [_named(text) for text in args.slices]
    methods = args.methods.split(",")
    if len({name for name, _ in datasets}) < len(datasets):
        msg = f"datasets need different names, NAME=FOLDER; got {' '.join(args.slices)}"
        raise ValueError(msg)
    unknown = sorted(set(methods) - {"zero_shot", *METHODS})
    if unknown:
        msg = f"unknown method {', '.join(unknown)}; there are zero_shot, {', '.join(METHODS)}"
        raise ValueError(msg)
    own: dict[str, dict[str, str]] = {method: {} for method in methods}
    for text in args.set:
        method, _, setting = text.partition(":")
        key, equals, value = setting.partition("=")
        if method not in own or method == "zero_shot" or not equals:
            msg = f"--set {text}: expected METHOD:KEY=VALUE, METHOD one that is trained here"
            raise ValueError(msg)
        own[method][key] = value
    rows = []
    for name, slices in datasets:
        steps_an_epoch = math.ceil(len(load_manifest(slices).select("train")) / args.batch_size)
        for method in methods:
            settings = {
                "dataset_dir": str(slices),
                "runs_dir": str(args.out / name),
                "run_name": method,
                "epochs": math.ceil(args.steps / steps_an_epoch),
                "batch_size": args.batch_size,
                "views": args.views,
                "image_size": args.image_size,
                "seed": args.seed,
                "device": args.device,
            }
            if method not in UNCACHED:
                settings["blocks"] = args.blocks
            folder = args.out / name / method
            rows.append(Row(name, slices, method, folder, settings | own[method], args.cache_dir))
    return rows


def _named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    return (name, Path(folder)) if equals else (Path(text).name, Path(text))


def run_row(row: Row) -> dict[str, Any]:
    """Train and evaluate one method unless that was done; returns what is known of it."""
    record = row.folder / "row.json"
    if record.is_file():
        done: dict[str, Any] = json.loads(record.read_text())
        if done.pop("settings", None) != row.settings:
            msg = f"'{record}' is of a run with other settings: remove its folder, or change --out"
            raise RuntimeError(msg)
        return done
    row.folder.mkdir(parents=True, exist_ok=True)
    device = row.settings["device"]
    if row.method == "zero_shot":
        settings = {"dataset_dir": str(row.slices), "output_dir": str(row.folder), "device": device}
        seconds, memory = _bundle("run", ["zero_shot"], settings)
        facts: dict[str, Any] = {"trainable": 0, "percent": 0.0, "seconds_a_step": math.nan}
    else:
        configs = ["train", f"methods/{row.method}"]
        shared = {"cache_dir": str(row.cache_dir)} if row.cache_dir else {}
        settings = shared | row.settings
        _freeze(configs, settings, row.folder / "config.yaml")
        seconds, memory = _bundle("training", configs, settings)
        _bundle("run", ["evaluate"], {"run_dir": str(row.folder), "device": device})
        facts = _training_facts(row.folder, row.settings["views"])
    first = {"dataset": row.dataset, "method": row.method}
    known = first | facts | {"seconds": round(seconds, 1), "peak_memory_gib": round(memory, 2)}
    kept = known | {"settings": row.settings}
    write_atomically(record, (json.dumps(kept, indent=2) + "\n").encode())
    return known


def _freeze(names: Sequence[str], settings: dict[str, Any], out: Path) -> None:
    """The merged config of a run: what `monai.bundle run` makes of files and overrides."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.yaml") for name in names])
    parser.update(settings)
    write_atomically(out, yaml.safe_dump(parser.config, sort_keys=False).encode())


def _bundle(run_id: str, names: Sequence[str], settings: dict[str, Any]) -> tuple[float, float]:
    """Run a bundle in a process of its own; returns seconds and its peak memory in GiB."""
    files = [str(CONFIGS / f"{name}.yaml") for name in names]
    command = [sys.executable, "-W", "ignore:parsing config_file:UserWarning"]
    command += ["-m", "monai.bundle", "run", run_id, "--config_file", str(files)]
    for key, value in settings.items():
        command += [f"--{key}", str(value)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        text = process.stdout.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)  # this child's own peak, not that of all
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        msg = f"{' '.join(command)} failed:\n{text[-3000:]}"
        raise RuntimeError(msg)
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def _training_facts(folder: Path, views: int) -> dict[str, Any]:
    run = json.loads((folder / "run.json").read_text())
    with (folder / "curve.csv").open(newline="") as file:
        curve = list(csv.DictReader(file))
    steps = int(curve[-1]["iteration"])
    # the first epoch fills the cache
    later = [float(row["seconds"]) for row in curve[1:]]
    a_step = statistics.median(later) / (steps / len(curve)) if later else math.nan
    counts = run["parameters"]
    return {
        "trainable": counts["trainable"],
        "percent": 100 * counts["trainable"] / counts["total"],
        "steps": steps,
        "views": views,
        "seconds_a_step": round(a_step, 3),
        "best_val_dice": max(float(row["val_dice"]) for row in curve),
    }


def with_metrics(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Means with intervals of every class and region, over the test cases."""
    out = dict(row)
    cases = read_metrics(folder / "metrics_test.csv")
    for name in dict.fromkeys(case.name for case in cases):
        mine = [case for case in cases if case.name == name]
        scores = {
            "dice": [case.dice for case in mine],
            "nsd_1mm": [next(iter(case.nsd.values())) for case in mine],
            "hd95_mm": [case.hd95_mm for case in mine],
        }
        for metric, values in scores.items():
            interval = mean_interval(values)
            out[f"{metric}_{name}"] = round(interval.mean, 4)
            out[f"{metric}_{name}_low"] = round(interval.low, 4)
            out[f"{metric}_{name}_high"] = round(interval.high, 4)
            out[f"{metric}_{name}_n"] = interval.n
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write ``results.csv``, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--slices", nargs="+", required=True, metavar="[NAME=]FOLDER", help="from samtune slice"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument("--steps", type=int, default=230, help="at least; whole epochs are run")
    parser.add_argument("--blocks", default="last:2")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--cache-dir",
        type=Path,
        help="features that methods on the same blocks share (default: OUT/features)",
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="METHOD:KEY=VALUE", help="a method's own settings"
    )
    args = parser.parse_args(argv)
    args.cache_dir = args.cache_dir or args.out / "features"
    try:
        planned = plan(args)
    except ValueError as error:
        parser.error(str(error))
    rows = []
    failed = []
    for row in tqdm(planned, unit="method"):
        try:
            rows.append(with_metrics(run_row(row), row.folder))
        except RuntimeError as error:
            failed.append(f"{row.dataset}/{row.method}")
            print(f"{failed[-1]}: {error}", file=sys.stderr)
            continue
        columns = list(dict.fromkeys(key for known in rows for key in known))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(args.out / "results.csv", text.getvalue().encode())
    for known in rows:
        scores = "  ".join(
            f"{k} {known[k]:.3f} [{known[k + '_low']:.3f}, {known[k + '_high']:.3f}]"
            for k in known
            if k.startswith("dice_") and k + "_low" in known
        )
        name = f"{known['dataset']} {known['method']}"
        print(f"{name:<26}{known['trainable']:>11,}  {scores}  {known['seconds_a_step']} s/step")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
