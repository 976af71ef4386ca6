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
        frame: index of the volume in 4D files and films; None for files of one volume.
        series: of the image, where its folder has several DICOM series: description, number or
            SeriesInstanceUID.
        is_hidden: the names of its files are not to be in any output; see
            :func:`samtune.preprocessing.hidden_ids.hide_ids`.
    """

    case: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...] = ()
    split: str | None = None
    patient: str | None = None
    frame: int | None = None
    series: str | None = None
    is_hidden: bool = False

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
    def image_name(self) -> str:
        """Name of the first image file, or the case id if that is hidden."""
        return self.case if self.is_hidden else self.image.name

    @property
    def label_name(self) -> str | None:
        """The same for the label, None if unlabelled."""
        if self.label is None:
            return None
        return self.case if self.is_hidden else self.label.name

    @property
    def image(self) -> Path:
        """The first image file."""
        return self.images[0]

    @property
    def label(self) -> Path | None:
        """The first label file, None if unlabelled."""
        return self.labels[0] if self.labels else None
