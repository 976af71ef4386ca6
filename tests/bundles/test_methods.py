"""An overlay for each PEFT method: built at every size there is, and trained a little."""

from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from samtune.networks import ARCHITECTURES, build_sam
from samtune.networks.architectures import Architecture
from samtune.networks.sam_vit import SamViT
from samtune.peft.adapt import adapt
from samtune.peft.registry import METHODS, build_method
from tests.tiny_encoders import SMALL_TINY_VIT

CONFIGS = Path(__file__).resolve().parents[2] / "bundles/sam_finetune/configs"
NO_POSITIONS = ("lite_medsam", "vit_t")


def overlay(name):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.yaml"), str(CONFIGS / "methods" / f"{name}.yaml")])
    return parser


def test_every_method_has_its_overlay():
    names = {path.stem for path in (CONFIGS / "methods").glob("*.yaml")}
    assert names == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_overlay_names_every_hyper_parameter_with_its_default(name):
    config = overlay(name).get_parsed_content("peft")
    assert config["name"] == name
    known = {f.name: f for f in fields(METHODS[name])}
    assert set(config) == {"name", *known}
    for key, field in known.items():
        if key != "blocks":
            default = field.default
            assert default is not MISSING
            assert config[key] == (list(default) if isinstance(default, tuple) else default), key


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", METHODS)
def test_overlay_builds_at_full_size(name, arch):
    if name == "pos_embed" and arch in NO_POSITIONS:
        pytest.skip(f"{arch} has no absolute position embedding")
    method = build_method(overlay(name).get_parsed_content("peft"))
    with torch.device("meta"):
        sam = build_sam(arch, "random")
    summary = adapt(sam, method, decoder="frozen")
    assert (summary.trainable > 0) == (name != "decoder_only")


@pytest.fixture
def tiny_archs(monkeypatch):
    """Two more architectures, for tests that train: TinyViT and SAM's ViT of 32 pixels."""
    sam_vit = partial(SamViT, image_size=32, dim=16, depth=2, num_heads=2, global_blocks=(1,))
    tiny_sam = Architecture(lambda _: sam_vit(), 32, 16, "medsam")
    monkeypatch.setitem(ARCHITECTURES, "tiny_vit", SMALL_TINY_VIT)
    monkeypatch.setitem(ARCHITECTURES, "tiny_sam", tiny_sam)


@pytest.mark.parametrize("arch", ["tiny_vit", "tiny_sam"])
@pytest.mark.parametrize("name", METHODS)
def test_two_steps_of_training(name, arch, mini_slices, tiny_archs, tmp_path):
    """The released training config with the overlay on a few real slice files."""
    if name == "qlora":
        pytest.skip("qlora needs CUDA")
    if name == "pos_embed" and arch == "tiny_vit":
        pytest.skip("TinyViT has no absolute position embedding")
    parser = overlay(name)
    settings = {"arch": arch, "checkpoint": "random", "dataset_dir": str(mini_slices)}
    settings |= {"runs_dir": str(tmp_path), "epochs": 2, "batch_size": 2, "views": 2}
    settings |= {"device": "cpu"}
    if "rank" in [f.name for f in fields(METHODS[name])]:
        settings["rank"] = 2
    parser.update(settings)
    for step in ("initialize", "training"):
        parser.get_parsed_content(step)
    run = tmp_path / str(parser.get_parsed_content("run_name"))
    assert (run / "adapter_last.safetensors").is_file()
    assert len((run / "curve.csv").read_text().splitlines()) == 3  # a head, two epochs
