"""Compare PEFT methods on equal terms: same slices, same steps, same blocks, one bundle run a row.

    python benchmarks/compare_methods.py --slices runs/compare/slices --out runs/compare \
        --methods zero_shot,lora,salt --steps 230 --blocks last:2

Each row is one ``python -m monai.bundle run training`` whose merged config lies beside its results
as ``config.yaml``, and one evaluation of the test cases. A finished row is not done again: stop and
start as you like. ``results.csv`` has a row a method: trained parameters, seconds a step, peak
memory, and for each class and region the mean with its 95 % BCa interval over the test cases.
"""

import argparse
import csv
import io
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser
from tqdm import tqdm

from samtune.atomic import write_atomically
from samtune.evaluation import read_metrics
from samtune.evaluation.bootstrap import mean_interval
from samtune.preprocessing.manifest import load_manifest
from samtune.training.paths import bundle_root

DEFAULT = (
    "zero_shot,lora,dora,salt,ssam,adaptformer,fact,sam_adapter,decoder_only,blocks"  # last-2 full
)
CONFIGS = Path(bundle_root("sam_finetune")) / "configs"
# on the whole encoder, nothing can be cached: told apart in the table
UNCACHED = ("sam_adapter", "full", "pos_embed")


def run_method(method: str, args: argparse.Namespace, steps_an_epoch: int) -> dict[str, Any]:
    """Train and evaluate one method unless that was done; returns what is known of it."""
    folder = args.out / method
    record = folder / "row.json"
    if record.is_file():
        done: dict[str, Any] = json.loads(record.read_text())
        return done
    folder.mkdir(parents=True, exist_ok=True)
    common = {"dataset_dir": str(args.slices), "device": args.device}
    if method == "zero_shot":
        seconds, memory = _bundle("run", ["zero_shot"], {**common, "output_dir": str(folder)})
        row: dict[str, Any] = {"trainable": 0, "percent": 0.0, "seconds_a_step": math.nan}
    else:
        settings = {
            **common,
            "runs_dir": str(args.out),
            "run_name": method,
            "epochs": math.ceil(args.steps / steps_an_epoch),
            "batch_size": args.batch_size,
            "views": args.views,
            "image_size": args.image_size,
            "seed": args.seed,
        }
        if method not in UNCACHED:
            settings["blocks"] = args.blocks
        configs = ["train", f"methods/{method}"]
        _freeze(configs, settings, folder / "config.yaml")
        seconds, memory = _bundle("training", configs, settings)
        _bundle("run", ["evaluate"], {"run_dir": str(folder), "device": args.device})
        row = _training_facts(folder, args.views)
    row |= {"method": method, "seconds": round(seconds, 1), "peak_memory_gib": round(memory, 2)}
    write_atomically(record, (json.dumps(row, indent=2) + "\n").encode())
    return row


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
    a_step = sum(later) / len(later) / (steps / len(curve)) if later else math.nan
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
    parser.add_argument("--slices", type=Path, required=True, help="from samtune slice")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument("--steps", type=int, default=230, help="at least; whole epochs are run")
    parser.add_argument("--blocks", default="last:2")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    slices = len(load_manifest(args.slices).select("train"))
    rows = []
    failed = []
    for method in tqdm(args.methods.split(","), unit="method"):
        try:
            row = run_method(method, args, math.ceil(slices / args.batch_size))
            rows.append(with_metrics(row, args.out / method))
        except RuntimeError as error:
            failed.append(method)
            print(f"{method}: {error}", file=sys.stderr)
            continue
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(args.out / "results.csv", text.getvalue().encode())
    for row in rows:
        scores = "  ".join(
            f"{k} {row[k]:.3f} [{row[k + '_low']:.3f}, {row[k + '_high']:.3f}]"
            for k in row
            if k.startswith("dice_") and k + "_low" in row
        )
        print(
            f"{row['method']:<13}{row['trainable']:>11,}  {scores}  {row['seconds_a_step']} s/step"
        )
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
