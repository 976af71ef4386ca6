"""Position tables at another size: against upstream's own run-time interpolation and torch's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from segment_anything.modeling.image_encoder import get_rel_pos

from samtune.networks import ARCHITECTURES, build_sam
from samtune.networks.architectures import Architecture
from samtune.networks.sam_vit import SamViT
from samtune.networks.tables import fit_tables, is_table, resize_pos_embed, resize_rel_pos


def tiny_vit(image_size):
    return SamViT(image_size=image_size, dim=24, depth=2, num_heads=3, global_blocks=(1,), window=3)


@pytest.fixture
def native(monkeypatch, tmp_path):
    """A file at the native size, 128, of a tiny ViT."""
    monkeypatch.setitem(ARCHITECTURES, "vit_b", Architecture(tiny_vit, 128, 16, "sam"))
    torch.manual_seed(0)
    sam = build_sam("vit_b", "random")
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if is_table(name):
                parameter.normal_(0, 0.5)
    path = tmp_path / "sam.pth"
    torch.save(sam.state_dict(), path)
    return path


@pytest.mark.parametrize("size", [64, 96, 128, 176])
@pytest.mark.filterwarnings("ignore:.*normalization:UserWarning")
def test_equals_upstream_interpolating_at_run_time(native, size):
    """Upstream's blocks take any grid: only ``pos_embed`` has to be fitted by hand."""
    ours = build_sam("vit_b", native, size)
    assert ours.prompt_encoder.image_embedding_size == (size // 16, size // 16)
    theirs = build_sam("vit_b", native).image_encoder
    for block, source in zip(theirs.blocks, ours.image_encoder.blocks, strict=True):
        assert type(block.attn) is type(source.attn)
    x = torch.rand(2, 3, size, size)
    grid = (size // 16, size // 16)
    with torch.no_grad():
        tokens = theirs.patch_embed(x)
        table = theirs.pos_embed.permute(0, 3, 1, 2)
        fitted = F.interpolate(table, grid, mode="bicubic", align_corners=False)
        tokens = tokens + (theirs.pos_embed if size == 128 else fitted.permute(0, 2, 3, 1))
        for block in theirs.blocks:
            tokens = block(tokens)
        expected = theirs.neck(tokens.permute(0, 3, 1, 2))
        torch.testing.assert_close(ours.image_encoder(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*normalization:UserWarning")
def test_tables_are_untouched_at_the_native_size_and_others_at_every_size(native):
    state = torch.load(native, weights_only=True)
    same, other = build_sam("vit_b", native).state_dict(), build_sam("vit_b", native, 96)
    assert all(torch.equal(same[name], state[name]) for name in state)
    changed = {n for n, t in other.state_dict().items() if not torch.equal(t, state[n])}
    tables = {"pos_embed", "blocks.1.attn.rel_pos_h", "blocks.1.attn.rel_pos_w"}
    assert changed == {f"image_encoder.{name}" for name in tables}


@pytest.mark.filterwarnings("ignore:.*normalization:UserWarning")
def test_a_file_of_another_size_loads_and_is_recognised(native, tmp_path):
    path = tmp_path / "sam_96.pth"
    torch.save(build_sam("vit_b", native, 96).state_dict(), path)
    sam = build_sam("auto", path, 96)
    assert (sam.arch, sam.image_size) == ("vit_b", 96)
    state = torch.load(path, weights_only=True)
    assert all(torch.equal(t, state[n]) for n, t in sam.state_dict().items())
    assert build_sam("auto", path).image_size == 128


@given(length=st.integers(1, 40), wanted=st.integers(1, 20), d=st.integers(1, 4))
def test_rel_pos_as_segment_anything_interpolates_it(length, wanted, d):
    table = torch.randn(length, d, generator=torch.Generator().manual_seed(length))
    fitted = resize_rel_pos(table, 2 * wanted - 1)
    expected = get_rel_pos(wanted, wanted, table)  # (wanted, wanted, d): row q, key k
    index = torch.arange(wanted)[:, None] - torch.arange(wanted)[None] + wanted - 1
    torch.testing.assert_close(fitted[index], expected)


def test_a_linear_ramp_stays_one_inside():
    ramp = torch.arange(16.0)[None, None, :, None].expand(1, 16, 16, 1)
    fitted = resize_pos_embed(ramp, (8, 8))[0, :, :, 0]
    centres = torch.arange(8) * 2 + 0.5
    torch.testing.assert_close(fitted[:, 2:6], centres[2:6].expand(8, 4))


def test_half_precision_keeps_its_type():
    table = torch.randn(7, 4).half()
    assert resize_rel_pos(table, 5).dtype == torch.float16


def test_another_width_is_left_to_the_strict_loader():
    module = tiny_vit(64)
    state = {"pos_embed": torch.zeros(1, 8, 8, 25), "blocks.1.attn.rel_pos_h": torch.zeros(15, 9)}
    fitted = fit_tables(state, module)
    assert all(fitted[name] is state[name] for name in state)


@pytest.mark.parametrize(
    ("arch", "bad", "nearest"),
    [("vit_b", 1000, "992 or 1008"), ("lite_medsam", 130, "128 or 132"), ("vit_b", 0, "16 or 32")],
)
def test_sizes_that_do_not_divide_are_refused(arch, bad, nearest):
    with pytest.raises(ValueError, match=f"image_size {bad} .*{arch}.*multiple of .*{nearest}"):
        build_sam(arch, "random", bad)


@pytest.mark.parametrize("size", [224, 512, 1008])
def test_real_architectures_take_any_multiple(size):
    with torch.device("meta"):
        for arch, architecture in ARCHITECTURES.items():
            if size % architecture.size_multiple == 0:
                sam = build_sam(arch, "random", size)
                grid = sam.prompt_encoder.image_embedding_size
                out = sam.image_encoder(torch.empty(1, 3, size, size))
                assert (out[0] if isinstance(out, tuple) else out).shape[-2:] == grid, arch
