"""The facts of a run folder for its report; whatever is not there is said, not an error."""

import csv
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from samtune.evaluation.report.facts import CaseVolume, RunFacts
from samtune.evaluation.report.scores import CaseScore, parse_scores
from samtune.networks.weights import sha256_of
from samtune.preprocessing.contact_sheet import upright
from samtune.preprocessing.label_files import is_picture
from samtune.preprocessing.manifest import MANIFEST_NAME, Manifest, load_manifest
from samtune.preprocessing.slice_file import read_slice_file
from samtune.preprocessing.slicing import slice_spacing, volume_to_slices
from samtune.preprocessing.volumes import case_id, read_label, volume_suffix
from samtune.training.case_stream import image_volume, reference_volume
from samtune.training.run_folder import load_run
from samtune.training.run_record import RUN_FILE, flat, read_object

CURVE_FILE = "curve.csv"


def run_facts(
    run: str | Path, *, slices: str | Path | None = None, split: str = "test"
) -> RunFacts:
    """Read what a report of a run shows.

    Args:
        run: the folder; ``run.json``, ``curve.csv``, ``metrics_SPLIT.csv`` with its companion and
            ``predictions_SPLIT`` are used where they are there.
        slices: folder of the slices, for the pictures; None: the one the run was trained on.
        split: which cases.

    Raises:
        FileNotFoundError: the folder holds neither ``run.json`` nor metrics of the split.
        ValueError: a file that is there is damaged; names it.
    """
    run = Path(run)
    table = run / f"metrics_{split}.csv"
    if not (run / RUN_FILE).is_file() and not table.is_file():
        msg = f"'{run}' is not the folder of a run: it has neither {RUN_FILE} nor {table.name}"
        raise FileNotFoundError(msg)
    missing: list[str] = []
    record = _record(run, missing)
    scores: list[CaseScore] = []
    companion: dict[str, Any] = {}
    if table.is_file():
        scores = parse_scores(table.read_text(encoding="utf-8"), table)
        companion = _companion(table, missing)
    else:
        missing.append(
            f"There are no metrics of the {split} cases ({table.name}): score the run with "
            "evaluate.yaml."
        )
    curve = _curve(run / CURVE_FILE)
    if not curve:
        missing.append(f"There is no learning curve ({CURVE_FILE}).")
    pictures = _pictures(run, record, slices, split, missing) if scores else None
    protocol = companion.get("protocol") or {}
    return RunFacts(
        name=run.resolve().name,
        scores=scores,
        split=split,
        overview=_overview(record, scores),
        curve=curve,
        parameters=record.get("parameters") or {},
        settings=_settings(record),
        versions=_versions(record, companion),
        protocol={key: _text(value) for key, value in protocol.items()},
        patients={str(k): str(v) for k, v in (companion.get("patients") or {}).items()},
        failures={str(k): str(v) for k, v in (companion.get("failures") or {}).items()},
        missing=missing,
        load_case=pictures,
    )


class CasePictures:
    """Gives the pictures of a case from slice files and predicted volumes.

    Args:
        manifest: of the slices.
        predictions: case to its label file.
    """

    def __init__(self, manifest: Manifest, predictions: Mapping[str, Path]) -> None:
        self.manifest = manifest
        self.predictions = predictions
        # the page and the figures ask for the same cases, one after the other
        self._cached = lru_cache(maxsize=1)(self._read)

    def __call__(self, case: str) -> CaseVolume:
        """The case's slices, upright.

        Raises:
            ValueError: it is not in the manifest, or its prediction is on another grid.
            OSError: a file can't be read.
        """
        return self._cached(case)

    def _read(self, case: str) -> CaseVolume:
        geometry = self.manifest.cases[case].geometry if case in self.manifest.cases else None
        if geometry is None:
            msg = f"'{self.manifest.root}' has no case '{case}'"
            raise ValueError(msg)
        picture = is_picture(Path(self.manifest.cases[case].image_name))
        labelled = all(record.labels is not None for record in self.manifest.select(case=case))
        reference = prediction = None
        if labelled:
            reference = volume_to_slices(reference_volume(self.manifest, case), geometry)
        if case in self.predictions:
            prediction = volume_to_slices(read_label(self.predictions[case]).array, geometry)
        first_mm, second_mm = slice_spacing(geometry)
        return CaseVolume(
            image=_stand(_eight_bits(self._images(case)), picture),
            reference=None if reference is None else _stand(reference, picture),
            prediction=None if prediction is None else _stand(prediction, picture),
            # upright: rows run along the slice's second axis
            pixel_mm=(first_mm, second_mm) if picture else (second_mm, first_mm),
        )

    def _images(self, case: str) -> npt.NDArray[Any]:
        """Slices ``n h w`` on the case's own grid, or ``n h w 3`` as they are stored."""
        records = self.manifest.select(case=case)
        if read_slice_file(self.manifest.path(records[0]))[0].ndim == 3:
            return volume_to_slices(
                image_volume(self.manifest, case), self.manifest.cases[case].geometry
            )
        images = [read_slice_file(self.manifest.path(r))[0][r.position] for r in records]
        return np.stack(images)


def _stand(slices: npt.NDArray[Any], picture: bool) -> npt.NDArray[Any]:
    """Slices of RAS axes upright; rows and columns of a picture as they are."""
    return slices if picture else np.stack([upright(each) for each in slices])


def _eight_bits(images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Slice files of 16 bits, stretched from the case's smallest value to its largest."""
    if images.dtype == np.uint8:
        return images
    low, high = float(images.min()), float(images.max())
    scaled = (images.astype(np.float32) - low) * (255 / max(high - low, 1.0))
    return scaled.round().astype(np.uint8)


def _record(run: Path, missing: list[str]) -> dict[str, Any]:
    if not (run / RUN_FILE).is_file():
        missing.append(
            f"There is no {RUN_FILE}: settings, parameters and versions of the training are not "
            "known."
        )
        return {}
    return load_run(run).record


def _companion(table: Path, missing: list[str]) -> dict[str, Any]:
    file = table.with_suffix(".json")
    if not file.is_file():
        missing.append(f"There is no {file.name}, which says how {table.name} was made.")
        return {}
    companion = read_object(file)
    if companion.get("complete") is False:
        missing.append(f"{table.name} is not complete: its evaluation did not get to the end.")
    return companion


def _curve(file: Path) -> dict[str, list[float]]:
    """Number columns of ``curve.csv`` in its order; empty without a line."""
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as text:
        reader = csv.DictReader(text)
        rows = list(reader)
        columns = list(reader.fieldnames or ())
    try:
        curve = {key: [float(row[key] or "nan") for row in rows] for key in columns}
    except (TypeError, ValueError) as error:
        msg = f"'{file}' is damaged: {error}"
        raise ValueError(msg) from error
    return curve if rows and "epoch" in curve else {}


def _pictures(
    run: Path,
    record: Mapping[str, Any],
    slices: str | Path | None,
    split: str,
    missing: list[str],
) -> CasePictures | None:
    trained_on = (record.get("data") or {}).get("dataset_dir")
    wanted = slices or trained_on
    if wanted is None:
        missing.append("There are no pictures: name the folder of the slices with --slices.")
        return None
    if slices is None and not (Path(wanted) / MANIFEST_NAME).is_file():
        missing.append(
            f"There are no pictures: the slices it was trained on are not in '{wanted}'. Name "
            "their folder with --slices."
        )
        return None
    manifest = load_manifest(Path(wanted))
    known = (record.get("data") or {}).get("slices")
    if known is not None and known != sha256_of(manifest.root / MANIFEST_NAME):
        missing.append(f"The slices in '{manifest.root}' are others than those it was trained on.")
    folder = run / f"predictions_{split}"
    predictions = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if volume_suffix(path) is not None:
                predictions[case_id(path)] = path
            elif is_picture(path):
                predictions[path.stem] = path
    if not predictions:
        missing.append(
            f"There are no predictions ({folder.name}): pictures show the reference alone. "
            "evaluate.yaml writes them unless save_predictions is false."
        )
    return CasePictures(manifest, predictions)


def _overview(record: Mapping[str, Any], scores: Iterable[CaseScore]) -> dict[str, str]:
    network, task = record.get("network") or {}, record.get("task") or {}
    method = (network.get("peft") or {}).get("method") or {}
    overview = {
        "backbone": network.get("arch"),
        "method": method.get("name") if network else None,
        "image size": network.get("image_size"),
        "modality": (record.get("data") or {}).get("modality"),
        "classes": ", ".join((task.get("classes") or {}).values()) or None,
        "cases scored": len({score.case for score in scores}) or None,
    }
    return {key: str(value) for key, value in overview.items() if value is not None}


def _settings(record: Mapping[str, Any]) -> dict[str, str]:
    """Settings by dotted key, and the command."""
    settings = {key: _text(value) for key, value in flat(record.get("settings") or {}).items()}
    if record.get("command"):
        settings["command"] = " ".join(map(str, record["command"]))
    return settings


def _versions(record: Mapping[str, Any], companion: Mapping[str, Any]) -> dict[str, str]:
    versions = {str(k): _text(v) for k, v in (record.get("versions") or {}).items()}
    if record.get("git_commit"):
        versions["git commit"] = str(record["git_commit"])
    base = (record.get("network") or {}).get("base_sha256")
    if base:
        versions["base weights, SHA-256"] = str(base)
    for key, value in (companion.get("versions") or {}).items():
        versions[f"evaluation: {key}"] = _text(value)
    return versions


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return str(value)
