"""Table, curve and overlay picture of the quickstart's results."""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samtune.evaluation import dice_score, overlay_grid, read_metrics, summarise
from samtune.preprocessing.contact_sheet import upright
from samtune.preprocessing.manifest import Manifest, load_manifest
from samtune.preprocessing.slice_file import read_slice_file
from samtune.preprocessing.slicing import volume_to_slices
from samtune.preprocessing.volumes import read_label
from samtune.training.task import task_of

MODELS = {
    "zero_shot": "untouched SAM, oracle box",
    "lora": "fine-tuned with LoRA, no prompt",
    "unet": "3D U-Net from scratch",
}


def print_table(out: Path, found: Sequence[str]) -> None:
    """One line a model: mean Dice a class and region, mean NSD and HD95 of the last region."""
    lines = []
    for model in found:
        summary = summarise(read_metrics(out / model / "metrics_test.csv"))
        last = summary[-1]
        (tolerance, nsd), *_ = last.nsd_mean.items()
        head = ["model", *(f"Dice {row.name}" for row in summary)]
        head += [f"NSD {tolerance:g} mm", "HD95 mm (median)", "cases"]
        lines.append(
            [
                MODELS[model],
                *(f"{row.dice_mean:.3f}" for row in summary),
                *(f"{nsd:.3f}", f"{last.hd95_mm_median:.2f}", str(last.n)),
            ]
        )
    table = [head, *lines]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    print(f"(NSD and HD95 of '{last.name}'; means over the test cases)")


def draw_overlay(out: Path, found: Sequence[str], manifest: Manifest) -> Path:
    """Three test cases: image, reference, and each model's prediction, middle labelled slice."""
    task = task_of(manifest)
    cases = sorted({record.case for record in manifest.select("test")})[:3]
    rows = []
    for case in cases:
        records = manifest.select(case=case)
        record = max(records, key=lambda r: sum((r.labels or {}).values()))
        images, labels = read_slice_file(manifest.path(record))
        assert labels is not None
        reference = labels[record.position]
        columns = [("image", None), ("reference", upright(reference))]
        for model in found:
            path = out / model / "predictions_test" / f"{case}.nii.gz"
            volume = read_label(path).array
            pred = volume_to_slices(volume, manifest.cases[case].geometry)[record.index]
            dice = dice_score(pred > 0, reference > 0)
            columns.append((f"{MODELS[model]} (Dice {dice:.2f})", upright(pred)))
        rows.append((case, np.ascontiguousarray(upright(images[record.position])), columns))
    return overlay_grid(rows, out / "overlay.png", classes=task.classes, min_tile=240)


def draw_curve(run: Path) -> Path | None:
    """Training loss and validation Dice by epoch; needs matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        print('no curve.png: pip install "samtune[plots]"', file=sys.stderr)
        return None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with (run / "curve.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) for row in table]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(epochs, [float(row["train_loss"]) for row in table], marker=".")
    left.set(xlabel="epoch", ylabel="training loss (Dice + CE)")
    for key in table[0]:
        if key.startswith("val_dice"):
            values = [float(row[key]) if row[key] else np.nan for row in table]
            name = key.removeprefix("val_dice").lstrip("_") or "mean"
            right.plot(epochs, values, marker=".", label=name)
    right.set(xlabel="epoch", ylabel="validation Dice", ylim=(0, 1))
    right.legend(loc="lower right")
    figure.savefig(run / "curve.png", dpi=120)
    plt.close(figure)
    return run / "curve.png"


def main(argv: Sequence[str] | None = None) -> int:
    """Print and draw what the quickstart left in its folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the quickstart, runs/quickstart")
    out = parser.parse_args(argv).out
    found = [model for model in MODELS if (out / model / "metrics_test.csv").is_file()]
    if "lora" not in found:
        parser.error(f"'{out}' has no lora/metrics_test.csv: run scripts/quickstart.sh first")
    print_table(out, found)
    manifest = load_manifest(out / "slices")
    files = [out / model / "metrics_test.csv" for model in found]
    files += [out / "lora" / "curve.csv", draw_curve(out / "lora")]
    files += [draw_overlay(out, found, manifest), *sorted((out / "predictions").glob("*.nii.gz"))]
    for file in files:
        if file is not None:
            print(file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
