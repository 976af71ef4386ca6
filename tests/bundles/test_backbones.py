"""An overlay for each backbone: built at full size without memory, and trained a little."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from samtune.networks import ARCHITECTURES
from samtune.networks.architectures import Architecture
from samtune.networks.registry import REGISTRY, lookup
from samtune.networks.sam2_encoder import Hiera
from samtune.networks.sam_vit import SamViT
from tests.tiny_encoders import small_tiny_vit

CONFIGS = Path(__file__).resolve().parents[2] / "bundles/sam_finetune/configs"
NAMES = sorted(path.stem for path in (CONFIGS / "backbones").glob("*.yaml"))


def overlay(name, **settings):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.yaml"), str(CONFIGS / "backbones" / f"{name}.yaml")])
    parser.update({"checkpoint": "random", "device": "cpu", **settings})
    return parser


def test_every_architecture_has_an_overlay_and_every_key_is_in_the_base():
    base = yaml.safe_load((CONFIGS / "train.yaml").read_text())
    contents = [
        yaml.safe_load((CONFIGS / "backbones" / f"{name}.yaml").read_text()) for name in NAMES
    ]
    assert {content["arch"] for content in contents} == set(ARCHITECTURES)
    assert all(content.keys() <= base.keys() for content in contents)


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_architecture_and_normalization_are_the_registrys(name):
    content = yaml.safe_load((CONFIGS / "backbones" / f"{name}.yaml").read_text())
    checkpoint = lookup(content["checkpoint"]) if content["checkpoint"] else REGISTRY["lite_medsam"]
    assert checkpoint.name == name
    assert (checkpoint.arch, checkpoint.normalization) == (
        content["arch"],
        content["normalization"],
    )


@pytest.mark.parametrize("name", NAMES)
def test_overlay_builds_at_full_size(name, mini_slices):
    parser = overlay(name, dataset_dir=str(mini_slices))
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    size = 128 if name == "lite_medsam" else 1024
    assert (network.arch, network.image_size) == (parser.get("arch"), size)
    assert 0 < network.summary.trainable < network.summary.total
    assert network.summary.components["encoder"][0] > 0


def tiny(arch):
    """A tiny encoder of the architecture's kind."""
    if arch.startswith("sam2"):
        return partial(Hiera, dim=16, depths=(1, 1, 2, 1), num_heads=1, global_blocks=(3,))
    if arch.startswith("vit_") and arch != "vit_t":
        return partial(SamViT, dim=16, depth=2, num_heads=2, global_blocks=(1,))
    stride = ARCHITECTURES[arch].size_multiple // 4
    return lambda image_size: small_tiny_vit(patch_stride=stride)


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_training(name, mini_slices, monkeypatch, tmp_path):
    parser = overlay(
        name,
        dataset_dir=str(mini_slices),
        runs_dir=str(tmp_path),
        run_name="tiny",
        image_size=64,
        epochs=2,
        batch_size=2,
        views=2,
        rank=2,
    )
    real = ARCHITECTURES[parser.get("arch")]
    build = tiny(parser.get("arch"))
    architecture = Architecture(
        lambda size: build(image_size=size), 64, real.size_multiple, real.normalization
    )
    monkeypatch.setitem(ARCHITECTURES, parser.get("arch"), architecture)
    for step in ("initialize", "training"):
        parser.get_parsed_content(step)
    assert (tmp_path / "tiny" / "adapter_last.safetensors").is_file()
    assert len((tmp_path / "tiny" / "curve.csv").read_text().splitlines()) == 3
