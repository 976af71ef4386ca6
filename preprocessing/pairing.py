"""Which label belongs to which image, by file name."""

from dataclasses import dataclass
from pathlib import Path

from samtune.preprocessing.volumes import case_id, find_volumes

CHANNEL_SUFFIX = "_0000"  # nnU-Net names the first channel of case.nii.gz so
MAX_NAMED = 5


@dataclass(frozen=True)
class CaseFiles:
    """Files of one case; ``label`` is None if there are no labels at all."""

    case: str
    image: Path
    label: Path | None


def pair_files(images: Path, labels: Path | None) -> list[CaseFiles]:
    """Pair images with labels of the same name, sorted by case id.

    ``case_0000.nii.gz`` pairs with the label ``case.nii.gz`` (and is then ``case``) if no label
    is called ``case_0000``. Two single files are a pair whatever their names; a single image
    takes its label from a folder of more.

    Args:
        images: folder of volumes, or one volume.
        labels: folder of label volumes, or one, or None.

    Raises:
        FileNotFoundError: a path does not exist, or a folder has no volumes.
        ValueError: an image without label, a label without image, or two images for one label.
    """
    images = Path(images)
    found = {case_id(images): images} if images.is_file() else find_volumes(images)
    if labels is None:
        return [CaseFiles(case, path, None) for case, path in found.items()]
    labels = Path(labels)
    if labels.is_file():
        label_files = {case_id(labels): labels}
        if images.is_file():
            return [CaseFiles(case_id(labels), images, labels)]
    else:
        label_files = find_volumes(labels)
    pairs: dict[str, CaseFiles] = {}
    unpaired: list[str] = []
    for name, path in found.items():
        case = name
        if case not in label_files and name.endswith(CHANNEL_SUFFIX):
            case = name.removesuffix(CHANNEL_SUFFIX)
        if case not in label_files:
            unpaired.append(path.name)
        elif case in pairs:
            raise ValueError(
                f"{labels}: label {label_files[case].name} has two images, "
                f"{pairs[case].image.name} and {path.name}; expected one"
            )
        else:
            pairs[case] = CaseFiles(case, path, label_files[case])
    alone = [path.name for case, path in label_files.items() if case not in pairs]
    if unpaired:
        raise ValueError(
            f"{images}: {len(unpaired)} of {len(found)} images without a label in {labels}: "
            f"{_names(unpaired)}; expected a label of the same name"
            + (f"; labels without an image: {_names(alone)}" if alone else "")
        )
    if alone and not images.is_file():
        raise ValueError(
            f"{labels}: {len(alone)} of {len(label_files)} labels without an image in {images}: "
            f"{_names(alone)}; expected an image of the same name"
        )
    return [pairs[case] for case in sorted(pairs)]


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
