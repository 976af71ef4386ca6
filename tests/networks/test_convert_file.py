"""Converting and inspecting files."""

from functools import partial

import pytest
import torch
from safetensors import safe_open
from segment_anything.modeling import ImageEncoderViT

from samtune.networks import ARCHITECTURES, build_sam
from samtune.networks.architectures import Architecture
from samtune.networks.convert_file import convert_file
from samtune.networks.inspection import inspect_file
from samtune.networks.sam_vit import SamViT
from samtune.networks.weights import sha256_of


@pytest.fixture(autouse=True)
def _tiny_vit_b(monkeypatch):
    def encoder(size):
        return SamViT(image_size=size, dim=24, depth=2, num_heads=3, global_blocks=(1,))

    monkeypatch.setitem(ARCHITECTURES, "vit_b", Architecture(encoder, 64, 16, "sam"))


@pytest.fixture
def state(randomised):
    return randomised(build_sam("vit_b", "random")).state_dict()


@pytest.fixture
def file(state, tmp_path):
    torch.save(
        {"model": {f"module.{n}": t for n, t in state.items()}, "epoch": 3}, tmp_path / "in.pth"
    )
    return tmp_path / "in.pth"


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_published_names_in_either_format(file, state, tmp_path, suffix):
    out = convert_file(file, tmp_path / f"out{suffix}")
    assert same(build_sam("auto", out, normalization="sam").state_dict(), state)
    if suffix == ".pth":  # upstream reads it as it is
        plain = torch.load(out, weights_only=True)
        encoder = ImageEncoderViT(
            img_size=64,
            embed_dim=24,
            depth=2,
            num_heads=3,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=(1,),
        )
        prefix = "image_encoder."
        own = {n.removeprefix(prefix): t for n, t in plain.items() if n.startswith(prefix)}
        encoder.load_state_dict(own, strict=True)


def test_normalization_is_kept_in_the_header(file, tmp_path):
    out = convert_file(file, tmp_path / "out.safetensors", normalization="medsam")
    assert build_sam("auto", out).normalization == "medsam"  # no warning: it is known
    with safe_open(out, framework="pt") as opened:
        assert sha256_of(file) in opened.metadata()["samtune"]


def test_encoder_with_a_base(file, state, randomised, tmp_path):
    other = randomised(build_sam("vit_b", "random")).image_encoder.state_dict()
    torch.save(other, tmp_path / "encoder.pth")
    out = convert_file(tmp_path / "encoder.pth", tmp_path / "out.pth", base=file)
    found = build_sam("vit_b", out, normalization="sam")
    assert same(found.image_encoder.state_dict(), other)
    assert torch.equal(
        found.mask_decoder.mask_tokens.weight, state["mask_decoder.mask_tokens.weight"]
    )


def test_encoder_only_serves_a_file_with_another_head(file, state, tmp_path):
    """finetune-SAM's vanilla checkpoint, three mask tokens: refused whole, its encoder usable."""
    trained = {name: tensor + 1 for name, tensor in state.items()}
    trained["mask_decoder.mask_tokens.weight"] = torch.zeros(3, 256)
    torch.save(trained, tmp_path / "best.pth")
    with pytest.raises(ValueError, match="3 mask tokens"):
        convert_file(tmp_path / "best.pth", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
    encoder = convert_file(tmp_path / "best.pth", tmp_path / "encoder.pth", encoder_only=True)
    found = build_sam("auto", encoder, base=file, normalization="sam").state_dict()
    for name, tensor in found.items():
        expected = trained if name.startswith("image_encoder.") else state
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mask_decoder.iou_token.weight": None},
            r"doesn't fit vit_b: 1 missing: mask_decoder\.iou",
        ),
        ({"class_head.tokens": torch.zeros(1)}, r"1 unexpected: class_head\.tokens"),
        ({"mask_decoder.iou_token.weight": torch.zeros(1, 5)}, r"is \(1, 5\), .* \(1, 256\)"),
        ({"image_encoder.neck.0.weight": torch.zeros(2)}, "no known architecture"),
    ],
)
def test_what_does_not_fit_is_not_written(state, tmp_path, change, message):
    changed = {n: t for n, t in (state | change).items() if t is not None}
    torch.save(changed, tmp_path / "in.pth")
    with pytest.raises(ValueError, match=message):
        convert_file(tmp_path / "in.pth", tmp_path / "out.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["in.pth"]


def test_existing_files_and_other_suffixes(file, tmp_path):
    with pytest.raises(FileExistsError, match=r"in\.pth' exists already"):
        convert_file(file, file)
    with pytest.raises(ValueError, match=r"suffix must be \.pth or \.safetensors, got '\.bin'"):
        convert_file(file, tmp_path / "out.bin")


def test_inspection_of_a_sam(file, state):
    found = inspect_file(file)
    assert (found.layout, found.architecture, found.name) == ("sam", "vit_b", None)
    assert (found.normalization, found.normalization_known) == ("sam", False)
    assert found.num_tensors == len(state)
    assert found.num_parameters == sum(t.numel() for t in state.values())
    assert found.sha256 == sha256_of(file)
    assert found.dtypes == ("float32",)
    assert found.missing == ()
    assert found.problem is None


def test_inspection_of_an_encoder_and_of_what_is_no_sam(state, tmp_path):
    prefix = "image_encoder."
    encoder = {n.removeprefix(prefix): t.half() for n, t in state.items() if n.startswith(prefix)}
    torch.save(encoder, tmp_path / "encoder.pth")
    found = inspect_file(tmp_path / "encoder.pth")
    assert (found.layout, found.architecture) == ("encoder", "vit_b")
    assert found.missing == ("prompt_encoder", "mask_decoder")
    assert found.dtypes == ("float16",)
    torch.save({"w_a_000": torch.zeros(2, 3), "w_b_000": torch.zeros(3, 2)}, tmp_path / "a.pth")
    found = inspect_file(tmp_path / "a.pth")
    assert (found.layout, found.architecture) == ("lora_adapter", None)
    assert "convert-adapter" in found.problem
    torch.save({"backbone.weight": torch.zeros(2)}, tmp_path / "b.pth")
    found = inspect_file(tmp_path / "b.pth")
    assert (found.layout, found.normalization) == ("unknown", None)
    assert "no known architecture" in found.problem
