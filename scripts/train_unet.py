"""The rival: a 3D U-Net trained from scratch on the volumes of a folder of slices, and its scores.

    python scripts/train_unet.py --slices runs/quickstart/slices --out runs/quickstart/unet

It sees the same uint8 intensities and the same training cases as the fine-tuned SAM. Validation
cases choose nothing: the scored network is the last one. Test cases are scored on their own grid
into ``OUT/metrics_test.csv`` and ``metrics_test_summary.csv``; label files are in
``OUT/predictions_test``. Whole volumes go through the network at once, so it is for small ones.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.data import list_data_collate
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from monai.transforms import RandAffined
from monai.utils import convert_to_tensor, set_determinism
from torch import Tensor, nn
from torch.utils.data import BatchSampler
from tqdm import tqdm

from samtune.evaluation.metrics_csv import MetricsCsv
from samtune.evaluation.score_case import score_case
from samtune.evaluation.summary import format_summary, summarise, write_summary
from samtune.preprocessing.manifest import Manifest, load_manifest
from samtune.preprocessing.slice_transforms import channel_label
from samtune.preprocessing.slicing import CaseGeometry, slices_to_volume, volume_to_slices
from samtune.preprocessing.volumes import write_label
from samtune.training.case_stream import image_volume, reference_volume
from samtune.training.case_writers import grid_of
from samtune.training.device import pick_device
from samtune.training.slice_data import EpochSampler, slice_items
from samtune.training.task import Task, task_of

Array = npt.NDArray[Any]
Size = tuple[int, int, int]
FILTERS = (16, 32, 64, 128)
STRIDE = 2 ** (len(FILTERS) - 1)  # voxels of the input per voxel of the coarsest level
MAX_VOXELS = 4_000_000  # of a padded volume: several GB of memory a volume in training
BATCH_SIZE = 2
LEARNING_RATE = 3e-3  # at the start; falls to 0 along half a cosine
ROTATION = 0.26  # largest random rotation about each axis, radians
SCALE = 0.15  # largest random change of size along each axis, as a share


@dataclass(frozen=True)
class Length:
    """How long to train: ``minutes`` by the clock, ``epochs``, or what is reached first."""

    minutes: float | None
    epochs: int | None

    def share_done(self, seconds: float, epochs: float) -> float:
        """0 at the start, 1 at the end."""
        by_clock = seconds / (60 * self.minutes) if self.minutes else 0.0
        by_epochs = epochs / self.epochs if self.epochs else 0.0
        return min(max(by_clock, by_epochs), 1.0)


def to_ras(volume: Array, geometry: CaseGeometry) -> Array:
    """A volume on the file's grid, turned to left-right, posterior-anterior, inferior-superior."""
    return np.moveaxis(volume_to_slices(volume, geometry), 0, geometry.axis)


def from_ras(volume: Array, geometry: CaseGeometry) -> Array:
    """Inverse of :func:`to_ras`."""
    return slices_to_volume(np.moveaxis(volume, geometry.axis, 0), geometry)


def padded_size(sizes: Sequence[Sequence[int]]) -> Size:
    """Smallest size that holds all and that the network can halve and double without a rest.

    Raises:
        ValueError: that is too large for whole volumes.
    """
    # At least 2 voxels at the coarsest level: instance norm has nothing to do on a single one.
    x, y, z = (max(math.ceil(n / STRIDE), 2) * STRIDE for n in np.max(sizes, axis=0).tolist())
    if x * y * z > MAX_VOXELS:
        msg = f"volumes are {x}x{y}x{z} voxels when padded; whole ones fit up to {MAX_VOXELS}"
        raise ValueError(msg)
    return x, y, z


def pad(volume: Tensor, size: Size) -> Tensor:
    """Zeros behind a volume ``c x y z`` up to ``size``."""
    x, y, z = (target - found for target, found in zip(size, volume.shape[1:], strict=True))
    return F.pad(volume, (0, z, 0, y, 0, x))


def cases_of(manifest: Manifest, split: str) -> list[str]:
    """Labelled cases of a split; ValueError if it has none or others."""
    return sorted({str(item["case"]) for item in slice_items(manifest, split)})


def network_input(manifest: Manifest, case: str) -> Tensor:
    """Image of a case, ``1 x y z`` in RAS order, zero mean and unit variance."""
    image = to_ras(image_volume(manifest, case), manifest.cases[case].geometry).astype(np.float32)
    return torch.from_numpy((image - image.mean()) / max(float(image.std()), 1e-6))[None]


def training_volumes(manifest: Manifest, task: Task) -> Tensor:
    """Image and label channel of each training case, ``case 2 x y z``, padded to one size."""
    cases, pairs = cases_of(manifest, "train"), []
    size = padded_size([manifest.cases[case].geometry.shape_ras for case in cases])
    for case in cases:
        label = to_ras(reference_volume(manifest, case), manifest.cases[case].geometry)
        channels = channel_label(label, task.class_values, case).float()
        pairs.append(pad(torch.cat([network_input(manifest, case), channels]), size))
    return torch.stack(pairs)


def build_unet(num_classes: int) -> nn.Module:
    """DynUNet with one grey channel in, background and classes out."""
    below = [2] * (len(FILTERS) - 1)  # factor between each level and the next
    return DynUNet(3, 1, 1 + num_classes, [3] * len(FILTERS), [1, *below], below, filters=FILTERS)


def batches(num_cases: int, seed: int) -> Iterator[tuple[float, list[int]]]:
    """Epochs done and case numbers of each step, for ever; a permutation an epoch."""
    sampler = EpochSampler(num_cases, seed=seed)
    epoch_batches = BatchSampler(sampler, BATCH_SIZE, drop_last=False)
    while True:
        for step, batch in enumerate(epoch_batches):
            yield sampler.epoch + step / len(epoch_batches), batch
        sampler.set_epoch(sampler.epoch + 1)


def train(
    volumes: Tensor, num_classes: int, length: Length, *, seed: int, device: torch.device
) -> tuple[nn.Module, dict[str, float]]:
    """Train on ``case 2 x y z``: image, label channel.

    Returns:
        The network, and how long it took: ``epochs`` and ``seconds``.
    """
    set_determinism(seed)
    network = build_unet(num_classes).to(device).train()
    loss_function = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    augment = RandAffined(
        keys=("image", "label"),
        prob=1.0,
        rotate_range=[ROTATION] * 3,
        scale_range=[SCALE] * 3,
        mode=("bilinear", "nearest"),
        padding_mode="zeros",
    ).set_random_state(seed)
    layout = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
    seconds, epochs, start = 0.0, 0.0, time.monotonic()
    with tqdm(total=1.0, desc="training U-Net", bar_format=layout, disable=None) as bar:
        for epochs, batch in batches(len(volumes), seed):
            seconds = time.monotonic() - start
            share = length.share_done(seconds, epochs)
            bar.update(share - bar.n)
            if share >= 1:
                break
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * share))
            pairs = [augment({"image": pair[:1], "label": pair[1:]}) for pair in volumes[batch]]
            items = convert_to_tensor(list_data_collate(pairs), track_meta=False, device=device)
            loss = loss_function(network(items["image"]), items["label"])
            if not torch.isfinite(loss):
                raise ValueError(f"training diverged: the loss is {loss.item()} at {epochs} epochs")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return network.eval(), {"epochs": round(epochs, 2), "seconds": round(seconds, 1)}


@torch.inference_mode()
def predict(network: nn.Module, image: Tensor, at_least: Size) -> Array:
    """Channel of each voxel of an image ``1 x y z``, padded at least to a size."""
    x, y, z = image.shape[1:]
    padded = pad(image, padded_size([(x, y, z), at_least]))[None]
    logits: Tensor = network(padded.to(next(network.parameters()).device))
    return logits[0, :, :x, :y, :z].argmax(dim=0).cpu().numpy()


def score(
    network: nn.Module, manifest: Manifest, trained: Size, out: Path, how: Mapping[str, Any]
) -> str:
    """Score the test cases, write tables and label files; the summary as text.

    Args:
        trained: size of the volumes in training; cases are padded at least to it.
        how: what to note beside the table.
    """
    task, cases = task_of(manifest), cases_of(manifest, "test")
    protocol = {"split": "test", "num_cases": len(cases), "prompt": "none", **how}
    table = MetricsCsv(
        out / "metrics_test.csv", regions=task.scored(), notes={"protocol": protocol}, force=True
    )
    (out / "predictions_test").mkdir(exist_ok=True)
    values = np.array([0, *task.class_values])
    for case in tqdm(cases, desc="scoring", unit="case", disable=None):
        geometry, label = manifest.cases[case].geometry, reference_volume(manifest, case)
        channels = predict(network, network_input(manifest, case), trained)
        pred = from_ras(values[channels].astype(label.dtype), geometry)
        write_label(out / "predictions_test" / f"{case}.nii.gz", pred, like=grid_of(geometry))
        table.add(score_case(case, pred, label, geometry.spacing, table.regions))
    summary = summarise(table.finish())
    write_summary(out / "metrics_test_summary.csv", summary)
    return format_summary(summary)


def main(argv: Sequence[str] | None = None) -> int:
    """Train and score; 1 with a line on stderr if the input doesn't fit."""
    parser = argparse.ArgumentParser(description="Train and score a 3D U-Net from scratch.")
    add = parser.add_argument
    add("--slices", type=Path, required=True, help="folder made by 'samtune slice'")
    add("--out", type=Path, required=True, help="folder of tables and label files")
    add("--minutes", type=float, help="of training (default: 7 without --epochs)")
    add("--epochs", type=int, help="of training; with --minutes, what is reached first")
    add("--seed", type=int, default=0, help="of all chance (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps (default: auto)")
    args = parser.parse_args(argv)
    if not all(value is None or value > 0 for value in (args.minutes, args.epochs)):
        parser.error("--minutes and --epochs must be > 0")
    length = Length(args.minutes or (None if args.epochs else 7.0), args.epochs)
    try:
        device, manifest = pick_device(args.device), load_manifest(args.slices)
        cases_of(manifest, "test")  # says what is wrong before the minutes of training
        task = task_of(manifest)
        volumes = training_volumes(manifest, task)
        args.out.mkdir(parents=True, exist_ok=True)
        network, took = train(volumes, len(task.classes), length, seed=args.seed, device=device)
        print(f"{len(volumes)} training cases, {took['epochs']:g} epochs in {took['seconds']:g} s")
        how = {"network": "3D U-Net from scratch, last", "seed": args.seed, "training": took}
        print(score(network, manifest, padded_size([volumes.shape[2:]]), args.out, how))
    except (ValueError, OSError) as error:
        print(f"train_unet.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
