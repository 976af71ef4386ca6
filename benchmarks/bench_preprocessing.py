"""Speed of slicing and of reading slices, as ratios measured in one process.

    python benchmarks/bench_preprocessing.py --size 512 --slices 24 --cases 4

``slicing``: ``samtune slice`` as a function, one worker, against a hand-written NumPy loop that
writes the same slice files. ``reading``: a ``.nii.gz`` volume by several libraries. ``loader``:
slices a second by form of storage, read alone and brought to the model's frame. ``model input``:
volume to 1024-pixel tensors, our slices resized by the loader, against MedSAM's published way.
``workers``: 1 against 2, wall time, processes started. Variants take turns; medians and quartiles;
CPU time except for the workers. The compared paths are shown to give the same arrays. ``--quick``
is small, ``--json FILE`` keeps the figures.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import torch

from samtune.benchmarks.figures import write_figures
from samtune.benchmarks.handwritten_slicing import loop, medsam_load, medsam_way
from samtune.benchmarks.volume_readers import volume_readers
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.model_frame import image_to_frame, label_to_frame
from samtune.preprocessing.slice_file import read_slice_file
from samtune.preprocessing.slice_transforms import channel_label, image_tensor
from samtune.preprocessing.slice_volumes import slice_volumes
from samtune.preprocessing.volumes import read_grid

CLASSES = (1, 2)
Clock = Callable[[], float]


def make_volumes(root: Path, cases: int, size: int, slices: int) -> tuple[Path, Path]:
    """``images`` (int16) and ``labels`` (uint8): smooth structures and noise, as of a scanner."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size - 0.5
    for number in range(cases):
        image = np.empty((size, size, slices), np.int16)
        label = np.zeros((size, size, slices), np.uint8)
        for index in range(slices):
            shift = 0.1 * np.sin(index / slices * 3 + number)
            body = (x**2 + (1.4 * y) ** 2) < 0.2
            organ = ((x - shift) ** 2 + y**2) < 0.02
            image[:, :, index] = 400 * body + 300 * organ + rng.normal(60, 25, (size, size)) * body
            label[:, :, index] = np.where(organ, 1, ((x + shift + 0.2) ** 2 + y**2 < 0.004) * 2)
        for folder, array in (("images", image), ("labels", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            volume = nib.Nifti1Image(array, np.diag([0.8, 0.8, 2.5, 1.0]))
            nib.save(volume, root / folder / f"case_{number}.nii.gz")
    return root / "images", root / "labels"


def in_turn(
    steps: Mapping[str, Callable[[], object]], rounds: int, clock: Clock = time.process_time
) -> dict[str, dict[str, Any]]:
    """Median and quartiles in seconds of each step, measured in turn after one call each."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(max(rounds, 2)):
        for name, step in steps.items():
            start = clock()
            step()
            times[name].append(clock() - start)
    found: dict[str, dict[str, Any]] = {}
    for name, values in times.items():
        low, middle, high = quantiles(values, n=4)
        found[name] = {"seconds": middle, "quartiles": [low, high]}
    return found


def run_slicing(images: Path, labels: Path, out: Path, workers: int = 1) -> None:
    """``samtune slice`` into a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    slice_volumes(images, labels, modality="mr", out=out, axis=2, workers=workers, progress=False)


def bench_slicing(images: Path, labels: Path, root: Path, rounds: int) -> dict[str, Any]:
    """Against the loop; goal at most 1.3 times its time."""

    def by_hand() -> None:
        shutil.rmtree(root / "loop", ignore_errors=True)
        loop(images, labels, root / "loop")

    steps = {"loop": by_hand, "samtune": lambda: run_slicing(images, labels, root / "ours")}
    found = in_turn(steps, rounds)
    files = sorted((root / "loop/slices").iterdir())
    for file in files:
        ours, theirs = (read_slice_file(p) for p in (root / "ours/slices" / file.name, file))
        _same(ours[0], theirs[0])
        _same(ours[1], theirs[1])
    ratio = found["samtune"]["seconds"] / found["loop"]["seconds"]
    return {**found, "slices": len(files), "ratio": ratio}


def bench_reading(images: Path, rounds: int) -> dict[str, Any]:
    """Seconds to read one volume, and how many times as fast as nibabel's ``get_fdata``."""
    path = sorted(images.iterdir())[0]
    readers = volume_readers()
    expected = readers["nibabel"](path)
    for name, read in readers.items():
        _same(read(path), expected, name)
    found = in_turn({name: partial(read, path) for name, read in readers.items()}, rounds)
    slowest = found["nibabel get_fdata"]["seconds"]
    return {name: {**one, "ratio": slowest / one["seconds"]} for name, one in found.items()}


def bench_model_input(
    images: Path, labels: Path, root: Path, number: int, size: int, rounds: int
) -> dict[str, Any]:
    """Against MedSAM's way, a slice; goal at least 20 times as fast."""
    image, label = sorted(images.iterdir())[0], sorted(labels.iterdir())[0]
    all_slices = read_grid(image).shape[2]

    def theirs() -> None:
        shutil.rmtree(root / "medsam", ignore_errors=True)
        medsam_way(image, label, root / "medsam", size, number)
        for index in range(number):
            medsam_load(root / "medsam", index)

    def ours() -> None:
        run_slicing(image, label, root / "one")
        manifest = load_manifest(root / "one")
        for row in manifest.slices:
            imgs, gts = read_slice_file(manifest.path(row))
            assert gts is not None
            image_to_frame(image_tensor(imgs[0]), size, "medsam")
            label_to_frame(channel_label(gts[0], CLASSES, row.file), size)

    found = in_turn({"medsam": theirs, "samtune": ours}, rounds)
    a_slice = {
        "medsam": found["medsam"]["seconds"] / number,
        "samtune": found["samtune"]["seconds"] / all_slices,
    }
    return {"seconds_a_slice": a_slice, "ratio": a_slice["medsam"] / a_slice["samtune"]}


def bench_workers(images: Path, labels: Path, root: Path, rounds: int) -> dict[str, Any]:
    """1 against 2 processes; goal at least 1.7.

    ``ratio`` is of wall time, which needs two idle cores; ``ratio_cpu`` holds on a busy machine
    too: CPU time of one process over that of the longest chain, the main process and the busier
    worker.
    """
    steps = {
        "1": lambda: run_slicing(images, labels, root / "w1", 1),
        "2": lambda: run_slicing(images, labels, root / "w2", 2),
    }
    found = in_turn(steps, rounds, time.perf_counter)
    chains = []
    for _ in range(max(rounds, 2)):
        start = time.process_time()
        steps["1"]()
        alone, before = time.process_time() - start, _cpu_of_workers()
        start = time.process_time()
        steps["2"]()
        main_process, after = time.process_time() - start, _cpu_of_workers()
        busier = max(after[worker] - before.get(worker, 0.0) for worker in after)
        chains.append(alone / (main_process + busier))
    ratio = found["1"]["seconds"] / found["2"]["seconds"]
    return {**found, "ratio": ratio, "ratio_cpu": median(chains)}


def _cpu_of_workers() -> dict[int, float]:
    workers = psutil.Process().children(recursive=True)
    times = {worker.pid: worker.cpu_times() for worker in workers}
    return {pid: used.user + used.system for pid, used in times.items()}


def bench_loader(sliced: Path, root: Path, frame: int, rounds: int) -> dict[str, Any]:
    """Slices a second of each form of storage, in a shuffled order."""
    manifest = load_manifest(sliced)
    pairs = [read_slice_file(manifest.path(row)) for row in manifest.slices]
    imgs = np.concatenate([images for images, _ in pairs])
    gts = np.concatenate([labels for _, labels in pairs if labels is not None])
    (root / "forms").mkdir()
    for index in range(len(imgs)):
        np.savez(root / f"forms/{index}.npz", imgs=imgs[index, None], gts=gts[index, None])
        np.save(root / f"forms/{index}_img.npy", imgs[index])
        np.save(root / f"forms/{index}_gt.npy", gts[index])
    np.save(root / "forms/imgs.npy", imgs)
    np.save(root / "forms/gts.npy", gts)
    mapped = [np.load(root / f"forms/{name}.npy", mmap_mode="r") for name in ("imgs", "gts")]
    paths = [manifest.path(row) for row in manifest.slices]

    def from_npz(path: Path) -> tuple[Any, Any]:
        images, labels = read_slice_file(path)
        assert labels is not None
        return images[0], labels[0]

    readers: dict[str, Callable[[int], tuple[Any, Any]]] = {
        "npz compressed": lambda i: from_npz(paths[i]),
        "npz plain": lambda i: from_npz(root / f"forms/{i}.npz"),
        "npy": lambda i: (
            np.load(root / f"forms/{i}_img.npy"),
            np.load(root / f"forms/{i}_gt.npy"),
        ),
        "memory map": lambda i: (np.array(mapped[0][i]), np.array(mapped[1][i])),
    }
    order = np.random.default_rng(0).permutation(len(imgs)).tolist()

    def read(form: str) -> None:
        for index in order:
            image, label = readers[form](index)
            image.sum(), label.sum()  # every byte is touched

    def load(form: str) -> None:
        for index in order:
            image, label = readers[form](index)
            image_to_frame(image_tensor(image), frame, "medsam")
            label_to_frame(channel_label(label, CLASSES, form), frame)

    for form, reader in readers.items():
        for index in order[:3]:
            _same(reader(index)[0], imgs[index], form)
            _same(reader(index)[1], gts[index], form)
    out: dict[str, Any] = {}
    for name, work in (("read", read), ("read and frame", load)):
        found = in_turn({form: _bound(work, form) for form in readers}, rounds)
        out[name] = {form: len(order) / value["seconds"] for form, value in found.items()}
    return out


def _bound(work: Callable[[str], None], form: str) -> Callable[[], None]:
    return lambda: work(form)


def _same(found: Any, expected: Any, what: str = "slice") -> None:
    if not np.array_equal(found, expected):
        msg = f"{what}: the compared ways give different arrays"
        raise RuntimeError(msg)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="side of a slice, pixels")
    parser.add_argument("--slices", type=int, default=24, help="slices a case")
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--input-size", type=int, default=1024, help="model input, pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small: only that all paths agree")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if args.quick:
        args.size, args.slices, args.cases, args.input_size, args.rounds = 48, 4, 2, 64, 2
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        volumes = make_volumes(root / "data", args.cases, args.size, args.slices)
        results: dict[str, Any] = {"slicing": bench_slicing(*volumes, root, args.rounds)}
        _print(f"slicing {results['slicing']['ratio']:.2f} x the loop's time")
        results["reading"] = bench_reading(volumes[0], args.rounds)
        ratios = (f"{name} {one['ratio']:.2f} x" for name, one in results["reading"].items())
        _print(f"reading a volume: {', '.join(ratios)}")
        results["loader"] = bench_loader(root / "ours", root, 256, args.rounds)
        for name, forms in results["loader"].items():
            _print(f"{name}: " + ", ".join(f"{form} {n:.0f}/s" for form, n in forms.items()))
        results["model input"] = bench_model_input(*volumes, root, 2, args.input_size, 2)
        _print(f"model input {results['model input']['ratio']:.1f} x as fast as MedSAM's way")
        results["workers"] = bench_workers(*volumes, root, args.rounds)
        found = results["workers"]
        _print(f"2 workers {found['ratio']:.2f} x as fast as 1, by CPU {found['ratio_cpu']:.2f} x")
    write_figures(args, results, {"numpy": np.__version__, "torch": torch.__version__})
    return 0


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
