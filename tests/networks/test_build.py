"""Building by name: what is loaded, and what is refused."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from samtune.networks import ARCHITECTURES, build_sam
from samtune.networks.architectures import Architecture
from samtune.networks.build import arch_of
from samtune.networks.sam_vit import SamViT
from samtune.networks.tiny_vit import TinyViT


def tiny_vit_b(image_size, dim=24):
    return SamViT(image_size=image_size, dim=dim, depth=2, num_heads=3, global_blocks=(1,))


def tiny_lite_medsam(_image_size):
    return TinyViT(
        patch_stride=1,
        dims=(8, 12, 20, 24),
        depths=(1, 1, 1, 1),
        num_heads=(1, 3, 5, 2),
    )


@pytest.fixture
def _tiny_lite_medsam(monkeypatch):
    """LiteMedSAM's layout at a size that costs nothing, under the name of the real one."""
    tiny = Architecture(tiny_lite_medsam, 256, 4, "medsam")
    monkeypatch.setitem(ARCHITECTURES, "lite_medsam", tiny)


@pytest.fixture
def _tiny_vit_b(monkeypatch):
    """SAM's ViT layout at a size that costs nothing, under the name of the real one."""
    monkeypatch.setitem(ARCHITECTURES, "vit_b", Architecture(tiny_vit_b, 64, 16, "sam"))


@pytest.fixture
def vit_file(_tiny_vit_b, tmp_path):
    path = tmp_path / "sam_vit_tiny.pth"
    torch.save(build_sam("vit_b", "random").state_dict(), path)
    return path


def same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.usefixtures("_tiny_lite_medsam")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_random_weights_saved_and_loaded_are_the_same_network(tmp_path, suffix):
    first = build_sam("lite_medsam", "random")
    path = tmp_path / f"base{suffix}"
    if suffix == ".pth":
        torch.save(first.state_dict(), path)
    else:
        save_file(first.state_dict(), path)
    second, third = (
        build_sam(arch, path, normalization="medsam") for arch in ("lite_medsam", "auto")
    )
    assert same_state(first, second)
    assert same_state(first, third)
    assert third.arch == "lite_medsam"
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    assert first.base_sha256 == "random"
    assert second.base_sha256 == third.base_sha256 == sha


def test_auto_recognises_a_sam_vit(vit_file):
    sam = build_sam("auto", vit_file, normalization="sam")
    assert (sam.arch, sam.image_size, sam.normalization) == ("vit_b", 64, "sam")
    assert same_state(sam, build_sam("vit_b", vit_file, normalization="sam"))


@pytest.mark.parametrize("arch", ["lite_medsam", "vit_b", "vit_l", "vit_h", "vit_t"])
def test_auto_tells_the_published_architectures_apart(arch):
    with torch.device("meta"):
        state = build_sam(arch, "random").state_dict()
    assert arch_of(state, "file.pth") == arch


def test_auto_refuses_what_it_does_not_know(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"backbone.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"other\.pth.*no known architecture.*backbone\.weight"):
        build_sam("auto", path)


def test_parts_are_in_evaluation_mode_and_image_size_sets_the_grid():
    with torch.device("meta"):
        for size in (128, 256, 512):
            sam = build_sam("lite_medsam", "random", image_size=size)
            assert sam.image_size == size
            assert sam.prompt_encoder.image_embedding_size == (size // 4, size // 4)
            assert sam.prompt_encoder.input_image_size == (size, size)
            assert not any(module.training for module in sam.modules())
        assert build_sam("lite_medsam", "random").image_size == 256
        vit = build_sam("vit_b", "random")
    assert (vit.image_size, vit.normalization) == (1024, "sam")
    assert vit.prompt_encoder.image_embedding_size == (64, 64)


@pytest.mark.usefixtures("_tiny_lite_medsam")
def test_size_of_the_image_changes_no_weight(tmp_path):
    path = tmp_path / "base.pth"
    torch.save(build_sam("lite_medsam", "random").state_dict(), path)
    small, large = (
        build_sam("lite_medsam", path, size, normalization="medsam") for size in (128, 256)
    )
    assert same_state(small, large)


def test_missing_weights_of_a_vit_say_what_to_pass():
    with pytest.raises(ValueError, match="vit_b has no packaged weights: pass checkpoint=FILE"):
        build_sam("vit_b")


def test_unknown_architecture_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'vit_x'.*auto, lite_medsam, vit_b, vit_l, vit_h"):
        build_sam("vit_x", "random")


def test_file_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth' does not exist"):
        build_sam("vit_b", tmp_path / "nowhere.pth")


def test_file_of_another_architecture_names_it_and_what_differs(vit_file):
    with pytest.raises(ValueError, match=r"tiny\.pth.*is a vit_b, not a lite_medsam: .*missing: "):
        build_sam("lite_medsam", vit_file)


def test_file_of_another_width_is_named_with_both_shapes(vit_file, monkeypatch):
    wide = Architecture(lambda size: tiny_vit_b(size, dim=48), 64, 16, "sam")
    monkeypatch.setitem(ARCHITECTURES, "vit_b", wide)
    shapes = r"pos_embed is \(1, 4, 4, 24\), the model expects \(1, 4, 4, 48\)"
    with pytest.raises(ValueError, match=shapes):
        build_sam("vit_b", vit_file)
