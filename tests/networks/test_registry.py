"""The table of public checkpoints, and looking them up on this machine without the network."""

import hashlib
import re
import socket
import subprocess
import sys

import pytest
import torch
import yaml

from samtune.networks import ARCHITECTURES, build_sam, registry
from samtune.networks.architectures import Architecture
from samtune.networks.opening import choose_normalization
from samtune.networks.registry import REGISTRY, by_sha256, large_files, lookup
from samtune.networks.sam_vit import SamViT
from samtune.networks.weights import find_checkpoint, present, weights_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMTUNE_WEIGHTS_DIR", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def tiny(monkeypatch):
    def encoder(size):
        return SamViT(image_size=size, dim=24, depth=2, num_heads=3, global_blocks=(1,))

    monkeypatch.setitem(ARCHITECTURES, "vit_b", Architecture(encoder, 64, 16, "sam"))
    with torch.random.fork_rng(devices=[]):
        return build_sam("vit_b", "random").state_dict()


def publish(monkeypatch, path, name, **changes):
    """Let the registry know ``path``'s bytes under ``name``."""
    data = path.read_bytes()
    known = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}
    entry = registry.PublicCheckpoint(
        **{**vars(REGISTRY[name]), **known}  # a frozen dataclass keeps its fields there
    )
    monkeypatch.setitem(REGISTRY, name, entry)
    return entry


def test_entries_are_well_formed_and_distinct():
    for name, entry in REGISTRY.items():
        assert name == entry.name
        assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert entry.size is None or entry.size > 30e6
        assert entry.url is None or entry.url.startswith("https://")
        assert (entry.url is None) == (entry.package is not None)
        assert entry.normalization in ("sam", "medsam")
    for field in ("file", "url", "sha256"):
        values = [getattr(e, field) for e in REGISTRY.values() if getattr(e, field) is not None]
        assert len(set(values)) == len(values)


def test_files_hold_at_least_their_parameters_in_float32():
    """Counts of the published networks: 4 bytes each, and under 1 MB of names."""
    counts = {"vit_b": 93_735_472, "vit_l": 312_342_832, "vit_h": 641_090_608}
    for name, count in counts.items():
        assert 0 < REGISTRY[name].size - 4 * count < 1e6
    assert 0 < REGISTRY["medsam"].size - 4 * counts["vit_b"] < 1e6
    assert 0 < REGISTRY["sam-vit-base"].size - 4 * counts["vit_b"] < 1e6


def test_names_of_the_issue_are_there():
    assert {"vit_b", "vit_l", "vit_h", "medsam", "mobile_sam", "lite_medsam"} <= REGISTRY.keys()
    sizes = ("tiny", "small", "base_plus", "large")
    assert {f"{release}_{size}" for release in ("sam2", "sam2.1") for size in sizes} <= set(
        REGISTRY
    )
    assert lookup("sam_vit_b_01ec64.pth").name == "vit_b"
    assert lookup("medsam").normalization == "medsam"
    with pytest.raises(ValueError, match="'vit_x' is no known checkpoint, known are: vit_b, vit_l"):
        lookup("vit_x")


def test_unknown_hashes_are_not_matched_with_a_checkpoint_without_one():
    assert by_sha256("0" * 64) is None
    assert by_sha256(REGISTRY["vit_h"].sha256).name == "vit_h"


def test_folder_is_the_variables_or_the_users_cache(folder, monkeypatch, tmp_path):
    assert weights_folder() == folder
    monkeypatch.setenv("SAMTUNE_WEIGHTS_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert weights_folder() == tmp_path / "cache/samtune/weights"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert weights_folder().parts[-4:] == ("Library", "Caches", "samtune", "weights")


def test_a_path_wins_over_a_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "sam_vit_b_01ec64.pth").touch()
    assert find_checkpoint("vit_b") == folder / "sam_vit_b_01ec64.pth"
    assert find_checkpoint("sam_vit_b_01ec64.pth") == folder / "sam_vit_b_01ec64.pth"
    (folder / "mine.pth").touch()
    assert find_checkpoint("mine.pth") == folder / "mine.pth"
    (tmp_path / "vit_b").touch()
    assert find_checkpoint("vit_b").resolve() == tmp_path / "vit_b"


def test_what_is_not_here_says_how_to_get_it(folder):
    with pytest.raises(FileNotFoundError, match=r"'vit_b' \(sam_vit_b_01ec64\.pth\) is not in '"):
        find_checkpoint("vit_b")
    with pytest.raises(FileNotFoundError, match="samtune weights download vit_b"):
        build_sam(checkpoint="vit_b")
    with pytest.raises(FileNotFoundError, match=r"'mobilesam' does not exist .*mean mobile_sam\?"):
        find_checkpoint("mobilesam")
    assert present("vit_b") is None


def test_a_packaged_checkpoint_has_its_name_too(folder, packaged_weights):
    assert find_checkpoint("lite_medsam") == packaged_weights
    assert present("lite_medsam") == packaged_weights


@pytest.mark.usefixtures("no_network")
def test_by_name_without_touching_the_network(folder, tiny, monkeypatch):
    path = folder / "sam_vit_b_01ec64.pth"
    torch.save(tiny, path)
    entry = publish(monkeypatch, path, "vit_b")
    sam = build_sam(checkpoint="vit_b")
    assert (sam.arch, sam.normalization, sam.base_sha256) == ("vit_b", "sam", entry.sha256)
    assert all(torch.equal(tensor, tiny[name]) for name, tensor in sam.state_dict().items())


def test_importing_opens_no_socket():
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit('a socket was opened')\n"
        "socket.socket.__init__ = socket.create_connection = refuse\n"
        "import samtune.networks, samtune.networks.convert_file, samtune.networks.download\n"
        "import samtune.commands.weights, samtune.training.convert_adapter\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_normalization_goes_by_the_files_hash(tiny, tmp_path, monkeypatch):
    """MedSAM's file has SAM's layout; only its hash tells it."""
    path = tmp_path / "renamed.pth"
    torch.save(tiny, path)
    publish(monkeypatch, path, "medsam")
    assert build_sam("auto", path).normalization == "medsam"
    assert build_sam("auto", path, normalization="sam").normalization == "sam"


def test_architecture_goes_by_the_files_hash_where_its_tensors_fit_two(tiny, tmp_path, monkeypatch):
    path = tmp_path / "renamed.pth"
    torch.save(tiny, path)
    monkeypatch.setitem(ARCHITECTURES, "vit_b.1", ARCHITECTURES["vit_b"])
    publish(monkeypatch, path, "vit_b", arch="vit_b.1")
    assert build_sam("auto", path).arch == "vit_b.1"


def test_an_unknown_hash_warns_of_what_was_chosen(tiny, tmp_path):
    torch.save(tiny, tmp_path / "mine.pth")
    message = r"mine\.pth' is no published file.*normalization 'sam' \(ImageNet.*set normalization"
    with pytest.warns(UserWarning, match=message):
        sam = build_sam("vit_b", tmp_path / "mine.pth")
    assert sam.normalization == "sam"
    assert build_sam("vit_b", tmp_path / "mine.pth", normalization="medsam").normalization == (
        "medsam"
    )


def test_random_weights_warn_of_nothing(tiny):
    assert build_sam("vit_b", "random").normalization == "sam"
    assert build_sam("vit_b", "random", normalization="medsam").normalization == "medsam"
    with pytest.raises(ValueError, match="must be auto, sam or medsam, got 'imagenet'"):
        choose_normalization("imagenet", "sam", None)


def test_large_files_are_what_monai_reads(tmp_path, monkeypatch):
    content = large_files(["vit_b", "sam-vit-large"])
    assert content == {
        "large_files": [
            {
                "path": "models/sam_vit_b_01ec64.pth",
                "url": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
                "hash_val": REGISTRY["vit_b"].sha256,
                "hash_type": "sha256",
            },
            {
                "path": "models/sam-vit-large.safetensors",
                "url": "https://huggingface.co/facebook/sam-vit-large/resolve/main/model.safetensors",
            },
        ]
    }
    from monai.bundle import scripts

    asked = []
    monkeypatch.setattr(scripts, "download_url", lambda **entry: asked.append(entry))
    (tmp_path / "large_files.yml").write_text(yaml.safe_dump(content))
    scripts.download_large_files(bundle_path=str(tmp_path))
    assert [entry["hash_val"] for entry in asked if "hash_val" in entry] == [
        REGISTRY["vit_b"].sha256
    ]
    assert all(str(entry["filepath"]).startswith(str(tmp_path / "models")) for entry in asked)
    with pytest.raises(
        ValueError, match="lite_medsam has no URL: it comes with pip install medsam"
    ):
        large_files(["lite_medsam"])
