"""What a slice's logits say beside the class of each pixel: how sure that is, and of what else."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Transform

from samtune.preprocessing.slice_transforms import ToClassMapd, read_logits

LABEL, CONFIDENCE, PROBABILITIES = "label", "confidence", "probabilities"


class ReadSlicesd(Transform):
    """Turn ``pred`` logits of the frame into a record a pixel, on the slice's own pixels.

    ``pred`` becomes a structured array ``h w``: ``label``, the class value exactly as
    :class:`~samtune.preprocessing.slice_transforms.ToClassMapd` gives it; ``confidence``, the
    probability of what was decided there; and where asked ``probabilities`` of all channels, the
    background first with softmax, the foreground channels alone where they may overlap.

    Args:
        class_values, paint: as for ``ToClassMapd``.
        probabilities: keep those of all channels.
    """

    def __init__(
        self,
        class_values: Sequence[int],
        paint: Sequence[int] | None = None,
        *,
        probabilities: bool = False,
    ) -> None:
        self.classes = ToClassMapd(class_values, paint)
        self.probabilities = probabilities

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace ``pred``."""
        item = dict(data)
        item["pred"] = read_logits(item, self.read)
        return item

    def read(self, logits: torch.Tensor) -> npt.NDArray[Any]:
        """Logits ``c h w`` as records ``h w``."""
        label = self.classes.read(logits)
        # pixels of no tile: no class
        logits = torch.nan_to_num(logits.cpu(), neginf=-1e4)
        if self.classes.paint is None:
            all_channels = torch.softmax(logits, 0)
        else:
            all_channels = torch.sigmoid(logits[1:])
        kinds: list[Any] = [(LABEL, np.uint16), (CONFIDENCE, np.float32)]
        if self.probabilities:
            kinds.append((PROBABILITIES, np.float32, (len(all_channels),)))
        records = np.zeros(label.shape, np.dtype(kinds))
        records[LABEL] = label
        records[CONFIDENCE] = self._confidence(all_channels).numpy()
        if self.probabilities:
            records[PROBABILITIES] = all_channels.permute(1, 2, 0).numpy()
        return records

    def decide(
        self, probabilities: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
        """Class values and confidence ``i j k`` of probabilities ``i j k c``, as :meth:`read`."""
        label = np.zeros(probabilities.shape[:3], np.uint16)
        confidence = np.zeros(probabilities.shape[:3], np.float32)
        for number, part in enumerate(probabilities):  # in parts: no second copy of all channels
            channels = torch.from_numpy(part).movedim(-1, 0)
            odds = channels
            if self.classes.paint is not None:  # above 0 where the probability is above one half
                odds = torch.cat([torch.zeros_like(channels[:1]), channels - 0.5])
            label[number] = self.classes.read(odds)
            confidence[number] = self._confidence(channels).numpy()
        return label, confidence

    def _confidence(self, channels: torch.Tensor) -> torch.Tensor:
        """Probability ``h w`` of what is decided by those of all channels, ``c h w``."""
        if self.classes.paint is None:
            return channels.max(0).values
        chosen = 1 - channels.max(0).values  # background: that it is none of them
        for probability in channels:  # in the order of painting
            chosen = torch.where(probability > 0.5, probability, chosen)
        return chosen
