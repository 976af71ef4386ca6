"""The sample of a bundle: a scan, the label file that is expected, and their scores."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from samtune.evaluation.dice import dice_score
from samtune.evaluation.score_case import region_mask
from samtune.preprocessing.scans import find_scans
from samtune.preprocessing.volumes import check_same_grid, read_grid, read_label
from samtune.training.ensemble import open_runs
from samtune.training.predict import predict
from samtune.training.release.files import write_json
from samtune.training.run_folder import MODELS

FOLDER = "sample"
RECORD = f"{FOLDER}/sample.json"
LARGEST = 2_000_000  # bytes of image and label: a bundle is cloned and mailed


@dataclass(frozen=True)
class Sample:
    """What lies in ``sample/`` of a bundle.

    Attributes:
        case: name of the scan.
        image, expected: files.
        label: reference label, where there is one.
        dice: region to Dice of ``expected`` against ``label``, NaN as None.
    """

    case: str
    image: Path
    expected: Path
    label: Path | None
    dice: dict[str, float | None]


def add_sample(bundle: Path, image: Path, label: Path | None) -> Sample:
    """Copy a scan into a bundle, segment it with the bundle and keep what comes out.

    Raises:
        ValueError: no single scan, too large, or the label is on another grid.
    """
    scans = find_scans(image)
    if len(scans) != 1 or not image.is_file():
        msg = f"sample '{image}': expected one file with a scan"
        raise ValueError(msg)
    (case,) = scans
    size = image.stat().st_size + (0 if label is None else label.stat().st_size)
    if size > LARGEST:
        msg = f"sample '{image}' has {size:,} bytes, at most {LARGEST:,} go into a bundle"
        raise ValueError(msg)
    folders = {name: bundle / FOLDER / name for name in ("images", "labels", "expected")}
    (folders["images"]).mkdir(parents=True)
    copy = Path(shutil.copyfile(image, folders["images"] / image.name))
    reference = None
    if label is not None:
        check_same_grid(read_grid(image), read_grid(label))
        folders["labels"].mkdir()
        reference = Path(shutil.copyfile(label, folders["labels"] / label.name))
    with TemporaryDirectory() as made:  # only the label file is kept of what is written
        (label_file,) = predict(bundle / MODELS, copy, made, device="cpu", progress=False)
        folders["expected"].mkdir()
        expected = Path(shutil.copyfile(label_file, folders["expected"] / label_file.name))
    if not read_label(expected).array.any():
        msg = f"sample '{image}': nothing is found in it, so it would show nothing; take another"
        raise ValueError(msg)
    scores = {} if reference is None else dice_scores(bundle, expected, reference)
    record: dict[str, Any] = {
        "case": case,
        "image": copy.name,
        "expected": expected.name,
        "label": None if reference is None else reference.name,
        "dice": scores,
    }
    write_json(bundle / RECORD, record)
    return Sample(case, copy, expected, reference, scores)


def read_sample(bundle: Path) -> Sample | None:
    """The sample of a bundle, if it has one.

    Raises:
        ValueError: its record is damaged.
    """
    path = bundle / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        folder = bundle / FOLDER
        label = None if record["label"] is None else folder / "labels" / record["label"]
        return Sample(
            str(record["case"]),
            folder / "images" / record["image"],
            folder / "expected" / record["expected"],
            label,
            dict(record["dice"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        msg = f"'{path}' is damaged: {error!r}"
        raise ValueError(msg) from error


def dice_scores(bundle: Path, prediction: Path, reference: Path) -> dict[str, float | None]:
    """Dice of two label files by region; None: in neither."""
    found, truth = read_label(prediction).array, read_label(reference).array
    return {
        region.name: dice(region_mask(found, region), region_mask(truth, region))
        for region in open_runs(bundle)[0].task.scored()
    }


def dice(one: npt.NDArray[np.bool_], two: npt.NDArray[np.bool_]) -> float | None:
    """Dice of two masks; None: both empty."""
    score = dice_score(one, two)
    return None if np.isnan(score) else score
