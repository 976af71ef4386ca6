"""The recipe for a dozen small volumes, on two cases of two slices."""

from pathlib import Path

from monai.bundle import ConfigParser
from safetensors.torch import load_file

from samtune.networks import ARCHITECTURES
from tests.tiny_encoders import SMALL_TINY_VIT

CONFIGS = Path(__file__).resolve().parents[2] / "bundles/sam_finetune/configs"


def test_late_blocks_train_whole_on_neighbouring_slices(mini_slices, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny_vit", SMALL_TINY_VIT)
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.yaml"), str(CONFIGS / "few_volumes.yaml")])
    settings = {"arch": "tiny_vit", "checkpoint": "random", "dataset_dir": str(mini_slices)}
    settings |= {"runs_dir": str(tmp_path), "epochs": 1, "batch_size": 2, "image_size": 32}
    settings |= {"device": "cpu", "views": 2}
    parser.update(settings)
    for step in ("initialize", "training"):
        parser.get_parsed_content(step)
    dataset = parser.get_parsed_content("train::dataset")
    assert dataset.transform(dataset.data[0])["image"].shape[0] == 3
    trained = load_file(tmp_path / "few_volumes/adapter_last.safetensors")
    encoder = {name.split(".attn")[0] for name in trained if ".attn.qkv.weight" in name}
    assert len(encoder) == 2  # last:2, all of a block's weights
