"""A dataset of one's own: bright discs on noise, drawn when they are asked for."""

import numpy as np
from torch.utils.data import Dataset


class Discs(Dataset):
    """Images ``h w`` from 0 to 1 with a disc (class 1) that may have a core (class 2).

    Args:
        number: of images.
        seed: the same one gives the same images; an index gives the same item each time.
        size: of the images, pixels.
    """

    def __init__(self, number: int, seed: int, size: int = 64) -> None:
        self.number = number
        self.seed = seed
        self.size = size

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < self.number:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, index])
        rows, columns = np.mgrid[: self.size, : self.size]
        row, column = rng.uniform(0.3, 0.7, 2) * self.size
        distance = np.hypot(rows - row, columns - column) / self.size
        label = (distance < 0.25).astype(np.uint8)
        if rng.random() < 0.5:
            label[distance < 0.1] = 2
        image = rng.normal(0.3, 0.05, label.shape) + 0.25 * label
        return {"image": image.clip(0, 1).astype(np.float32), "label": label}
