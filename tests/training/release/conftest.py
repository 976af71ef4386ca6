"""A tiny run that is finished, evaluated and says something, and its bundle."""

import csv
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samtune.training.release.release import release_run

ABOUT = {
    "name": "tiny_mr_lora",
    "version": "0.1.0",
    "licence": "Apache-2.0",
    "data_source": "Drawn rectangles",
    "data_licence": "CC0-1.0",
}


@pytest.fixture
def rehash() -> Callable[[Path], None]:
    """Makes ``SHA256SUMS`` agree with files that a test changed."""

    def write(bundle: Path) -> None:
        names = [line.split("  ")[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()]
        lines = [f"{hashlib.sha256((bundle / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
        (bundle / "SHA256SUMS").write_text("".join(lines))

    return write


@pytest.fixture(scope="session")
def scored_run(
    loud_run: Path, run_bundle: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run = tmp_path_factory.mktemp("scored") / "run"
    shutil.copytree(loud_run, run)
    run_bundle("evaluate", run_dir=str(run), device="cpu")
    return run


@pytest.fixture(scope="session")
def test_case(scored_run: Path) -> str:
    with (scored_run / "metrics_test.csv").open() as file:
        return next(csv.DictReader(file))["case"]


@pytest.fixture(scope="session")
def release(scored_run: Path, test_case: str, tiny_volumes: Path) -> Callable[..., Path]:
    """Release the run with its sample to a folder; keyword arguments change what is given."""

    def make(out: Path, *, run: Path = scored_run, **changes: Any) -> Path:
        sample = {
            "sample": tiny_volumes / "images" / f"{test_case}.nii.gz",
            "sample_label": tiny_volumes / "labels" / f"{test_case}.nii.gz",
        }
        return release_run(run, out=out, **{**ABOUT, **sample, **changes})

    return make


@pytest.fixture(scope="session")
def infer() -> Callable[..., None]:
    """Run a config of a bundle as MONAI does, ``inference.yaml`` unless told otherwise."""

    def call(bundle: Path, config: str = "inference.yaml", **overrides: Any) -> None:
        from monai.bundle import create_workflow

        workflow = create_workflow(
            config_file=str(bundle / "configs" / config),
            workflow_type="infer",
            logging_file=False,
            bundle_root=str(bundle),
            **{"device": "cpu", **{key: str(value) for key, value in overrides.items()}},
        )
        workflow.run()
        workflow.finalize()

    return call


@pytest.fixture(scope="session")
def released(release: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release(tmp_path_factory.mktemp("released") / "tiny_mr_lora")


@pytest.fixture
def bundle(released: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(released, tmp_path / "tiny_mr_lora"))


@pytest.fixture(scope="session")
def released_bare(release: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without a sample: nothing is predicted to verify it."""
    out = tmp_path_factory.mktemp("bare") / "tiny_mr_lora"
    return release(out, sample=None, sample_label=None)


@pytest.fixture
def bare(released_bare: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(released_bare, tmp_path / "bare"))
