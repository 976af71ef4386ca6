"""Predict the validation cases of a run once and choose its post-processing by them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose
from torch.utils.data import DataLoader

from samtune.preprocessing.manifest import Manifest
from samtune.preprocessing.neighbours import StackNeighboursd
from samtune.preprocessing.slice_transforms import LoadSliced, ToClassMapd, ToFramed
from samtune.preprocessing.slicing import CaseGeometry
from samtune.training.case_stream import Array, CaseStream, assemble, reference_volume
from samtune.training.device import pick_device
from samtune.training.ensemble import batch_keys, load_averaged
from samtune.training.errors import quiet_end
from samtune.training.features import PrepareSlices
from samtune.training.folds import open_run_slices
from samtune.training.handlers import Progress
from samtune.training.postprocess import SPLIT, CandidateScores, write_choice
from samtune.training.run_folder import load_run
from samtune.training.slice_data import slice_items


def choose_postprocessing(
    run: str | Path,
    *,
    adapter: str = "best",
    checkpoint: str | Path | None = None,
    dataset_dir: str | Path | Sequence[Any] | None = None,
    device: str | torch.device = "auto",
    batch_size: int = 4,
    flips: str = "none",
    progress: bool | None = None,
) -> Path:
    """Write ``postprocessing.json`` of a run.

    The cases of no other split than ``val`` are opened.

    Args:
        run: its folder.
        adapter, checkpoint, device, batch_size, flips, progress: see
            :func:`samtune.training.predict.predict`.
        dataset_dir: folder of slices; ``None``: what the run was trained on.

    Returns:
        The file.

    Raises:
        FileNotFoundError, ValueError: the run or its slices are missing, or have no validation
            cases.
    """
    trained, target = load_run(run), pick_device(device)
    trained.check_prompt_free()
    task = trained.task
    network = load_averaged([trained], adapter, checkpoint, flips).to(target)
    manifest = open_run_slices([trained], dataset_dir)
    if not manifest.select(SPLIT):
        msg = (
            f"the slices of '{trained.path}' have no validation cases to choose post-processing "
            "by; see samtune split"
        )
        raise ValueError(msg)
    transform = Compose(
        [
            LoadSliced(task.class_values),
            StackNeighboursd(manifest=manifest, distance=trained.neighbours),
            ToFramed(network.image_size, network.normalization),
        ]
    )
    data = Dataset(slice_items(manifest, SPLIT), transform)
    stream = _Candidates(manifest, CandidateScores(task.classes))
    evaluator = SupervisedEvaluator(
        device=target,
        val_data_loader=DataLoader(data, batch_size=batch_size),
        prepare_batch=PrepareSlices(keys=batch_keys(network)),
        network=network,
        postprocessing=ToClassMapd(task.class_values, task.paint),
        val_handlers=[Progress("validating", progress), stream],
    )
    with quiet_end():
        evaluator.run()
    return write_choice(trained, adapter, stream.scores)


class _Candidates(CaseStream):
    def __init__(self, manifest: Manifest, scores: CandidateScores) -> None:
        super().__init__()
        self.manifest = manifest
        self.scores = scores

    def geometry(self, case: str) -> CaseGeometry:
        return self.manifest.cases[case].geometry

    def finish(self, case: str, slices: Mapping[int, Array]) -> None:
        geometry, ignored = self.geometry(case), self.manifest.ignore_label(case)
        label = reference_volume(self.manifest, case, ignore_label=ignored)
        joint = self.manifest.joint_values(case)
        self.scores.add(
            case,
            assemble(slices, geometry, label.dtype),
            label,
            geometry.spacing,
            annotated=None if joint is None else list(joint.values()),
            judged=None if ignored is None else label != ignored,
        )
