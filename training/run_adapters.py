"""The adapter files of a run that trains, beside the checkpoint that can make them again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from samtune.peft.adapter_file import adapter_holds, save_adapter
from samtune.training.network import AdaptedSegmenter
from samtune.training.paths import adapter_path


class RunAdapters:
    """Writes them, and tells whether one is as it should be.

    Args:
        folder: the run's.
        network: whose trained tensors they hold.
    """

    def __init__(self, folder: Path, network: AdaptedSegmenter) -> None:
        self.folder = folder
        self.network = network

    def has(self, which: str) -> bool:
        """Whether ``best`` or ``last`` is there."""
        return adapter_path(self.folder, which).is_file()

    def save(self, which: str, extra: dict[str, Any]) -> None:
        """Write ``best`` or ``last``.

        Raises:
            OSError: it can't be written.
        """
        path = adapter_path(self.folder, which)
        try:
            save_adapter(path, self.network, peft=self.network.peft, extra=extra)
        except SafetensorError as error:
            msg = f"'{path}' can't be written: {error}"
            raise OSError(msg) from error

    def is_written(
        self, which: str, extra: Mapping[str, Any], trained: Mapping[str, torch.Tensor]
    ) -> bool:
        """Whether the file is there, whole, with these tensors and what stands beside them."""
        return adapter_holds(adapter_path(self.folder, which), trained, extra)
