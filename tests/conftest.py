"""Fixtures for all tests. Nothing seeds globally: a test that wants chance takes a generator."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch

# No deadline: the first example pays for imports. Derandomised: two runs give the same result.
settings.register_profile("samtune", deadline=None, derandomize=True)
settings.load_profile("samtune")


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
