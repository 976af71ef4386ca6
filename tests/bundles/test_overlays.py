"""Every overlay there is, whatever folder it is in: differences of the base, and nothing else."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

CONFIGS = Path(__file__).resolve().parents[2] / "bundles/sam_finetune/configs"
OVERLAYS = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("*/**/*.yaml"))
METHODS = sorted(path.stem for path in (CONFIGS / "methods").glob("*.yaml"))
BACKBONES = sorted(path.stem for path in (CONFIGS / "backbones").glob("*.yaml"))
NO_POSITIONS = ("lite_medsam", "mobile_sam")


def parsed(*names):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in ("train.yaml", *names)])
    return parser


def leaves(value, path=""):
    """Paths of all values below a mapping, and the values."""
    if not isinstance(value, dict):
        return {path: value}
    found = {}
    for key, inner in value.items():
        found |= leaves(inner, f"{path}::{key}" if path else str(key).replace("#", "::"))
    return found


def unknown(overlay, base):
    """Keys of an overlay that set what the base doesn't have."""
    out = []
    for written in overlay:
        key = str(written).removeprefix("+").replace("#", "::")
        known, found = base, True
        for part in key.split("::"):
            if isinstance(known, list):
                found = part.isdigit() and int(part) < len(known)
                known = known[int(part)] if found else None
            else:
                found = isinstance(known, dict) and part in known
                known = known[part] if found else None
            if not found:
                out.append(str(written))
                break
    return out


def texts(value):
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [value] if isinstance(value, str) else []


def test_there_are_overlays_of_each_kind():
    assert {name.split("/")[0] for name in OVERLAYS} >= {"methods", "backbones", "data"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_an_overlay_sets_is_in_the_base(name):
    base = yaml.safe_load((CONFIGS / "train.yaml").read_text())
    overlay = yaml.safe_load((CONFIGS / name).read_text())
    # hyper-parameters of a method that is not the base's are keys of its overlay, which it uses
    own = [key for key in unknown(overlay, base) if f"@{key}" in texts(overlay.get("peft", {}))]
    assert name.startswith("methods/") or not own
    assert [key for key in unknown(overlay, base) if key not in own] == []
    for text in texts(overlay):
        assert not text.startswith("%"), "a macro is looked up from the current folder"
    targets = [v for path, v in leaves(overlay).items() if path.endswith("_target_")]
    assert all(target.startswith(("samtune.", "torch.", "monai.")) for target in targets)
    # what an overlay refers to is there too, in the base or in itself
    merged = parsed(name)
    for text in texts(overlay):
        for reference in re.findall(r"@([A-Za-z_][\w:#]*)", text) if text[:1] in "@$" else ():
            assert reference.replace("#", "::").rstrip(":") in merged, reference


@pytest.mark.parametrize("key", ["nothing", "peft::nothing::x", "train::handlers::99", "alpha::x"])
def test_a_key_that_the_base_lacks_would_be_found(key):
    base = yaml.safe_load((CONFIGS / "train.yaml").read_text())
    assert unknown({key: 1, "alpha": 2, "train::handlers::0": 3, "train#sampler": 4}, base) == [key]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_method_builds_with_every_backbone(backbone, mini_slices):
    """Through the configs, at full size, without memory."""
    built = []
    for method in METHODS:
        if method == "pos_embed" and backbone in NO_POSITIONS:
            continue
        parser = parsed(f"backbones/{backbone}.yaml", f"methods/{method}.yaml")
        parser.update({"checkpoint": "random", "dataset_dir": str(mini_slices)})
        with torch.device("meta"):
            network = parser.get_parsed_content("network_def")
        assert 0 < network.summary.trainable <= network.summary.total, method
        built.append(network.peft["method"]["name"])
    assert sorted(built) == [m for m in METHODS if m in built]
    assert len(built) >= len(METHODS) - 1
