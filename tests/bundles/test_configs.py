"""The bundle's configs and metadata as MONAI reads them."""

import json
import re
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties

from samtune.training.network import build_network

CONFIGS = Path(__file__).resolve().parents[2] / "bundles/sam_finetune/configs"
NAMES = ("train", "evaluate", "inference", "zero_shot")


@pytest.fixture
def parser(monkeypatch):
    monkeypatch.setenv("MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")

    def parse(name):
        parsed = ConfigParser()
        parsed.read_config(str(CONFIGS / f"{name}.yaml"))
        parsed.read_meta(str(CONFIGS / "metadata.json"))
        return parsed

    return parse


@pytest.mark.parametrize("name", NAMES)
def test_configs_have_no_key_twice_no_anchor_and_no_path_of_a_machine(parser, name):
    parser(name)  # a key twice is an error here, see the next test
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert not re.search(r"(^|\s)(&\w|\*\w|<<:)", text)
    assert not re.search(r"[\s:'\"]/(home|work|workspace|data|mnt|root|tmp)\b", text)


def test_a_key_twice_would_be_found(parser, tmp_path):
    parser("train")
    (tmp_path / "twice.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(ValueError, match=r"[Dd]uplicate key"):
        ConfigParser().read_config(str(tmp_path / "twice.yaml"))


@pytest.mark.parametrize(
    ("name", "properties"),
    [
        ("train", TrainProperties),
        ("inference", InferProperties),
        ("evaluate", InferProperties),
        ("zero_shot", InferProperties),
    ],
)
def test_required_properties_are_there_and_optional_ones_go_by_their_ids(parser, name, properties):
    config = parser(name)
    for title, entry in {**properties, **MetaProperties}.items():
        if entry["required"]:
            assert entry["id"] in config, title
        reference = entry.get("refer_id")
        if reference is None:
            continue
        used = config.get(reference)  # the engine's argument that takes the property
        if reference in ("validator", "interval"):
            handlers = config["train::handlers"]
            (used,) = [h[reference] for h in handlers if h["_target_"] == "ValidationHandler"]
        if used is not None:
            assert used == f"@{entry['id']}", title
    for title in ("train_dataset_data", "val_dataset_data", "dataset_data"):  # zoo and MONAI Label
        if title in properties:
            assert properties[title]["id"] in config, title


def test_metadata_fits_the_network_and_the_environment_of_the_tests(repo_root):
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    pins = dict(
        line.lower().split("==")
        for line in (repo_root / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    assert metadata["version"] in metadata["changelog"]
    found = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }
    assert {name: pins[name.lower()].split("+")[0] for name in found} == found
    keys = ("name", "task", "description", "authors", "copyright")
    assert all(metadata[key] for key in keys)
    network = build_network(checkpoint="random", num_classes=2).eval()
    image = metadata["network_data_format"]["inputs"]["image"]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    with torch.no_grad():
        logits = network(torch.rand(1, image["num_channels"], *image["spatial_shape"]))
    assert list(logits.shape) == [1, pred["num_channels"], *pred["spatial_shape"]]
    assert str(logits.dtype) == f"torch.{pred['dtype']}"
    assert len(pred["channel_def"]) == pred["num_channels"]
