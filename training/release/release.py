"""From a finished run to a bundle that others can run, check and cite."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samtune.atomic import write_atomically
from samtune.training.paths import adapter_path
from samtune.training.postprocess import FILE as POSTPROCESSING
from samtune.training.postprocess import load_postprocessing
from samtune.training.release.card import model_card
from samtune.training.release.checks import TABLE, NotReleasableError
from samtune.training.release.configs import BASE, write_configs
from samtune.training.release.files import (
    HASHES,
    METADATA,
    whole_folder,
    write_hashes,
    write_json,
)
from samtune.training.release.members import CheckedModel, check_model
from samtune.training.release.metadata import large_files_text, make_metadata
from samtune.training.release.origin import write_splits
from samtune.training.release.pooled import write_pooled
from samtune.training.release.portable import portable_record, without_paths
from samtune.training.release.sample import Sample, add_sample
from samtune.training.run_folder import MODELS
from samtune.training.run_record import RUN_FILE

OWN_LICENCE = "Apache-2.0"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_AGREE = 1e-6  # Dice of the sample beside its row in the table


def release_run(
    run: str | Path | Sequence[str | Path],
    *,
    name: str,
    version: str,
    licence: str,
    data_source: str,
    data_licence: str,
    out: str | Path | None = None,
    changes: str | None = None,
    sample: str | Path | None = None,
    sample_label: str | Path | None = None,
    adapter: str = "best",
    slices: str | Path | Sequence[str | Path] | None = None,
    metrics: str | Path | None = None,
    title: str | None = None,
    authors: str = "The samtune authors",
) -> Path:
    """Write the bundle of a run, or of an ensemble; it appears whole or not at all.

    Args:
        run: folder of a finished and evaluated run, or of the folds of a cross-validation, or
            several of either: an ensemble.
        name: lower case with task and data type, such as ``hippocampus_mr_lora``.
        version: ``1.2.3``; above that of the bundle that is already in ``out``.
        licence: of the bundle: ``Apache-2.0``, or a file with the text.
        data_source: where the data comes from, in a sentence.
        data_licence: of the data: its name, or a file with the text.
        out: folder of the bundle; ``None``: ``bundles/NAME`` of the current folder.
        changes: what is new; needed from the second version on.
        sample: a small scan to check the bundle with.
        sample_label: its reference label.
        adapter: ``best`` or ``last``.
        slices: folder of the slices it was trained on, of an ensemble one a member; ``None``:
            where they were.
        metrics: folder with the evaluation of an ensemble; ``None``: see :func:`check_model`.
        title, authors: for ``metadata.json``.

    Returns:
        The folder.

    Raises:
        NotReleasableError: the run is not ready, see :func:`check_model`; or its table is of
            another adapter.
        FileExistsError: the version is released, or ``out`` holds something else.
        ValueError: an argument is wrong or missing.
    """
    _check_texts(name, version, licence, data_source, data_licence)
    folder = Path("bundles") / name if out is None else Path(out)
    changelog = next_changelog(folder, version, changes)
    checked = check_model(
        _listed(run) or [], adapter=adapter, slices=_listed(slices), metrics=metrics
    )
    files = {
        "LICENSE": _licence(licence),
        "docs/data_license.txt": _data_licence(data_source, data_licence),
        "large_files.yml": large_files_text(checked.run),
    }
    with whole_folder(folder) as bundle:
        _copy_models(checked, bundle / MODELS, adapter)
        summary = _copy_metrics(checked, bundle / "docs")
        splits = write_splits(checked.slices, bundle / "docs")
        for path, text in files.items():
            write_atomically(bundle / path, text.encode())
        write_configs(bundle, checked.runs, name=name, sample=sample is not None)
        metadata = make_metadata(
            checked.runs,
            name=title or name.replace("_", " "),
            version=version,
            changelog=changelog,
            data_source=data_source,
            data_licence=_first_line(data_licence),
            licence=licence if licence == OWN_LICENCE else "see LICENSE",
            summary=summary,
            cases=checked.cases,
            authors=authors,
        )
        metadata["axes"] = checked.axes
        write_json(bundle / METADATA, metadata, sort_keys=False)
        made = None
        if sample is not None:
            label = None if sample_label is None else Path(sample_label)
            made = add_sample(bundle, Path(sample), label)
            _same_scores(checked, made)
        card = model_card(
            checked,
            metadata,
            folder=folder.resolve().name,
            summary=summary,
            splits=splits,
            sample=None if made is None else made.case,
        )
        write_atomically(bundle / "docs/README.md", card.encode())
        write_hashes(bundle)
    return folder


def next_changelog(folder: Path, version: str, changes: str | None) -> dict[str, str]:
    """Changelog with a new version in front.

    Raises:
        FileExistsError: that version is there, or the folder holds something else.
        ValueError: the version is not above the last one, or nothing says what is new.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return {version: changes or "First release"}
    metadata = folder / METADATA
    if not metadata.is_file() or not (folder / HASHES).is_file():
        msg = f"'{folder}' holds something else than a released bundle; choose another --out"
        raise FileExistsError(msg)
    before = json.loads(metadata.read_bytes())
    if version in before["changelog"]:
        msg = (
            f"'{folder}' has version {version} already: a released version is not overwritten; "
            "give the next one"
        )
        raise FileExistsError(msg)
    if _parts(version) <= _parts(before["version"]):
        msg = f"version {version} is not above {before['version']}, which is in '{folder}'"
        raise ValueError(msg)
    if not changes:
        msg = f"say what is new in {version} since {before['version']} (--changes)"
        raise ValueError(msg)
    return {version: changes, **before["changelog"]}


def _check_texts(
    name: str, version: str, licence: str, data_source: str, data_licence: str
) -> None:
    if not _NAME.fullmatch(name):
        msg = f"name '{name}': expected lower case letters, digits and _, as hippocampus_mr_lora"
        raise ValueError(msg)
    if not _VERSION.fullmatch(version):
        msg = f"version '{version}': expected three numbers, as 0.1.0"
        raise ValueError(msg)
    texts = {"licence": licence, "data source": data_source, "data licence": data_licence}
    lacking = [what for what, text in texts.items() if not text.strip()]
    if lacking:
        option = lacking[0].replace(" ", "-")
        msg = f"no {' and no '.join(lacking)} given (--{option}): nobody may use what has none"
        raise ValueError(msg)


def _parts(version: str) -> tuple[int, ...]:
    found = _VERSION.fullmatch(version)
    return tuple(map(int, found.groups())) if found else ()


def _licence(licence: str) -> str:
    if licence == OWN_LICENCE:
        return (BASE / "LICENSE").read_text(encoding="utf-8")
    path = Path(licence)
    if not path.is_file():
        msg = (
            f"licence '{licence}': expected {OWN_LICENCE}, or a file with the licence's text; "
            "there is no such file"
        )
        raise ValueError(msg)
    return path.read_text(encoding="utf-8")


def _data_licence(source: str, licence: str) -> str:
    path = Path(licence)
    text = path.read_text(encoding="utf-8") if path.is_file() else licence
    return f"Data: {source}\n\nLicence of the data:\n\n{text.rstrip()}\n"


def _first_line(licence: str) -> str:
    path = Path(licence)
    if not path.is_file():
        return licence
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return next((line for line in lines if line), path.name)


def _listed(given: str | Path | Sequence[str | Path] | None) -> list[str | Path] | None:
    return [given] if isinstance(given, str | Path) else None if given is None else list(given)


def _copy_models(checked: CheckedModel, models: Path, adapter: str) -> None:
    """Records and adapters; whichever adapter is released is the best one of the bundle."""
    steps = load_postprocessing(checked.runs, adapter)
    for number, (run, file) in enumerate(zip(checked.runs, checked.adapters, strict=True)):
        folder = models if len(checked.runs) == 1 else models / f"fold_{number}"
        write_json(folder / RUN_FILE, portable_record(run, released=adapter))
        shutil.copyfile(file.path, adapter_path(folder, "best"))
        if steps is not None:  # chosen for this adapter, in all members
            content = without_paths(json.loads((run.path / POSTPROCESSING).read_bytes()))
            write_json(folder / POSTPROCESSING, {**content, "adapter": "best"})


def _copy_metrics(checked: CheckedModel, docs: Path) -> list[dict[str, Any]]:
    """Tables into ``docs``; gives classes and regions of the summary."""
    docs.mkdir(parents=True)
    if len(checked.scores) > 1:
        return write_pooled(checked.scores, docs)
    scores = checked.scores[0]
    source = scores.folder
    for name in (TABLE, "metrics_test_summary.csv"):
        shutil.copyfile(source / name, docs / name)
    write_json(docs / "metrics_test.json", without_paths(scores.companion))
    summary = source / "metrics_test_summary.json"
    if not summary.is_file():
        msg = f"'{source}' was evaluated by an older samtune: no {summary.name}; evaluate again"
        raise NotReleasableError(msg)
    content = json.loads(summary.read_bytes())
    write_json(docs / summary.name, content, sort_keys=False)
    classes: list[dict[str, Any]] = content["classes"]
    return classes


def _same_scores(checked: CheckedModel, sample: Sample) -> None:
    """Raise where the table's row of the sample is not what the released adapter gives."""
    if checked.run.slicing.get("crop_margin") is not None:
        return  # scored on crops, predicted whole
    if checked.scored_by == "out-of-fold":
        return  # scored by one member, predicted by all
    table = {row["name"]: row["dice"] for row in checked.rows if row["case"] == sample.case}
    for name, found in sample.dice.items():
        given = table.get(name, "")
        if found is None or given in ("", "nan"):
            continue
        if abs(float(given) - found) > _AGREE:
            msg = (
                f"'{checked.scores[0].folder / TABLE}' says Dice {float(given):.4f} of "
                f"{sample.case} ({name}), the adapter to be released gives {found:.4f}: the table "
                "is of another adapter; evaluate again"
            )
            raise NotReleasableError(msg)
