"""Proof that the packaged LiteMedSAM is loaded right: its zero-shot Dice with an oracle box.

    python -m samtune.benchmarks.zero_shot_lite_medsam IMAGES LABELS --cases 8

Mean Dice of the whole foreground in the first volumes by name: each volume clipped to the 0.5 and
99.5 percentiles of all its voxels, slices along axis 2 with at least 10 label pixels, the label's
own tight box as the prompt, Dice of a volume over those slices. On the hippocampus volumes of the
Medical Segmentation Decathlon 0.77 is expected of the first 8.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from samtune.evaluation.dice import dice_score
from samtune.networks import SamSegmenter, build_sam
from samtune.preprocessing.model_frame import box_to_frame, image_to_frame, logits_to_slice
from samtune.preprocessing.prompts import tight_box
from samtune.preprocessing.volumes import find_volumes, read_label, read_volume

MIN_PIXELS = 10


@torch.inference_mode()
def volume_dice(network: SamSegmenter, image: Path, label: Path) -> float:
    """Dice of one volume over its slices with at least ``MIN_PIXELS`` of label."""
    volume = read_volume(image).array.astype(np.float32)
    volume = volume.clip(*np.percentile(volume, (0.5, 99.5)))
    reference = read_label(label).array > 0
    preds, refs = [], []
    for index in range(volume.shape[2]):
        mask = reference[:, :, index]
        box = tight_box(mask)
        if box is None or mask.sum() < MIN_PIXELS:
            continue
        size = (mask.shape[0], mask.shape[1])
        slice_ = torch.from_numpy(np.ascontiguousarray(volume[:, :, index]))[None]
        frame = image_to_frame(slice_, network.image_size, "medsam")
        prompt = box_to_frame(torch.tensor([box], dtype=torch.float32), size, network.image_size)
        logits, _ = network(frame[None], boxes=prompt[None])
        preds.append((logits_to_slice(logits[0], size)[0] > 0).numpy())
        refs.append(mask)
    return dice_score(np.stack(preds), np.stack(refs))


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line a volume and the mean."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of NIfTI volumes")
    parser.add_argument("labels", type=Path, help="folder of label volumes of the same names")
    parser.add_argument("--cases", type=int, default=8, help="first N by name (default: 8)")
    parser.add_argument("--image-size", type=int, help="pixels (default: 256, as it was trained)")
    args = parser.parse_args(argv)
    network = SamSegmenter(build_sam("lite_medsam", image_size=args.image_size), 1).eval()
    labels = find_volumes(args.labels)
    scores = []
    for case, path in tqdm(list(find_volumes(args.images).items())[: args.cases], unit="volume"):
        scores.append(volume_dice(network, path, labels[case]))
        tqdm.write(f"{case}  {scores[-1]:.4f}")
    print(f"mean Dice of {len(scores)} volumes: {np.mean(scores):.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
