"""``inference.yaml`` of MONAI's own transforms, as ``samtune predict`` does plain volumes."""

from typing import Any

import yaml

from samtune.training.postprocess import FILE as POSTPROCESSING
from samtune.training.postprocess import load_postprocessing
from samtune.training.run_folder import TrainedRun

# limits of a volume's grey values, as in preprocessing.intensity: two percentiles of its voxels
# > 0, or its extremes where these are none or equal
_PERCENTILES = (
    "$lambda x: (lambda v, w: (lambda p: p if p[0] < p[1] else (float(w.min()), float(w.max())))"
    "(np.percentile(v, [{low}, {high}]).tolist() if v.size else (0.0, 0.0)))"
    "(x[x > 0].double().numpy(), x)"
)
_SCALE = (
    "$lambda x: (lambda p: ((x.double().clamp(p[0], p[1]) - p[0]) / (p[1] - p[0]) * 255)"
    ".round().float() if p[0] < p[1] else x * 0)({limits})"
)


def obstacles(run: TrainedRun, axes: list[int]) -> list[str]:
    """What of a run MONAI's transforms can't repeat; empty: all can be."""
    intensity, found = run.intensity, []
    if intensity["modality"] not in ("mr", "ct"):
        found.append(f"modality {intensity['modality']}")
    if intensity.get("scope", "volume") != "volume":
        found.append("intensity limits of each slice")
    if intensity.get("rule", "linear") != "linear" or intensity.get("bits", 8) != 8:
        found.append("preset medsam or 16 bits")
    kept = {key: value for key, value in run.slicing.items() if not key.startswith("crop")}
    if kept:
        found.append(f"slicing {', '.join(kept)}")
    if run.neighbours:
        found.append("neighbouring slices as channels (neighbours)")
    steps = load_postprocessing([run], "best")
    if steps is not None and steps.steps:
        found.append(f"the steps of {POSTPROCESSING}")
    if len(axes) != 1:
        found.append(f"cases cut along different axes {axes}")
    return found


def pipeline(run: TrainedRun, axis: int, network: dict[str, Any]) -> str:
    """Text of a config that loads, scales, segments slice by slice and writes label files.

    Args:
        axis: RAS axis that is cut.
        network: keys ``network_def``, ``network`` and ``handlers``.
    """
    values = [0, *(run.task.paint or run.task.class_values)]
    config: dict[str, Any] = {
        "imports": ["$import glob", "$import numpy as np", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/sample/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$[{'image': path} for path in sorted(glob.glob(@dataset_dir + '/*.nii*'))]",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        **{key: network[key] for key in ("network_def", "network")},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "reader": "NibabelReader"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
                {"_target_": "Lambdad", "keys": "image", "func": _intensity(run.intensity)},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {
            "_target_": "SliceInferer",
            "spatial_dim": axis,
            "roi_size": [-1, -1],
            "sw_batch_size": 4,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Lambdad", "keys": "pred", "func": _labels(run, values)},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": True,
                    "to_tensor": True,
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "",
                    "output_dtype": "$np.uint8" if max(values) < 256 else "$np.uint16",
                    "separate_folder": False,
                    "resample": False,
                },
            ],
        },
        "handlers": network["handlers"],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        **{key: network[key] for key in ("initialize",) if key in network},
        "run": ["$@evaluator.run()"],
    }
    return yaml.safe_dump(config, sort_keys=False, width=110, allow_unicode=True)


def _intensity(intensity: dict[str, Any]) -> str:
    if intensity.get("window_level") is not None:
        half = intensity["window_width"] / 2
        limits = str((intensity["window_level"] - half, intensity["window_level"] + half))
        return _SCALE.format(limits=limits)
    limits = _PERCENTILES.format(
        low=intensity["lower_percentile"], high=intensity["upper_percentile"]
    )
    return _SCALE.format(limits=f"({limits.removeprefix('$')})(x)")


def _labels(run: TrainedRun, values: list[int]) -> str:
    """Logits ``c i j k`` to label values ``1 i j k``, of a type that NIfTI has (no int64)."""
    dtype = "torch.uint8" if max(values) < 256 else "torch.int32"
    if run.task.paint is None:
        table = f"torch.tensor({values}, dtype={dtype}, device=x.device)"
        return f"$lambda x: {table}[x.argmax(0, keepdim=True)]"
    painted = "torch.zeros_like(x[:1])"
    for channel, value in enumerate(values[1:], start=1):  # later over earlier
        painted = f"torch.where(x[{channel}:{channel + 1}] > 0, {value}, {painted})"
    return f"$lambda x: ({painted}).to({dtype})"
