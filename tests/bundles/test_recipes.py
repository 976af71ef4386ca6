"""The five reference systems: each recipe trains on data in that project's own layout."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, create_workflow
from PIL import Image
from safetensors.torch import load_file

from samtune.cli import main
from samtune.networks.architectures import ARCHITECTURES, Architecture
from samtune.networks.sam2_encoder import Hiera
from samtune.networks.sam_vit import SamViT
from samtune.networks.tiny_vit import TinyViT
from samtune.training.paths import bundle_root

CONFIGS = Path(bundle_root("sam_finetune")) / "configs"
SIZE = (20, 24)  # of the images, pixels
ARCHS = {"vit_h": "vit_h", "vit_b": "vit_b", "mobile_sam": "vit_t"}
FINETUNE = "recipes/finetune_sam.yaml"
FINETUNE_SAM = [
    f"{part}_{how}" for part in ("decoder", "both") for how in ("vanilla", "adapter", "lora")
]
STRATEGIES = {
    "salt": ("recipes/salt.yaml",),
    **{
        name: ("recipes/salt.yaml", f"recipes/salt/{name}.yaml")
        for name in ("ssam", "svdbiastuning", "biastuning", "lora")
    },
}
PROMPTED = {
    "sam_adapter": ("prompted.yaml", "recipes/sam_adapter.yaml"),
    "sam_lora": ("prompted.yaml", "recipes/sam_lora.yaml"),
}


def tiny_vit_sam(size):
    """SAM's ViT with the twelve blocks that recipes name by index."""
    return SamViT(image_size=size, dim=16, depth=12, num_heads=2, global_blocks=(11,))


def tiny_hiera(size):
    return Hiera(image_size=size, dim=16, depths=(1, 2, 1, 1), num_heads=2, global_blocks=(2,))


def tiny_mobile(size):
    dims, heads = (8, 12, 20, 24), (1, 3, 5, 2)
    return TinyViT(patch_stride=4, dims=dims, depths=(1, 2, 2, 1), num_heads=heads)


@pytest.fixture
def tiny(monkeypatch):
    """The architectures of the recipes in miniature, under their names."""
    made = {"vit_b": tiny_vit_sam, "vit_h": tiny_vit_sam, "vit_t": tiny_mobile}
    for name, encoder in made.items():
        monkeypatch.setitem(ARCHITECTURES, name, Architecture(encoder, 1024, 16, "sam"))
    small = Architecture(tiny_hiera, 1024, 32, "sam")
    monkeypatch.setitem(ARCHITECTURES, "sam2.1_base_plus", small)


def picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def scan(rng, value=1):
    """A grey picture with a bright rectangle, and its mask."""
    mask = np.zeros(SIZE, np.uint8)
    mask[6:15, 5:18] = value
    return (rng.integers(0, 60, SIZE) + 120 * (mask > 0)).astype(np.uint8), mask


def salt_folder(root, rng):
    """``images/``, ``masks/`` of 0 and 255, and ``data_split.csv``."""
    rows = [("imgs", "split")]
    for name, split in (("a", "train"), ("b", "train"), ("c", "val"), ("d", "test")):
        image, mask = scan(rng, 255)
        picture(root / f"images/{name}.png", image)
        picture(root / f"masks/{name}_mask.png", mask)
        rows.append((f"{name}.png", split))
    with (root / "data_split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return []


def sam_adapter_folder(root, rng):
    """``SPLIT/image`` and ``SPLIT/mask`` of files of one name, masks 0 and 1."""
    for name, split in (("a", "train"), ("b", "train"), ("c", "val"), ("d", "test")):
        image, mask = scan(rng)
        picture(root / f"{split}/image/{name}.png", np.stack([image] * 3, -1))
        picture(root / f"{split}/mask/{name}.png", mask)
    return []


def sam_lora_folder(root, rng):
    """``SPLIT/case*.npz`` of slices N H W 3 and masks N H W."""
    for number, split in enumerate(("train", "val", "test"), 1):
        slices = [scan(rng) for _ in range(3 if split == "train" else 1)]
        (root / split).mkdir(parents=True)
        np.savez(
            root / split / f"case{number}.npz",
            imgs=np.stack([np.stack([image] * 3, -1) for image, _ in slices]),
            gts=np.stack([mask for _, mask in slices]),
        )
    return []


def finetune_sam_folder(root, rng):
    """Lists ``image,mask`` of files below the folder, masks 0 and 255 as in its demo."""
    for name, split in (("a", "train"), ("b", "train"), ("c", "val"), ("d", "test")):
        image, mask = scan(rng, 255)
        picture(root / f"images/{name}.png", np.stack([image] * 3, -1))
        picture(root / f"masks/{name}.png", mask)
        with (root / f"{split}_5shot.csv").open("a") as file:
            file.write(f"images/{name}.png,masks/{name}.png\n")
    return []


def oct_folder(root, rng):
    """Scans, and masks in colours: drusen red, scar green, fluid blue."""
    for person in ("1084498", "2291508", "2945668", "3173265"):
        image, mask = scan(rng)
        colours = np.zeros((*SIZE, 3), np.uint8)
        for channel, part in enumerate(np.array_split(np.flatnonzero(mask), 3)):
            colours.reshape(-1, 3)[part, channel] = 255
        picture(root / f"images/amd_{person}_1.jpg", image)
        picture(root / f"masks/amd_{person}_1.png", colours)
    return ["--dataset", "oct_amd", "--split-counts", "2", "1", "1"]


FOLDERS = {
    "salt": salt_folder,
    "sam_adapter": sam_adapter_folder,
    "sam_lora": sam_lora_folder,
    "finetune_sam": finetune_sam_folder,
    "oct": oct_folder,
}


@pytest.fixture(scope="module")
def sliced(tmp_path_factory):
    """Folder of slices of a system's miniature, by ``samtune slice``."""
    made = {}

    def slices(system):
        if system not in made:
            root = tmp_path_factory.mktemp(system)
            options = FOLDERS[system](root / "data", np.random.default_rng(0))
            if "--dataset" not in options:
                options += ["--modality", "rgb"]
            out = root / "slices"
            command = ["slice", str(root / "data"), "-o", str(out), "--workers", "1", *options]
            assert main(command) == 0
            made[system] = out
        return made[system]

    return slices


@pytest.fixture
def train(sliced, tiny, tmp_path):
    """A recipe for two epochs at 32 pixels with random weights.

    Its folder, its network, and the parameters from before.
    """

    def call(system, backbone, *overlays, **changes):
        files = [name for name in overlays if name == "prompted.yaml"]
        files += [f"backbones/{backbone}.yaml", *(n for n in overlays if n not in files)]
        workflow = create_workflow(
            config_file=[str(CONFIGS / name) for name in ("train.yaml", *files)],
            run_id="training",
            logging_file=False,
            dataset_dir=str(sliced(system)),
            runs_dir=str(tmp_path),
            checkpoint="random",
            image_size=32,
            epochs=2,
            device="cpu",
            **changes,
        )
        network = workflow.parser.get_parsed_content("network")
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        workflow.run()
        workflow.finalize()
        return tmp_path / workflow.parser.get_parsed_content("run_name"), network, before

    return call


def trained(path, network, before):
    """What the recipe names was trained and kept, nothing else was: settings, names."""
    with (path / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(np.isfinite(float(row["train_loss"])) for row in rows)
    parameters = dict(network.named_parameters())
    names = {name for name, p in parameters.items() if p.requires_grad}
    changed = {name for name, p in parameters.items() if not torch.equal(p, before[name])}
    assert changed
    assert changed <= names
    assert {part(name) for name in changed} == {part(name) for name in names}
    stored = load_file(path / "adapter_last.safetensors")
    assert all(torch.equal(stored[name], parameters[name]) for name in names)
    return json.loads((path / "run.json").read_text())["settings"], names


def part(name):
    """Encoder, decoder or class head."""
    return name.split(".")[0]


def block_of(name):
    return int(name.removeprefix("image_encoder.blocks.").split(".")[0])


def test_salt(train):
    settings, names = trained(*train("salt", "vit_b", *STRATEGIES["salt"]))
    assert {one["name"] for one in settings["peft"]} == {"salt", "layernorm", "pos_embed"}
    assert (settings["schedule"], settings["batch_size"]) == ("constant", 2)
    assert "image_encoder.pos_embed" in names
    decoder = [name for name in names if name.startswith("mask_decoder.")]
    assert len(decoder) == 2 * (2 * 4 + 1)
    assert all("norm" in name for name in decoder)


def test_sam_adapter(train):
    settings, names = trained(*train("sam_adapter", "vit_b", *PROMPTED["sam_adapter"]))
    scheme = settings["prompts"]["scheme"]
    assert (settings["prompts"]["kind"], scheme["box"]) == ("box", "tight")
    assert scheme["jitter_px"] == [0, 0]
    assert settings["seed"] == 21
    assert any(name.startswith("mask_decoder.transformer") for name in names)


def test_sam_lora(train):
    settings, names = trained(*train("sam_lora", "vit_b", *PROMPTED["sam_lora"]))
    scheme = settings["prompts"]["scheme"]
    assert (scheme["jitter_px"], scheme["num_points"]) == ([0, 4], 5)
    assert (settings["optimizer_name"], settings["accumulation"]) == ("adam", 8)
    assert all(".attn.qkv." in name for name in names)
    assert {block_of(name) for name in names} == set(range(12))


def test_finetune_sam(train):
    overlays = (FINETUNE, "recipes/finetune_sam/both_lora.yaml")
    settings, names = trained(*train("finetune_sam", "vit_b", *overlays))
    assert (settings["schedule"], settings["augmentation"]) == ("polynomial", "finetune_sam")
    assert {part(name) for name in names} == {"image_encoder", "mask_decoder", "class_head"}


def test_oct(train):
    overlays = ("data/oct_amd.yaml", "recipes/oct_lora.yaml")
    settings, names = trained(*train("oct", "vit_h", *overlays))
    assert (settings["peft"]["rank"], settings["early_stopping"]) == (16, 5)
    encoder = [name for name in names if name.startswith("image_encoder.")]
    assert {block_of(name) for name in encoder} == set(range(12))
    assert any(name.startswith("mask_decoder.") for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "overlays", "changes"),
    [
        ("salt", STRATEGIES["salt"], {"peft#0#reference": False, "peft#0#top": 3}),
        (
            "sam_lora",
            PROMPTED["sam_lora"],
            {"prompts": "box", "prompt_scheme": {"box": "tight", "jitter_px": [0, 4]}},
        ),
        (
            "finetune_sam",
            (FINETUNE, "recipes/finetune_sam/both_adapter.yaml"),
            {"blocks": [0, 1, 10, 11], "loss#squared_pred": True, "loss#include_background": True},
        ),
        *(
            (
                "finetune_sam",
                ("prompted.yaml", FINETUNE, "recipes/finetune_sam/both_lora.yaml"),
                {"prompts": prompts, "prompt_scheme": f"finetune_sam_{prompts}"},
            )
            for prompts in ("box", "point", "hybrid")
        ),
        # SAMed, as docs/from_other_tools.md has it
        (
            "finetune_sam",
            (),
            {
                "rank": 4,
                "alpha": None,
                "blocks": "all",
                "decoder": "full",
                "normalization": "medsam",
                "schedule": "polynomial",
                "loss#lambda_dice": 0.8,
                "loss#lambda_ce": 0.2,
            },
        ),
    ],
)
def test_options_that_the_pages_name(train, system, overlays, changes):
    trained(*train(system, "vit_b", *overlays, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vit_b", "sam2.1_base_plus"])
@pytest.mark.parametrize("strategy", [*STRATEGIES, "sam2"])
def test_every_strategy_of_salt(train, strategy, backbone):
    overlays = STRATEGIES.get(strategy, ("recipes/salt.yaml", "recipes/salt/sam2.yaml"))
    # LoRA has no rank above a layer's width; SALT cuts its own
    changes = {"peft#0#rank": 4} if strategy == "lora" else {}
    trained(*train("salt", backbone, *overlays, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ARCHS)
@pytest.mark.parametrize("how", FINETUNE_SAM)
def test_every_combination_of_finetune_sam(train, how, backbone):
    overlays = (FINETUNE, f"recipes/finetune_sam/{how}.yaml")
    trained(*train("finetune_sam", backbone, *overlays))


def build(slices, backbone, *overlays):
    """The network of a recipe at full size, without memory."""
    parser = ConfigParser()
    files = ("train.yaml", f"backbones/{backbone}.yaml", *overlays)
    parser.read_config([str(CONFIGS / name) for name in files])
    parser.update({"checkpoint": "random", "dataset_dir": str(slices)})
    with torch.device("meta"):
        return parser.get_parsed_content("network_def")


# parameters of the encoder and of the decoder as counted in the released code, class head apart;
# of SALT's by arXiv:2503.16055 with the norms and positions (786,432 + 36,864) that it trains too
POSITIONS = 512 // 16 * 512 // 16 * 768
NORMS, DECODER_NORMS = 12 * 2 * 2 * 768, 9 * 2 * 256
FULL_ENCODER = {"vit_h": 637_026_048, "vit_b": 89_670_912}


@pytest.mark.parametrize(
    ("strategy", "encoder", "decoder"),
    [
        # 48 layers, k = 410 by scale and shift, r = 256 on the other 358; both neck convolutions
        ("salt", 8_837_568 + 2 * (2 * 255 + 2) + NORMS + POSITIONS, DECODER_NORMS),
        ("ssam", 74_752 + NORMS + POSITIONS, DECODER_NORMS),
        ("lora", 38_666_240 + NORMS + POSITIONS, DECODER_NORMS),
        ("svdbiastuning", 73_728 + 101_376 + POSITIONS, 0),
    ],
)
def test_strategies_of_salt_train_what_the_paper_counts(mini_slices, strategy, encoder, decoder):
    parts = build(mini_slices, "vit_b", *STRATEGIES[strategy]).summary.components
    assert (parts["encoder"][0], parts["decoder"][0]) == (encoder, decoder)


def test_prompted_recipes_train_what_their_code_does(mini_slices):
    lora = build(mini_slices, "vit_b", *PROMPTED["sam_lora"]).summary
    assert lora.trainable == 147_456
    adapter = build(mini_slices, "vit_b", *PROMPTED["sam_adapter"]).summary
    assert adapter.components["encoder"][0] == 400_928


@pytest.mark.parametrize(("backbone", "count"), [("vit_b", 589_824), ("vit_h", 2_621_440)])
def test_oct_has_the_lora_of_its_readme(mini_slices, backbone, count):
    network = build(mini_slices, backbone, "data/oct_amd.yaml", "recipes/oct_lora.yaml")
    assert network.summary.components["encoder"][0] == count


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ARCHS)
@pytest.mark.parametrize("how", FINETUNE_SAM)
def test_all_18_combinations_build(mini_slices, how, backbone):
    overlays = (FINETUNE, f"recipes/finetune_sam/{how}.yaml")
    network = build(mini_slices, backbone, *overlays)
    parts = network.summary.components
    where, method = how.split("_")
    expected = {"decoder": 0, "both": FULL_ENCODER.get(backbone)}[where]
    if how == "both_lora" and backbone != "mobile_sam":
        expected = {"vit_b": 147_456, "vit_h": 655_360}[backbone]
    if how == "both_adapter":  # two of the three that its code makes; the third is for 3D
        expected = {"vit_b": 7_100_928, "vit_h": 32 * 2 * (2 * 1280 * 320 + 1600)}.get(backbone)
    if expected is not None:
        assert parts["encoder"][0] == expected
    assert parts["encoder"][0] > 0 or where == "decoder"
    # adapters as its code counts them; LoRA in its seven attentions
    counts = {"adapter": 132_352, "lora": 23_552}
    assert parts["decoder"][0] == counts.get(method, parts["decoder"][0])
    assert parts["decoder"][0] > 0
    assert network.arch == ARCHS[backbone]
