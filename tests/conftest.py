"""Fixtures for all tests. Nothing seeds globally: a test that wants chance takes a generator."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch
    from monai.bundle import ConfigWorkflow

# No deadline: the first example pays for imports. Derandomised: two runs give the same result.
settings.register_profile("samtune", deadline=None, derandomize=True)
settings.load_profile("samtune")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Singular vectors are kept for this run alone."""
    os.environ["SAMTUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def repo_root() -> Path:
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def generator() -> "torch.Generator":
    import torch

    return torch.Generator().manual_seed(0)


# The tiny task of the tests of training and bundles: six volumes of different shape and
# orientation, classes 1 and 3, each seen by a real LiteMedSAM for a few steps.
TINY_ORIENTATIONS = ("RAS", "LPS", "PSR", "SRP", "LAS", "IPR")
TINY_CLASSES = {1: "front", 3: "back"}


def write_tiny_volumes(root: Path, number: int, num_slices: int) -> Path:
    """``root/images`` and ``root/labels``: 4 mm slices with a dark and a bright rectangle."""
    import nibabel as nib
    from nibabel.orientations import axcodes2ornt, ornt_transform

    rng = np.random.default_rng(0)
    for case in range(number):
        shape = (20 + case, 24 - case, num_slices)
        label = np.zeros(shape, np.uint8)
        label[5:12, 4:10, :2] = 1
        label[5:12, 10:17, :2] = 3
        image = rng.normal(60, 5, shape) + 50 * (label == 1) + 100 * (label == 3)
        affine = np.diag([1.0, 1.25, 4.0, 1.0])
        affine[:3, 3] = (-10, 5, 3)
        to_codes = ornt_transform(
            axcodes2ornt("RAS"), axcodes2ornt(TINY_ORIENTATIONS[case % len(TINY_ORIENTATIONS)])
        )
        for folder, array in (("images", image.astype(np.float32)), ("labels", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            volume = nib.Nifti1Image(array, affine).as_reoriented(to_codes)
            volume.set_sform(volume.affine, 1)
            volume.set_qform(volume.affine, 2)
            nib.save(volume, root / folder / f"case_{case}.nii.gz")
    return root


def slice_tiny(
    volumes: Path, out: Path, split_counts: tuple[int, int, int], **changes: Any
) -> Path:
    """``samtune slice`` on these volumes, in this process."""
    from samtune.preprocessing.slice_volumes import slice_volumes

    slice_volumes(
        volumes / "images",
        volumes / "labels",
        **{
            "modality": "mr",
            "out": out,
            "split_counts": split_counts,
            "class_names": TINY_CLASSES,
            "workers": 1,
            "progress": False,
            **changes,
        },
    )
    return out


@pytest.fixture(scope="session")
def tiny_volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``images`` and ``labels`` of six cases of three slices."""
    return write_tiny_volumes(tmp_path_factory.mktemp("tiny_volumes"), 6, num_slices=3)


@pytest.fixture(scope="session")
def tiny_slices(tiny_volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their slices, two cases a split."""
    return slice_tiny(tiny_volumes, tmp_path_factory.mktemp("tiny") / "slices", (2, 2, 2))


@pytest.fixture(scope="session")
def mini_slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices of three cases of two slices, a case a split: where a run only has to run."""
    root = tmp_path_factory.mktemp("mini")
    return slice_tiny(write_tiny_volumes(root, 3, num_slices=2), root / "slices", (1, 1, 1))


@pytest.fixture(scope="session")
def loud() -> Callable[[Any, Path], None]:
    """See :func:`make_loud`."""
    return make_loud


@pytest.fixture(scope="session")
def odd_slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices of nine cases of two slices: ten to train on, three cases to validate, one to test."""
    root = tmp_path_factory.mktemp("odd")
    return slice_tiny(write_tiny_volumes(root, 9, num_slices=2), root / "slices", (5, 3, 1))


@pytest.fixture(scope="session")
def packaged_weights() -> Path:
    """The packaged weights of LiteMedSAM, or the test is skipped."""
    from samtune.networks.weights import find_weights

    try:
        return find_weights("lite_medsam")
    except FileNotFoundError as error:
        pytest.skip(f"needs LiteMedSAM's weights: {error}")


@pytest.fixture(scope="session")
def run_bundle() -> "Callable[..., ConfigWorkflow]":
    """``python -m monai.bundle run [run_id] --config_file ...``, in this process."""

    def call(config: str, run_id: str = "run", **overrides: Any) -> "ConfigWorkflow":
        from monai.bundle import create_workflow

        from samtune.training.paths import bundle_root

        workflow = create_workflow(
            config_file=f"{bundle_root('sam_finetune')}/configs/{config}.yaml",
            run_id=run_id,
            logging_file=False,  # would take pytest's handlers off the root logger
            **overrides,
        )
        workflow.run()
        workflow.finalize()
        return workflow

    return call


@dataclass(frozen=True)
class TinyRun:
    """A finished run.

    Attributes:
        path: its folder.
        settings: overrides of train.yaml it ran with, but for ``runs_dir`` and ``run_name``.
        workflow: holds its objects.
        after_epoch_1: copy of the folder as a kill after the first epoch would have left it.
    """

    path: Path
    settings: dict[str, Any]
    workflow: "ConfigWorkflow"
    after_epoch_1: Path


@pytest.fixture(scope="session")
def tiny_run(
    tiny_slices: Path,
    packaged_weights: Path,
    run_bundle: "Callable[..., ConfigWorkflow]",
    tmp_path_factory: pytest.TempPathFactory,
) -> TinyRun:
    """LiteMedSAM fine-tuned for three epochs with random transforms and dropout, uninterrupted."""
    from samtune.training.checkpoint import RunCheckpoint

    runs = tmp_path_factory.mktemp("runs")
    settings = {
        "dataset_dir": str(tiny_slices),
        "epochs": 3,
        "batch_size": 4,
        "views": 2,
        "rank": 2,
        "blocks": "last:2",
        "decoder": "full",
        "dropout": 0.2,
        "learning_rate": 1e-3,
        "device": "cpu",
    }
    save = RunCheckpoint._save

    def save_and_copy(handler: RunCheckpoint, engine: Any) -> None:
        save(handler, engine)
        if engine.state.epoch == 1:
            shutil.copytree(handler.path, runs / "after_epoch_1")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunCheckpoint, "_save", save_and_copy)
        workflow = run_bundle("train", "training", **settings, runs_dir=str(runs), run_name="whole")
    return TinyRun(runs / "whole", settings, workflow, runs / "after_epoch_1")


def make_loud(network: Any, slices: Path) -> None:
    """Change the class head so that all classes are predicted, in patches.

    A few steps of training don't leave the plateau on which a slice is of one class. Here each
    class's output weights are random, but put its mean logit a bit below the background's zero.
    """
    import torch

    from samtune.preprocessing.model_frame import image_to_frame
    from samtune.preprocessing.slice_file import read_slice_file

    images, _ = read_slice_file(slices / "slices/case_0_000.npz")
    features: list[torch.Tensor] = []
    hook = network.mask_decoder.output_upscaling.register_forward_hook(
        lambda module, inputs, output: features.append(output)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network(image_to_frame(torch.from_numpy(images), network.image_size, "medsam")[None])
        hook.remove()
        mean = features[0].mean((0, 2, 3))
        for hypernetwork in network.class_head.hypernetworks:
            weights = torch.randn(mean.shape, generator=generator)
            deviation = torch.einsum("c,bchw->bhw", weights, features[0]).std()
            offset = weights @ mean + 0.4 * deviation
            hypernetwork.layers[-1].weight.zero_()
            hypernetwork.layers[-1].bias.copy_(weights - mean * offset / (mean @ mean))
        network.class_head.bias.zero_()


@pytest.fixture(scope="session")
def loud_run(
    tiny_run: TinyRun, tiny_slices: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run with its best adapter changed so that all classes are predicted."""
    from samtune.peft.adapter_file import save_adapter
    from samtune.training.run_folder import load_run

    path = tmp_path_factory.mktemp("loud") / "run"
    shutil.copytree(tiny_run.path, path)
    network = load_run(path).network("last")
    make_loud(network, tiny_slices)
    save_adapter(path / "adapter_best.safetensors", network, peft=network.peft)
    return path
