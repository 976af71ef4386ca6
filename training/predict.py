"""Segment raw scans with a trained run, from Python: what ``inference.yaml`` does."""

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.engines import SupervisedEvaluator
from torch.utils.data import DataLoader

from samtune.preprocessing.slice_transforms import ToClassMapd, ToFramed
from samtune.training.case_writers import CaseLabelWriter
from samtune.training.device import pick_device
from samtune.training.features import PrepareSlices
from samtune.training.handlers import Progress
from samtune.training.raw_slices import RawSlices
from samtune.training.run_folder import load_run


def predict(
    run: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    adapter: str = "best",
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    batch_size: int = 4,
    file_format: str | None = None,
    frame: int | None = None,
    series: str | None = None,
    progress: bool | None = None,
) -> list[Path]:
    """Segment scans; each label file has its scan's name, shape, affine and header codes.

    Args:
        run: folder of a training run.
        images: NIfTI file, folder of them, or several.
        out: folder of the label files; existing ones are replaced.
        adapter: ``best`` or ``last``.
        checkpoint: base weights; ``None``: those of the run.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps``.
        batch_size: slices at a time.
        file_format: of the label files: nii.gz, nii, nrrd, mha or png; ``None``: each scan's own.
        frame: which volume of 4D files and films, from 0.
        series: which series of DICOM folders: description, number or SeriesInstanceUID.
        progress: show a bar; ``None``: when stderr is a terminal.

    Returns:
        The files written.

    Raises:
        FileNotFoundError, ValueError: a run or scan is missing or unreadable.
        ValueError: the run was trained with prompts and can't segment without.
    """
    trained = load_run(run)
    trained.check_prompt_free()
    target = pick_device(device)
    network = trained.network(adapter, checkpoint).to(target)
    dataset = RawSlices(
        images,
        intensity=trained.intensity,
        axis=trained.axis,
        slicing=trained.slicing,
        neighbours=trained.neighbours,
        transform=ToFramed(network.image_size, network.normalization),
        out=out,
        file_format=file_format,
        frame=frame,
        series=series,
    )
    writer = CaseLabelWriter(dataset)
    evaluator = SupervisedEvaluator(
        device=target,
        val_data_loader=DataLoader(dataset, batch_size=batch_size),
        prepare_batch=PrepareSlices(),
        network=network,
        postprocessing=ToClassMapd(trained.task.class_values, trained.task.paint),
        val_handlers=[Progress("predicting", progress), writer],
    )
    evaluator.run()
    return writer.written
