"""Tiny networks with random weights at 32 pixels, manifests of hand-made labels, real trainers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.losses import DiceCELoss
from monai.transforms import Compose
from nibabel.orientations import axcodes2ornt, ornt_transform
from torch.utils.data import DataLoader

from samtune.networks.build import assemble_sam
from samtune.peft.adapt import adapt, method_configs
from samtune.peft.lora import LoRA
from samtune.preprocessing.manifest import Manifest, load_manifest
from samtune.preprocessing.slice_transforms import LoadSliced, ToClassMapd, ToFramed
from samtune.preprocessing.slice_volumes import slice_volumes
from samtune.training.case_dice import CaseDice
from samtune.training.features import PrepareSlices, SliceDataset
from samtune.training.network import AdaptedSegmenter
from samtune.training.schedule import warmup_schedule
from samtune.training.slice_data import EpochSampler, slice_items
from samtune.training.task import Task, task_of
from tests.tiny_encoders import tiny_vit

DEFAULT_METHOD = LoRA(rank=2, blocks="last:2", dropout=0.2)


@pytest.fixture
def make_network() -> Callable[..., AdaptedSegmenter]:
    """A segmenter around a TinyViT of five attention blocks for 32 x 32 images."""

    def make(
        method: LoRA | None = DEFAULT_METHOD, *, decoder: Any = "full", num_classes: int = 2
    ) -> AdaptedSegmenter:
        generator = torch.Generator().manual_seed(0)
        sam = assemble_sam(tiny_vit(), arch="lite_medsam", image_size=32, normalization="medsam")
        with torch.no_grad():  # any values, but the same ones each time
            for parameter in sam.parameters():
                scale = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
                parameter.normal_(0, scale, generator=generator)
            sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.normal_(
                0, 1, generator=generator
            )
        network = AdaptedSegmenter(sam.eval(), num_classes)
        network.summary = adapt(network, method, decoder=decoder, generator=generator)
        network.peft = method_configs(method, decoder)
        return network

    return make


@pytest.fixture
def tiny_manifest(tiny_slices: Path) -> Manifest:
    return load_manifest(tiny_slices)


@pytest.fixture
def slice_labels(tmp_path: Path) -> Callable[..., Manifest]:
    """Slices of label arrays given in RAS order, each case stored in its own orientation."""

    def make(
        labels: Mapping[str, np.ndarray],
        *,
        orientations: Sequence[str] = ("RAS", "PSR"),
        split: str = "test",
        labelled: bool = True,
    ) -> Manifest:
        root = tmp_path / "hand_made"
        for number, (case, label) in enumerate(labels.items()):
            to_codes = ornt_transform(
                axcodes2ornt("RAS"), axcodes2ornt(orientations[number % len(orientations)])
            )
            image = np.arange(label.size).reshape(label.shape) % 251
            for folder, array in (("images", image), ("labels", label)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                volume = nib.Nifti1Image(array.astype(np.uint8), np.diag([1.0, 2.0, 5.0, 1.0]))
                nib.save(volume.as_reoriented(to_codes), root / folder / f"{case}.nii.gz")
        (root / "split.csv").write_text(
            "case,split\n" + "".join(f"{case},{split}\n" for case in labels)
        )
        slice_volumes(
            root / "images",
            root / "labels" if labelled else None,
            modality="mr",
            out=root / "slices",
            split_csv=root / "split.csv",
            workers=1,
            progress=False,
        )
        return load_manifest(root / "slices")

    return make


@pytest.fixture
def stream() -> Callable[..., Engine]:
    """An engine whose steps give slices as MONAI's evaluator does after decollation."""

    def make(slices: Iterable[tuple[str, int, np.ndarray]], batch_size: int = 2) -> Engine:
        listed = list(slices)
        batches = [listed[i : i + batch_size] for i in range(0, len(listed), batch_size)]

        def step(engine: Engine, batch: Any) -> Any:
            engine.state.batch = [{"case": c, "index": torch.tensor(i)} for c, i, _ in batch]
            return [{"pred": pred} for *_, pred in batch]

        engine = Engine(step)
        engine.batches = batches
        return engine

    return make


@dataclass
class Training:
    """A trainer and its parts."""

    network: AdaptedSegmenter
    optimizer: torch.optim.Optimizer
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler
    dataset: SliceDataset
    sampler: EpochSampler
    validator: SupervisedEvaluator
    dice: CaseDice
    task: Task
    trainer: SupervisedTrainer


@pytest.fixture
def make_training(
    make_network: Callable[..., AdaptedSegmenter], tiny_manifest: Manifest
) -> Callable[..., Training]:
    """What train.yaml makes, by hand and at 32 pixels; add handlers to it, then run."""

    def make(
        network: AdaptedSegmenter | None = None,
        *,
        epochs: int = 3,
        learning_rate: float = 1e-3,
        optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
        **options: Any,
    ) -> Training:
        torch.manual_seed(0)
        network = make_network() if network is None else network
        task = task_of(tiny_manifest)
        transform = Compose([LoadSliced(task.class_values), ToFramed(32, "medsam")])
        data = SliceDataset(
            slice_items(tiny_manifest, "train"), transform, network=network, **options
        )
        held_out = SliceDataset(slice_items(tiny_manifest, "val"), transform, network=network)
        sampler = EpochSampler(len(data), seed=0)
        loader = DataLoader(data, batch_size=4, sampler=sampler)
        steps = optimizer([p for p in network.parameters() if p.requires_grad], lr=learning_rate)
        dice = CaseDice(tiny_manifest, task)
        validator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(held_out, batch_size=4),
            network=network,
            prepare_batch=PrepareSlices(held_out),
            postprocessing=ToClassMapd(task.class_values),
            key_val_metric={"val_dice": dice},
        )
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=loader,
            network=network,
            optimizer=steps,
            loss_function=DiceCELoss(
                include_background=False, to_onehot_y=True, softmax=True, batch=True
            ),
            prepare_batch=PrepareSlices(data),
        )
        schedule = warmup_schedule(
            "cosine", steps, warmup_steps=1, total_steps=epochs * len(loader)
        )
        return Training(network, steps, schedule, data, sampler, validator, dice, task, trainer)

    return make
