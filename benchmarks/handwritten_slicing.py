"""What people write in place of ``samtune slice``: references for its speed, in plain NumPy."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from skimage.transform import resize

Array = npt.NDArray[Any]


def loop(images: Path, labels: Path, out: Path) -> None:
    """The slice files of ``samtune slice --modality mr --axis 2``, and nothing else.

    No check of anything, no manifest, no hash, no picture, nothing atomic.
    """
    (out / "slices").mkdir(parents=True)
    for path in sorted(images.glob("*.nii.gz")):
        case = path.name.removesuffix(".nii.gz")
        image, label = (_ras(folder / path.name) for folder in (images, labels))
        positive = image[image > 0]
        lower, upper = np.percentile(positive.astype(np.float64), (0.5, 99.5))
        grey = np.rint((np.clip(image, lower, upper) - lower) / (upper - lower) * 255)
        grey, label = grey.astype(np.uint8), label.astype(np.uint8)
        for index in range(grey.shape[2]):
            np.savez_compressed(
                out / "slices" / f"{case}_{index:03d}.npz",
                imgs=np.ascontiguousarray(grey[None, :, :, index]),
                gts=np.ascontiguousarray(label[None, :, :, index]),
            )


def medsam_way(image: Path, label: Path, out: Path, size: int, number: int) -> None:
    """MedSAM's published way to model input, from its description; ``number`` slices of a volume.

    The volume is scaled by percentiles of its foreground and kept as an archive; then each slice
    becomes three channels, is resized by splines of order 3, put to [0, 1] and stored at the
    model's size, its label by nearest neighbour.
    """
    out.mkdir(parents=True)
    array, mask = (np.asarray(_load(path).dataobj) for path in (image, label))
    lower, upper = np.percentile(array[array > 0], (0.5, 99.5))
    grey = np.clip(array, lower, upper)
    grey = (grey - grey.min()) / (grey.max() - grey.min()) * 255
    grey[array == 0] = 0
    np.savez_compressed(out / "volume.npz", imgs=grey.astype(np.uint8), gts=mask.astype(np.uint8))
    with np.load(out / "volume.npz") as archive:
        grey, mask = archive["imgs"], archive["gts"]
    for index in range(number):
        colour = np.repeat(grey[:, :, index, None], 3, axis=-1)
        resized = resize(  # type: ignore[no-untyped-call]
            *(colour, (size, size)),
            order=3,
            preserve_range=True,
            mode="constant",
            anti_aliasing=True,
        )
        span = np.clip(resized.max() - resized.min(), 1e-8, None)
        np.save(out / f"image_{index}.npy", (resized - resized.min()) / span)
        target = resize(  # type: ignore[no-untyped-call]
            *(mask[:, :, index], (size, size)),
            order=0,
            preserve_range=True,
            mode="constant",
            anti_aliasing=False,
        )
        np.save(out / f"label_{index}.npy", target.astype(np.uint8))


def medsam_load(out: Path, index: int) -> tuple[Array, Array]:
    """What its loader does with them: ``3 size size`` float32 and ``1 size size``."""
    image = np.load(out / f"image_{index}.npy").transpose(2, 0, 1).astype(np.float32)
    return np.ascontiguousarray(image), np.load(out / f"label_{index}.npy")[None]


def _load(path: Path) -> Any:
    return nib.load(path)  # typed as a file without voxels


def _ras(path: Path) -> Array:
    return np.asarray(nib.as_closest_canonical(_load(path)).dataobj)
