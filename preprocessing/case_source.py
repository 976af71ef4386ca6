"""One case of a dataset: which files it is made of, before any of them is read."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CaseSource:
    """Files of one case, and what the dataset says about it.

    Attributes:
        case: case id, unique in the dataset; slicing turns it into a name of files.
        images: files of the image: one, or several as channels or one file a slice, in order.
        labels: files of the label: none if unlabelled, one, or one file a class, in order. A
            ``.npz`` file that holds both is in both.
        split: ``train``, ``val`` or ``test`` where the dataset has a split, else None.
        patient: name shared by the cases of one person (two eyes, visits); None if unknown.
        frame: index of the volume in 4D files; None for files of one volume.
    """

    case: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...] = ()
    split: str | None = None
    patient: str | None = None
    frame: int | None = None

    def __post_init__(self) -> None:
        if not self.case or not self.images:
            raise ValueError(
                f"case {self.case!r} with {len(self.images)} images; expected a name and an image"
            )
        if self.split not in (None, "train", "val", "test"):
            raise ValueError(
                f"case {self.case!r}: split is {self.split!r}; expected train, val or test"
            )

    @property
    def image(self) -> Path:
        """The first image file."""
        return self.images[0]

    @property
    def label(self) -> Path | None:
        """The first label file, None if unlabelled."""
        return self.labels[0] if self.labels else None
