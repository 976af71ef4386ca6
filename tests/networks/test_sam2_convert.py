"""Published names of SAM 2 to ours: one to one, video left out, nothing lost in silence."""

import pytest
import torch

from samtune.networks.architectures import ARCHITECTURES
from samtune.networks.build import arch_of, build_sam
from samtune.networks.checkpoints import load_strictly
from samtune.networks.sam2_convert import convert, recognise, video_only

transformers = pytest.importorskip("transformers")

MATRIX = "positional_embedding"
META_VIDEO = ("maskmem_tpos_enc", "no_obj_ptr", "memory_encoder.out_proj.weight", "no_mem_pos_enc")


def test_names_are_one_to_one(make_sam2, transformers_sam2, to_meta):
    own = set(make_sam2().state_dict())
    theirs = transformers_sam2().state_dict()
    assert set(convert(theirs)) == own
    # twice the matrix of positions, and four points in one tensor
    assert len(theirs) == len(own) + 1 - 3
    meta = {to_meta(name): torch.zeros(1) for name in own}
    assert len(meta) == len(own)
    assert set(convert(meta)) == own


def test_a_video_model_holds_the_image_path_and_named_others():
    with torch.device("meta"):
        model = transformers.Sam2VideoModel(transformers.Sam2VideoConfig())
        image = transformers.Sam2Model(transformers.Sam2Config())
    state = model.state_dict()
    del state[f"prompt_encoder.shared_embedding.{MATRIX}"]  # files may hold it once
    rest = set(video_only(state))
    assert rest == set(state) - set(image.state_dict())
    assert len(rest) > 50
    sam2 = build_meta("sam2.1_tiny").state_dict()
    found = convert({name: torch.empty_like(t, device="meta") for name, t in state.items()})
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in sam2.items()}


def build_meta(arch):
    with torch.device("meta"):
        return build_sam(arch, "random")


def test_what_serves_video_is_left_out_and_counted(make_sam2, to_meta, caplog):
    meta = {to_meta(name): t for name, t in make_sam2().state_dict().items()}
    meta |= {name: torch.zeros(2) for name in META_VIDEO}
    with caplog.at_level("INFO"):
        own = convert(meta)
    assert set(video_only(meta)) == set(META_VIDEO)
    assert not set(own) & set(META_VIDEO)
    assert "left out 4 entries" in caplog.text


def test_unknown_names_are_kept_for_strict_loading(make_sam2, to_meta):
    sam = make_sam2()
    meta = {to_meta(name): tensor for name, tensor in sam.state_dict().items()}
    meta["image_encoder.trunk.blocks.0.attn.rel_pos"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"1 unexpected: image_encoder.trunk.blocks.0.attn.rel"):
        load_strictly(sam, convert(meta), source="file")


def test_other_files_are_not_taken_for_sam2(make_segmenter):
    state = make_segmenter("sam_vit").state_dict()
    assert not recognise(state)
    with pytest.raises(ValueError, match="expected the names of a SAM 2 as published"):
        convert(state)


def test_two_different_position_matrices_are_refused(transformers_sam2):
    state = dict(transformers_sam2().state_dict())
    state[f"shared_image_embedding.{MATRIX}"] = state[f"shared_image_embedding.{MATRIX}"] + 1
    with pytest.raises(ValueError, match=r"gaussian_matrix.* values differ"):
        convert(state)


def test_sam2_and_sam2_1_are_one_network():
    for size in ("tiny", "small", "base_plus", "large"):
        assert ARCHITECTURES[f"sam2_{size}"] is ARCHITECTURES[f"sam2.1_{size}"]
        assert ARCHITECTURES[f"sam2_{size}"].native_size == 1024


def test_the_tiny_model_is_transformers_default():
    """Whose defaults are those of sam2.1-hiera-tiny."""
    encoder = build_meta("sam2_tiny").image_encoder
    with torch.device("meta"):
        theirs = transformers.Sam2HieraDetModel(transformers.Sam2HieraDetConfig())
    assert [b.window_size for b in encoder.blocks] == [b.window_size for b in theirs.blocks]
    shapes = {n: t.shape for n, t in theirs.state_dict().items()}
    own = {n: t.shape for n, t in encoder.state_dict().items()}
    assert {n: own[n] for n in shapes} == shapes


def test_a_file_under_our_names_is_recognised():
    state = build_meta("sam2_small").state_dict()
    assert arch_of(state, "file") == "sam2_small"
