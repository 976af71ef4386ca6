"""What training and prediction cost beside bare loops, and a step with each way to fine-tune.

    python benchmarks/bench_training.py --rounds 5 --json training.json

``trainer``: an epoch of train.yaml (Ignite, handlers, loading, cached features, no validation)
over a bare PyTorch loop with the same steps on batches that lie ready; ``end of epoch``: curve,
adapter and checkpoint on the disk. ``predict``: scans to label files, without building the network,
over a bare loop of forward and argmax on slices that lie ready. ``steps``: forward, backward and
AdamW for full fine-tuning, LoRA, late LoRA and the decoder alone, the last two over cached features
too, with the bytes that autograd keeps. Variants take turns; medians of CPU time, on a GPU of wall
time between synchronisations. First the compared ways are shown to give the same losses and labels.
Random weights: no file is needed. What needs a GPU is "not measured" without one. ``--quick`` is
small: only that all paths agree.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.bundle import create_workflow
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from samtune.benchmarks.bench_preprocessing import make_volumes
from samtune.benchmarks.figures import write_figures
from samtune.benchmarks.timing import clock_of, interleaved, saved_bytes
from samtune.networks import ARCHITECTURES, SamSegmenter, build_sam
from samtune.peft.adapt import adapt
from samtune.peft.registry import build_method
from samtune.preprocessing.slice_transforms import ToFramed
from samtune.preprocessing.slice_volumes import slice_volumes
from samtune.training.paths import bundle_root
from samtune.training.predict import predict
from samtune.training.raw_slices import RawSlices
from samtune.training.run_folder import load_run

CLASSES = 2
NOT_MEASURED = "not measured"
# name: method, blocks, whether over cached features
WAYS: dict[str, tuple[str, str, bool]] = {
    "full": ("full", "all", False),
    "LoRA, all blocks": ("lora", "all", False),
    "LoRA, last:2": ("lora", "last:2", False),
    "LoRA, last:2, cached": ("lora", "last:2", True),
    "decoder only": ("decoder_only", "all", False),
    "decoder only, cached": ("decoder_only", "all", True),
}


class BareEpochs:
    """Runs after each epoch of a trainer the same steps in a bare loop, and times both.

    Attributes:
        trainer, bare: seconds of the steps of each epoch.
        ends: seconds of what the trainer does at the end of each.
    """

    def __init__(self, parser: Any, device: torch.device) -> None:
        self.parser = parser
        self.clock = clock_of(device)
        self.device = device
        self.trainer: list[float] = []
        self.bare: list[float] = []
        self.ends: list[float] = []
        self._losses: list[float] = []
        network = parser.get_parsed_content("network")
        optimizer = parser.get_parsed_content("optimizer")
        self.network = copy.deepcopy(network)
        twin = {
            id(p): q for p, q in zip(network.parameters(), self.network.parameters(), strict=True)
        }
        groups = [
            {**g, "params": [twin[id(p)] for p in g["params"]]} for g in optimizer.param_groups
        ]
        self.optimizer = type(optimizer)(groups)
        lambdas = parser.get_parsed_content("lr_scheduler").lr_lambdas
        self.schedule = LambdaLR(self.optimizer, lambdas)

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after all other handlers."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _begin(self) -> None:
        self._losses, self._start = [], self.clock()

    def _step(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self._losses.append(float(output[0]["loss"]))
        self._stop = self.clock()

    def _end(self) -> None:
        self.trainer.append(self._stop - self._start)
        self.ends.append(self.clock() - self._stop)
        parts = self.parser.get_parsed_content
        dataset = parts("train::dataset")
        loader = DataLoader(
            dataset, batch_size=parts("batch_size"), sampler=parts("train::sampler")
        )
        prepare = parts("train::trainer").prepare_batch
        batches = [prepare(batch, self.device) for batch in loader]
        start = self.clock()
        losses = self._loop(batches, parts("loss"), float(parts("clip_norm")))
        self.bare.append(self.clock() - start)
        np.testing.assert_allclose(self._losses, losses, rtol=1e-5)

    def _loop(self, batches: list[Any], loss: nn.Module, clip: float) -> list[float]:
        self.network.train()
        trained = [p for p in self.network.parameters() if p.requires_grad]
        losses = []
        for image, target, _, keywords in batches:
            self.optimizer.zero_grad(set_to_none=True)
            value = loss(self.network(image, **keywords), target)
            value.backward()
            nn.utils.clip_grad_norm_(trained, clip)
            self.optimizer.step()
            self.schedule.step()
            losses.append(float(value.detach()))
        return losses


def bench_trainer(root: Path, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds of an epoch of the trainer and of the bare loop; leaves the run for ``predict``."""
    images, labels = make_volumes(root / "data", args.cases, args.size, args.slices)
    slice_volumes(
        images,
        labels,
        modality="mr",
        out=root / "slices",
        split_counts=(args.cases - 2, 1, 1),
        workers=1,
        progress=False,
    )
    torch.manual_seed(0)
    torch.save(build_sam(args.arch, "random", args.size).state_dict(), root / "base.pth")
    workflow = create_workflow(
        config_file=f"{bundle_root('sam_finetune')}/configs/train.yaml",
        run_id="training",
        logging_file=False,
        dataset_dir=str(root / "slices"),
        runs_dir=str(root / "runs"),
        run_name="bench",
        checkpoint=str(root / "base.pth"),
        arch=args.arch,
        image_size=args.size,
        normalization="medsam",
        epochs=args.rounds + 1,
        val_interval=args.rounds + 2,
        batch_size=args.batch_size,
        device=str(device),
    )
    bare = BareEpochs(workflow.parser, device)
    bare.attach(workflow.parser.get_parsed_content("train::trainer"))
    workflow.run()
    workflow.finalize()
    # the first epoch fills the cache
    ours, theirs = median(bare.trainer[1:]), median(bare.bare[1:])
    pairs = zip(bare.trainer[1:], bare.bare[1:], strict=True)
    return {
        "trainer": ours,
        "bare": theirs,
        "overhead": median(a / b for a, b in pairs) - 1,
        "end of epoch": median(bare.ends[1:]),
        "iterations": (args.cases - 2) * args.slices // args.batch_size,
    }


def bench_predict(root: Path, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds of ``predict`` on all scans and of a bare loop over their ready slices."""
    run, images = root / "runs/bench", root / "data/images"
    trained = load_run(run)
    network = trained.network("last").to(device)
    dataset = RawSlices(
        images,
        intensity=trained.intensity,
        axis=trained.axis,
        slicing=trained.slicing,
        transform=ToFramed(network.image_size, network.normalization),
        out=root / "pred",
    )
    batches = [b["image"].to(device) for b in DataLoader(dataset, batch_size=args.batch_size)]
    values = torch.tensor([0, *trained.task.class_values])

    def ours() -> None:
        predict(
            run,
            images,
            root / "pred",
            adapter="last",
            device=device,
            batch_size=args.batch_size,
            progress=False,
        )

    def load() -> None:
        trained.network("last").to(device)

    @torch.no_grad()
    def bare() -> list[Tensor]:
        return [values[network(batch).argmax(1).cpu()] for batch in batches]

    ours()
    found = np.concatenate(
        [
            np.asarray(nib.load(path).dataobj).transpose(2, 0, 1)  # type: ignore[attr-defined]
            for path in sorted((root / "pred").glob("*.nii.gz"))
        ]
    )
    expected = torch.cat(bare()).numpy()
    for value in values.tolist():  # turned or not, each slice has as many pixels of each class
        np.testing.assert_array_equal(
            np.sort((found == value).sum((1, 2))), np.sort((expected == value).sum((1, 2)))
        )
    times = interleaved({"predict": ours, "load": load, "bare": bare}, args.rounds, device)
    return {**times, "overhead": (times["predict"] - times["load"]) / times["bare"] - 1}


def make_step(way: str, args: argparse.Namespace, batch: int, device: torch.device) -> "Step":
    """A network fine-tuned this way, and what it steps on; the same base weights in each."""
    method, blocks, cached = WAYS[way]
    torch.manual_seed(0)
    network = SamSegmenter(build_sam(args.arch, "random", args.size), CLASSES)
    generator = torch.Generator().manual_seed(0)
    adapt(network, build_method({"name": method, "blocks": blocks}), generator=generator)
    return Step(network.to(device).train(), batch, cached)


class Step:
    """Forward, backward and AdamW; called, it takes a step and returns the loss before it."""

    def __init__(self, network: SamSegmenter, batch: int, cached: bool) -> None:
        self.network = network
        trained = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5)
        generator = torch.Generator().manual_seed(1)
        size = network.image_size
        images = torch.rand(batch, 3, size, size, generator=generator).to(trained[0].device)
        self.keywords: dict[str, Any] = {}
        self.images = images
        if cached:
            block = network.frozen_prefix()
            self.images, self.keywords = network.prefix(images, block), {"from_block": block}

    def forward(self) -> Tensor:
        """The loss."""
        return nn.functional.softplus(self.network(self.images, **self.keywords)).mean()

    def __call__(self) -> float:
        """Take a step."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.forward()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())

    def saved(self) -> int:
        """Bytes kept for the backward pass, without weights and the input."""
        own = [*self.network.parameters(), *self.network.buffers(), self.images]
        return saved_bytes(self.forward, own)


def bench_steps(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """By batch size and way: seconds a step, over full fine-tuning, kept MiB, GPU figures."""
    table: dict[str, Any] = {}
    for batch in args.batches:
        steps = {way: make_step(way, args, batch, device) for way in WAYS}
        with torch.no_grad():
            losses = {way: float(step.forward()) for way, step in steps.items()}
        # no way has moved yet: all are the pretrained network
        np.testing.assert_allclose(list(losses.values()), losses["full"], rtol=1e-4)
        times = interleaved(steps, args.rounds, device)
        table[str(batch)] = {
            way: {
                "seconds": times[way],
                "over full": times[way] / times["full"],
                "saved MiB": step.saved() / 2**20,
                **gpu_figures(step, batch, device, args.rounds),
            }
            for way, step in steps.items()
        }
    return table


def gpu_figures(step: Step, batch: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Peak MiB, images a second and what bfloat16 gives, on a GPU."""
    if device.type != "cuda":
        return dict.fromkeys(("peak MiB", "images/s", "images/s bf16"), NOT_MEASURED)

    def half() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            step()

    torch.cuda.reset_peak_memory_stats(device)
    step()
    peak = torch.cuda.max_memory_allocated(device) / 2**20
    ways: dict[str, Callable[[], object]] = {"whole": step, "half": half}
    times = interleaved(ways, rounds, device)
    return {
        "peak MiB": peak,  # with the weights of the other ways, which wait for their turn
        "images/s": batch / times["whole"],
        "images/s bf16": batch / times["half"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="lite_medsam", choices=list(ARCHITECTURES))
    parser.add_argument("--size", type=int, default=256, help="side of slices and input, pixels")
    parser.add_argument("--cases", type=int, default=4, help="scans, two of them not trained on")
    parser.add_argument("--slices", type=int, default=32, help="slices a scan")
    parser.add_argument("--batch-size", type=int, default=8, help="of trainer and predict")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8], help="of steps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="small: only that all paths agree")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if args.quick:
        args.arch, args.size, args.cases, args.slices = "lite_medsam", 32, 3, 4
        args.batch_size, args.batches, args.rounds = 2, [1], 1
    if args.cases < 3:
        parser.error("--cases must be at least 3: one each to train on, validate and test")
    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = bench_trainer(Path(folder), args, device)
        print(
            f"trainer {found['trainer']:.2f} s an epoch of {found['iterations']} iterations, bare "
            f"loop {found['bare']:.2f} s: {found['overhead']:+.1%}; end of epoch "
            f"{found['end of epoch']:.2f} s",
            flush=True,
        )
        results: dict[str, Any] = {
            "trainer": found,
            "predict": bench_predict(Path(folder), args, device),
        }
    found = results["predict"]
    print(
        f"predict {found['predict']:.2f} s, of which building the network {found['load']:.2f} s, "
        f"bare loop {found['bare']:.2f} s: {found['overhead']:+.1%}",
        flush=True,
    )
    results["steps"] = bench_steps(args, device)
    for batch, ways in results["steps"].items():
        for way, row in ways.items():
            gpu = [row["peak MiB"], row["images/s"], row["images/s bf16"]]
            shown = ", ".join(f"{x:.0f}" if isinstance(x, float) else x for x in gpu)
            print(
                f"batch {batch}, {way:<21}{row['seconds']:.3f} s, {row['over full']:.2f} of full, "
                f"saved {row['saved MiB']:.0f} MiB; peak MiB, images/s, in bf16: {shown}",
                flush=True,
            )
    write_figures(args, results, {"torch": torch.__version__})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
