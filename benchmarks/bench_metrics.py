"""Our surface metrics beside surface-distance, MONAI and compiled packages, in one run.

    python benchmarks/bench_metrics.py --json metrics.json

Every method scores all classes of a pair of label volumes: Dice, Surface Dice at 1 mm and HD95
(mikan and MedPy: no Surface Dice). Numbers of the methods with surface-distance's definition, and
of ours with MONAI's, are shown equal first. Times are CPU time on one thread, the best of the
rounds, methods taking turns; memory is the growth of the process's peak in a fork of its own.
Packages that aren't installed are left out: surface-distance is needed; ``pip install exacta
mikan-rs medpy`` for the others.
"""

import argparse
import ctypes
import importlib.util
import json
import math
import multiprocessing
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import surface_distance
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from samtune.benchmarks.metric_pairs import Pair, make_pairs
from samtune.evaluation.evaluate_folders import evaluate_folders
from samtune.evaluation.regions import Region
from samtune.evaluation.score_case import score_case
from samtune.evaluation.surface_scores import HD_PERCENT

TOLERANCE = 1.0
Scores = list[tuple[float, float, float]]  # Dice, Surface Dice, HD95 of each class
Method = Callable[[Pair], Scores]


def ours(pair: Pair, **options: Any) -> Scores:
    """All classes in one pass."""
    regions = [Region(str(value), (value,)) for value in pair.classes]
    rows = score_case(
        "case",
        pair.pred,
        pair.ref,
        pair.spacing,
        regions,
        (TOLERANCE,),
        **{"assd": False, **options},
    )
    return [(row.dice, row.nsd[TOLERANCE], row.hd95_mm) for row in rows]


def ours_with_assd(pair: Pair) -> Scores:
    """As :func:`ours`, with the average surface distance, as ``samtune evaluate`` does it."""
    return ours(pair, assd=True)


def ours_as_monai(pair: Pair) -> Scores:
    """MONAI's definition."""
    return ours(pair, definition="monai")


def by_surface_distance(pair: Pair) -> Scores:
    """google-deepmind/surface-distance, a class at a time."""
    scores = []
    for value in pair.classes:
        pred, ref = pair.pred == value, pair.ref == value
        found = surface_distance.compute_surface_distances(ref, pred, pair.spacing)
        nsd = surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE)
        hd95 = surface_distance.compute_robust_hausdorff(found, HD_PERCENT)
        scores.append((surface_distance.compute_dice_coefficient(ref, pred), nsd, hd95))
    return scores


def by_monai(pair: Pair, *, use_subvoxels: bool = True) -> Scores:
    """MONAI's functions, all classes in one call, one-hot; corners for the Surface Dice."""
    pred, ref = (
        torch.stack([torch.from_numpy(label == value) for value in pair.classes])[None]
        for label in (pair.pred, pair.ref)
    )
    options: dict[str, Any] = {"include_background": True, "spacing": pair.spacing}
    hd95 = compute_hausdorff_distance(pred, ref, percentile=95, **options)[0]
    nsd = compute_surface_dice(
        pred, ref, [TOLERANCE] * len(pair.classes), use_subvoxels=use_subvoxels, **options
    )[0]
    axes = (1, 2, 3)
    dice = 2 * (pred & ref)[0].sum(axes) / (pred[0].sum(axes) + ref[0].sum(axes))
    return list(zip(dice.tolist(), nsd.tolist(), hd95.tolist(), strict=True))


def by_exacta(pair: Pair) -> Scores:
    """Exacta, C++, all classes in one call; surfels are surface-distance's elements."""
    from exacta.functional import evaluate

    found = evaluate(
        pair.pred[None],
        pair.ref[None],
        metrics={
            "dice": {},
            "nsd": {"tolerance": TOLERANCE, "surface": "surfels"},
            "hd95": {"surface": "surfels"},
        },
        spacing=pair.spacing,
        num_classes=len(pair.classes) + 1,
        include_background=False,
    )
    return list(zip(*(np.ravel(found[name]) for name in ("dice", "nsd", "hd95")), strict=True))


def by_mikan(pair: Pair) -> Scores:
    """mikan-rs, Rust; no Surface Dice."""
    from mikan import ArrayEvaluator

    # it wants the spacing in the reverse order of the axes
    found = ArrayEvaluator(pair.ref, pair.pred, list(pair.spacing[::-1]))
    scores = []
    for value in pair.classes:
        dice, hd95 = found.labels(value).metrics(["dice", "hausdorff_distance_95"])
        scores.append((dice, math.nan, hd95))
    return scores


def by_medpy(pair: Pair) -> Scores:
    """MedPy; no Surface Dice."""
    from medpy.metric.binary import dc, hd95

    scores = []
    for value in pair.classes:
        pred, ref = pair.pred == value, pair.ref == value
        scores.append((dc(pred, ref), math.nan, float(hd95(pred, ref, pair.spacing))))
    return scores


METHODS: dict[str, tuple[str | None, Method]] = {  # package it needs
    "samtune": (None, ours),
    "samtune, with ASSD": (None, ours_with_assd),
    "samtune, MONAI's definition": (None, ours_as_monai),
    "surface-distance": (None, by_surface_distance),
    "MONAI": (None, by_monai),
    "exacta (C++)": ("exacta", by_exacta),
    "mikan (Rust)": ("mikan", by_mikan),
    "MedPy": ("medpy", by_medpy),
}
EQUAL = ("samtune", "samtune, with ASSD", "exacta (C++)")
GOALS = {  # times surface-distance
    "liver": 15,
    "vessels": 10,
    "5 organs": 10,
    "hippocampus": 10,
    "hippocampus (drawn)": 10,
    "two apart": 5,
}


def assert_equal(pair: Pair, methods: Sequence[str]) -> None:
    """Refuse to time methods that differ.

    Raises:
        RuntimeError: a method of one definition gives other numbers.
    """
    expected = by_surface_distance(pair)
    checks = [(name, METHODS[name][1](pair), expected, 1e-9) for name in EQUAL if name in methods]
    monai = by_monai(pair, use_subvoxels=False)
    checks.append(("MONAI's definition", ours_as_monai(pair), monai, 1e-5))  # float32
    for name, found, wanted, tolerance in checks:
        if not np.allclose(found, wanted, rtol=tolerance, atol=tolerance):
            msg = f"{pair.name}: {name} gives {found}, expected {wanted}"
            raise RuntimeError(msg)


def best_times(pair: Pair, methods: Sequence[str], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each method; they take turns, quick ones several times a turn."""
    times = dict.fromkeys(methods, math.inf)
    for _ in range(rounds):
        for name in methods:
            for _ in range(5):
                start = time.process_time()
                METHODS[name][1](pair)
                taken = time.process_time() - start
                times[name] = min(times[name], taken)
                if taken > 0.2:
                    break
    return times


def peak_mib(pair: Pair, name: str, warm_up: Pair) -> float:
    """Growth of the peak of resident memory by one call, in a fork that has made a small one."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def measure() -> None:
        METHODS[name][1](warm_up)
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before is no memory to reuse
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
        before = _status_kib("VmRSS")
        METHODS[name][1](pair)
        send.send((_status_kib("VmHWM") - before) / 1024)

    process = context.Process(target=measure)
    process.start()
    process.join()
    if process.exitcode:
        msg = f"{name}: memory could not be measured"
        raise RuntimeError(msg)
    return float(receive.recv())


def scaling(pair: Pair, num_cases: int) -> tuple[float, float]:
    """Wall seconds to evaluate a folder of that many copies with one process and with two."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, label in (("pred", pair.pred), ("ref", pair.ref)):
            (folder / kind).mkdir()
            image = nib.Nifti1Image(label, np.diag([*pair.spacing, 1.0]))
            for number in range(num_cases):
                nib.save(image, folder / kind / f"case_{number}.nii.gz")
        times: list[float] = []
        for workers in (2, 1, 2):  # the first starts the processes, which stay
            start = time.perf_counter()
            evaluate_folders(
                folder / "pred",
                folder / "ref",
                folder / f"{len(times)}.csv",
                regions=[Region(str(value), (value,)) for value in pair.classes],
                workers=workers,
            )
            times.append(time.perf_counter() - start)
    return times[1], times[2]


def _status_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a goal is missed and ``--quick`` wasn't given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small pairs: shows that it runs")
    parser.add_argument(
        "--hippocampus", type=Path, metavar="FILE", help="label file in place of a drawn one"
    )
    parser.add_argument(
        "--cases", type=int, default=0, metavar="N", help="also a folder of N cases on 2 processes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # old SciPy names, MONAI's own deprecations
    torch.set_num_threads(1)
    methods = [
        name
        for name, (package, _) in METHODS.items()
        if package is None or importlib.util.find_spec(package)
    ]
    packages = ("surface-distance", "monai", "numpy", "scipy", "torch")
    versions = {package: version(package) for package in packages}
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    pairs = make_pairs(args.quick, args.hippocampus)
    small = next(pair for pair in pairs if pair.name.startswith("hippocampus"))
    # first of all: a fork of a process that has used OpenMP may hang
    peaks = {p.name: {name: peak_mib(p, name, small) for name in methods} for p in pairs}
    results: dict[str, Any] = {}
    missed = []
    for pair in pairs:
        assert_equal(pair, methods)
        scores = by_surface_distance(pair)
        dice = ", ".join(f"{score[0]:.3f}" for score in scores)
        print(f"\n{pair.name}: {pair.ref.shape}, {pair.spacing} mm, Dice {dice}")
        memory, times = peaks[pair.name], best_times(pair, methods, args.rounds)
        base, base_memory = times["surface-distance"], memory["surface-distance"]
        print(f"{'':<30}{'ms':>9}{'x':>7}{'MiB':>8}{'x':>7}")
        for name in methods:
            print(
                f"{name:<30}{1000 * times[name]:>9.2f}{base / times[name]:>7.1f}"
                f"{memory[name]:>8.1f}{base_memory / max(memory[name], 0.1):>7.1f}",
                flush=True,
            )
        if base / times["samtune"] < GOALS[pair.name]:
            missed.append(f"{pair.name}: {base / times['samtune']:.1f} x, goal {GOALS[pair.name]}")
        results[pair.name] = {"seconds": times, "peak_mib": memory}
    if args.cases:
        organs = next(pair for pair in pairs if len(pair.classes) == 5)
        one, two = scaling(organs, args.cases)
        print(f"\n{args.cases} cases: {one:.1f} s, 2 processes {two:.1f} s, {one / two:.2f} x")
        results["scaling"] = {"cases": args.cases, "one": one, "two": two}
    for line in missed:
        print(f"missed: {line}")
    if args.json is not None:
        facts = {"versions": versions, "machine": platform.machine(), "quick": args.quick}
        args.json.write_text(json.dumps({**facts, "pairs": results}, indent=2) + "\n")
    return 1 if missed and not args.quick else 0


if __name__ == "__main__":
    raise SystemExit(main())
