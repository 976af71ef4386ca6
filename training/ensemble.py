"""Several runs as one model: which folders are meant, whether they fit, the network of all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from samtune.networks.weights import sha256_of
from samtune.peft.adapt import trained_state
from samtune.peft.adapter_file import load_adapter
from samtune.preprocessing.manifest import Manifest
from samtune.training.averaging import AveragedSegmenter, check_flips
from samtune.training.joined import open_slices
from samtune.training.network import AdaptedSegmenter
from samtune.training.paths import adapter_path
from samtune.training.postprocess import Postprocessing
from samtune.training.run_folder import MODELS, TrainedRun, load_run
from samtune.training.run_record import RUN_FILE

FOLD_PATTERN = "fold_*"
ANCHOR = ".anchor"  # of a basis that is turned to the signs an adapter refers to


def open_runs(
    path: str | Path,
    others: str | Path | Sequence[str | Path] | None = None,
    *,
    planes: bool = False,
) -> list[TrainedRun]:
    """The runs that are meant by a folder, or by several.

    Args:
        path: folder of a run, or a folder with the runs of a cross-validation in ``fold_0``,
            ``fold_1`` and so on; or a released bundle of either.
        others: more of either.
        planes: they may make a scan into slices differently, as along other axes; see
            :func:`samtune.training.planes.cut_alike`.

    Raises:
        FileNotFoundError: one is neither.
        ValueError: a run is named twice, or the runs differ in what they segment or, without
            ``planes``, in how a scan is made into slices; says in what.
    """
    listed = [others] if isinstance(others, str | Path) else list(others or [])
    runs = [run for folder in [path, *listed] for run in _runs_of(Path(folder))]
    seen: dict[Path, Path] = {}
    for run in runs:
        if run.path.resolve() in seen:
            msg = f"run '{run.path}' is in the ensemble twice"
            raise ValueError(msg)
        seen[run.path.resolve()] = run.path
    for run in runs[1:]:
        both = f"runs '{runs[0].path}' and '{run.path}'"
        different = _differences(_meaning(runs[0]), _meaning(run))
        if different:
            msg = f"{both} can't be an ensemble, they differ in {different}"
            raise ValueError(msg)
        different = "" if planes else _differences(cut_of(runs[0]), cut_of(run))
        if different:
            msg = (
                f"{both} don't cut a scan alike, they differ in {different}: such an ensemble is "
                "for samtune predict RUN --ensemble RUN ..., and samtune evaluate scores its files"
            )
            raise ValueError(msg)
    return runs


def _runs_of(folder: Path) -> list[TrainedRun]:
    if (folder / RUN_FILE).is_file():
        return [load_run(folder)]
    for place in (folder, folder / MODELS):
        folds = sorted(
            (one.parent for one in place.glob(f"{FOLD_PATTERN}/{RUN_FILE}")),
            key=lambda one: (len(one.name), one.name),  # fold_10 after fold_9
        )
        if folds:
            runs = [load_run(fold) for fold in folds]
            if not _is_released(place):  # its members were chosen, they may be some folds
                _check_folds(place, runs)
            return runs
    return [load_run(folder)]  # or it says what is missing


def _is_released(models: Path) -> bool:
    return models.name == MODELS and (models.parent / "configs/metadata.json").is_file()


def _check_folds(folder: Path, runs: Sequence[TrainedRun]) -> None:
    """Do nothing if the runs are all folds of one cross-validation, or of none.

    Raises:
        ValueError: folds are missing, or are of several.
    """
    dealt = [dict(run.record["settings"].get("data") or {}) for run in runs]
    numbers = [one.pop("fold", None) for one in dealt]
    if set(numbers) == {None}:
        return
    for run, number, one in zip(runs, numbers, dealt, strict=True):
        if number is None or one != dealt[0]:
            data = [each.record["settings"].get("data") for each in (runs[0], run)]
            msg = (
                f"'{runs[0].path}' and '{run.path}' are not of one cross-validation: data "
                f"{data[0]} and {data[1]}; remove what is left of another, or name the runs one "
                "by one"
            )
            raise ValueError(msg)
    if len(runs) < dealt[0]["folds"]:
        msg = (
            f"'{folder}' has {len(runs)} of the {dealt[0]['folds']} folds of a cross-validation; "
            "finish it, or name the runs one by one"
        )
        raise ValueError(msg)


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    return "; ".join(f"{k} {first[k]} and {second[k]}" for k in first if first[k] != second[k])


def _meaning(run: TrainedRun) -> dict[str, Any]:
    """What the members of an ensemble share: what they segment, of which grey values."""
    task = run.task.to_dict()
    return {
        "classes": task["classes"],
        "channels": task.get("channels"),
        "intensity": run.intensity,
    }


def cut_of(run: TrainedRun) -> dict[str, Any]:
    """How a run makes a scan into the images of its network."""
    return {
        "axis": run.axis,
        "slicing": {k: v for k, v in run.slicing.items() if not k.startswith("crop")},
        "neighbours": run.neighbours,
        "image_size": run.record["network"]["image_size"],
        "normalization": run.record["network"]["normalization"],
    }


def load_averaged(
    runs: Sequence[TrainedRun],
    adapter: str = "best",
    checkpoint: str | Path | None = None,
    flips: str | None = "none",
) -> AdaptedSegmenter | AveragedSegmenter:
    """The trained network of one run, or the mean of several or of flips; ready to predict.

    Runs that were adapted alike on the same base weights share one network: the base is read once,
    and what is frozen of it runs once an image.

    Args:
        runs: from :func:`open_runs`.
        adapter: ``best`` or ``last``.
        checkpoint: base weights of all; ``None``: those each was trained with.
        flips: see :class:`AveragedSegmenter`.

    Raises:
        FileNotFoundError, ValueError: see :meth:`TrainedRun.network`; or unknown flips, or a run
            with prompts among several.
    """
    flips = check_flips(flips)  # before anything is loaded
    if len(runs) == 1 and flips == "none":
        return runs[0].network(adapter, checkpoint)
    for run in runs:
        run.check_prompt_free()
    networks: list[AdaptedSegmenter] = []
    trained: list[list[Mapping[str, Tensor]]] = []
    where: dict[str, int] = {}
    for run in runs:
        key = repr((sorted(_base_of(run).items()), checkpoint))
        file = adapter_path(run.path, adapter)
        if key in where and file.is_file():
            number = where[key]
            load_adapter(networks[number], file, peft=networks[number].peft)
        else:
            number = len(networks)
            networks.append(run.network(adapter, checkpoint))
            trained.append([])
            where[key] = number
        # values that are turned to a basis belong to the network they were loaded into
        state = trained_state(networks[number])
        if any(name.endswith(ANCHOR) for name in state):
            del where[key]
        trained[number].append({name: tensor.clone() for name, tensor in state.items()})
    for number, sets in enumerate(trained):
        if len(sets) == 1:  # the network is as it was loaded
            trained[number] = []
    return AveragedSegmenter(networks, trained=trained, flips=flips).eval()


def batch_keys(network: nn.Module) -> list[str]:
    """What of a batch the network takes beside the image: for flips, how large each slice is."""
    return ["size_hw"] if isinstance(network, AveragedSegmenter) else []


def _base_of(run: TrainedRun) -> dict[str, str]:
    return {key: repr(value) for key, value in run.record["network"].items()}


def adapter_hashes(runs: Sequence[TrainedRun], adapter: str) -> dict[str, str]:
    """SHA-256 of each run's adapter file, by the run's folder as it was named."""
    return {str(run.path): sha256_of(adapter_path(run.path, adapter)) for run in runs}


def protocol(
    runs: Sequence[TrainedRun],
    adapter: str,
    flips: str | None = "none",
    postprocess: Postprocessing | None = None,
    prompting: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the companion of a table of metrics says about these predictions."""
    return {
        **(prompting or {"prompt": "none"}),
        "fine_tuned": adapter != "none",
        "adapter": adapter,
        "run": str(runs[0].path),
        **({"ensemble": [str(run.path) for run in runs]} if len(runs) > 1 else {}),
        "flips": check_flips(flips),
        "postprocess": None if postprocess is None else postprocess.describe(runs[0].task.classes),
    }


def check_unseen(runs: Sequence[TrainedRun], manifest: Manifest, split: str) -> None:
    """An ensemble must not be scored on cases that one of its members was trained on.

    A split that is the training data itself isn't checked, nor a member that has its training cases
    neither in ``run.json`` nor in slices that are still there.

    Raises:
        ValueError: names the case and the run.
    """
    if len(runs) == 1 or split == "train":
        return
    cases = {record.case for record in manifest.select(split)}
    for run in runs:
        both = sorted(cases & _training_cases(run))
        if both:
            msg = (
                f"run '{run.path}' was trained on {len(both)} of the {len(cases)} cases of the "
                f"split '{split}', such as '{both[0]}': the ensemble can't be scored on them"
            )
            raise ValueError(msg)


def _training_cases(run: TrainedRun) -> set[str]:
    split = run.record["data"].get("split")
    if split is not None:
        return set(split.get("train", []))
    try:  # older runs
        return {record.case for record in open_slices(run.dataset_dir).select("train")}
    except FileNotFoundError:
        return set()
