"""A bundle built out with full weights, for programs that know no adapters."""

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml

from samtune.atomic import write_atomically
from samtune.peft.adapt import merge_adapters
from samtune.peft.protocol import NotMergeableError
from samtune.training.ensemble import open_runs
from samtune.training.network import AdaptedSegmenter
from samtune.training.release.config_text import set_header, set_keys
from samtune.training.release.configs import needs_samtune
from samtune.training.release.files import (
    METADATA,
    altered_files,
    files_of,
    read_hashes,
    whole_folder,
    write_hashes,
    write_json,
)
from samtune.training.release.metadata import data_format
from samtune.training.release.monai_configs import obstacles, pipeline
from samtune.training.release.whole_slices import WholeSlices, build_plain
from samtune.training.run_folder import TrainedRun

logger = logging.getLogger(__name__)
WEIGHTS = "models/model.pt"
SCRIPT = "models/model.ts"
_HEAD = "class_head."
_HERE = "samtune.training.release.whole_slices"


def materialise(
    bundle: str | Path,
    out: str | Path,
    *,
    torchscript: bool = False,
    checkpoint: str | Path | None = None,
) -> Path:
    """Copy a bundle to ``out`` with ``models/model.pt``, which its ``inference.yaml`` loads.

    For plain MR and CT volumes that config is of MONAI's transforms and only ``network_def`` is
    samtune's; for other data it is the released pipeline.

    Args:
        bundle: released bundle.
        out: folder to make.
        torchscript: also ``models/model.ts`` and ``configs/inference_ts.yaml``, which need MONAI
            alone.
        checkpoint: base weights; ``None``: the bundle's.

    Raises:
        FileExistsError: ``out`` is there and not empty.
        ValueError: a file is not as it was released; it is an ensemble; or TorchScript was asked
            for and MONAI's transforms can't do what the run needs.
    """
    bundle, out = Path(bundle), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = f"'{out}' exists already; choose another folder for the full weights"
        raise FileExistsError(msg)
    hashes = read_hashes(bundle)
    for name, wrong in altered_files(bundle).items():  # new hashes would make it look released
        msg = f"'{bundle / name}' is {wrong}; full weights are made of a bundle as it was released"
        raise ValueError(msg)
    run, *others = open_runs(bundle)
    if others:
        msg = (
            f"'{bundle}' is an ensemble of {1 + len(others)} runs: the mean of their probabilities "
            "is not the answer of any one network, which models/model.pt would have to be; use "
            "'samtune predict', or release a single run"
        )
        raise ValueError(msg)
    metadata = json.loads((bundle / METADATA).read_bytes())
    axes = [int(axis) for axis in metadata["axes"]]
    reasons = obstacles(run, axes)
    if torchscript and reasons:
        msg = (
            f"'{bundle}' can't run on MONAI alone: its transforms lack {'; '.join(reasons)}; "
            "without --torchscript models/model.pt is made for samtune's own pipeline"
        )
        raise ValueError(msg)
    network = run.network("best", checkpoint)
    config = _plain_config(network, merged=_merged(network))
    plain = build_plain(**config)
    plain.load_state_dict(_full_state(network))
    model = plain if reasons else WholeSlices(plain).eval()
    with whole_folder(out) as folder:
        for name in [name for name in files_of(bundle) if name in hashes]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, folder / name)
        torch.save(model.state_dict(), folder / WEIGHTS)
        write_atomically(folder / "large_files.yml", b"large_files: []\n")
        text = _own_pipeline(bundle, config) if reasons else _monai(run, axes[0], config)
        write_atomically(folder / "configs/inference.yaml", text.encode())
        # monai.bundle.load reads JSON alone
        write_json(folder / "configs/inference.json", yaml.safe_load(text), sort_keys=False)
        if not reasons:
            metadata["network_data_format"] = data_format(run, ["*", "*"], [0, 255])
        write_json(folder / METADATA, metadata, sort_keys=False)
        if torchscript:
            _script(model, folder / SCRIPT, metadata)
            text = _monai_alone(run, axes[0])
            write_atomically(folder / "configs/inference_ts.yaml", text.encode())
        write_hashes(folder)
    return out


def _merged(network: AdaptedSegmenter) -> bool:
    """Fold the adapters in, in place, where their method allows it."""
    try:
        merge_adapters(network)
    except NotMergeableError as error:
        logger.info("%s: its layers stay in %s", error, WEIGHTS)
        return False
    return True


def _full_state(network: AdaptedSegmenter) -> dict[str, torch.Tensor]:
    """All weights, names of classes folded into their tokens."""
    head = {f"{_HEAD}{n}": t for n, t in network.class_head.plain_state().items()}
    state = {n: t for n, t in network.state_dict().items() if not n.startswith(_HEAD)}
    return {n: t.detach().clone().contiguous() for n, t in {**state, **head}.items()}


def _plain_config(network: AdaptedSegmenter, *, merged: bool) -> dict[str, Any]:
    """Arguments of :func:`build_plain` for a network's full weights."""
    config: dict[str, Any] = {
        "arch": network.arch,
        "image_size": network.image_size,
        "normalization": network.normalization,
        "num_classes": network.num_classes,
        "class_names": network.class_names,
        "activation": network.activation,
    }
    if merged:
        return config
    return {**config, "peft": network.peft["method"], "decoder": network.peft["decoder"]}


def _loader() -> list[dict[str, Any]]:
    return [
        {
            "_target_": "CheckpointLoader",
            "load_path": f"$@bundle_root + '/{WEIGHTS}'",
            "load_dict": {"model": "@network"},
            "map_location": "@device",
        }
    ]


def _monai(run: TrainedRun, axis: int, config: dict[str, Any]) -> str:
    text = pipeline(
        run,
        axis,
        {
            "network_def": {"_target_": f"{_HERE}.build_whole_slices", **config},
            "network": "$@network_def.to(@device)",
            "handlers": _loader(),
            "initialize": needs_samtune(),
        },
    )
    return set_header(
        text,
        [
            "Segment the NIfTI files of a folder by MONAI's transforms; the network is samtune's:",
            "  python -m monai.bundle run --config_file configs/inference.yaml"
            " --dataset_dir SCANS --output_dir PREDICTIONS",
        ],
    )


def _monai_alone(run: TrainedRun, axis: int) -> str:
    text = pipeline(
        run,
        axis,
        {
            "network_def": {
                "_target_": "torch.jit.load",
                "f": f"$@bundle_root + '/{SCRIPT}'",
                "map_location": "@device",
            },
            "network": "@network_def",
            "handlers": [],
        },
    )
    return set_header(
        text,
        [
            "Segment the NIfTI files of a folder with MONAI and PyTorch alone, without samtune:",
            "  python -m monai.bundle run --config_file configs/inference_ts.yaml"
            " --dataset_dir SCANS --output_dir PREDICTIONS",
        ],
    )


def _own_pipeline(bundle: Path, config: dict[str, Any]) -> str:
    """The released config with a network that takes full weights."""
    name = "configs/inference.yaml"
    text = (bundle / name).read_text(encoding="utf-8")
    before = yaml.safe_load(text)
    loader = [{**one, "map_location": "@torch_device"} for one in _loader()]
    network = {"_target_": f"{_HERE}.build_plain", **config}
    changes = {"network_def": network, "handlers": [*loader, *before["handlers"]]}
    return set_keys(text, changes, name=name)


def _script(model: torch.nn.Module, path: Path, metadata: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but what MONAI and C++ programs load
        scripted = torch.jit.script(model)
        # where monai.bundle.load looks for it
        inside = {"metadata.json": json.dumps(metadata, sort_keys=True)}
        torch.jit.save(scripted, str(path), _extra_files=inside)
