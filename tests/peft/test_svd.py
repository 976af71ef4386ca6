"""Singular vectors: accuracy, the cache on disk, and adapters that don't depend on signs."""

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from samtune.peft import spectral
from samtune.peft.adapt import adapt, method_configs
from samtune.peft.adapter_file import load_adapter, save_adapter
from samtune.peft.spectral import SpectralBasis
from samtune.peft.svd import Svd, thin_svd

FIELDS = ("u", "s", "vh", "anchor")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; its folder of decompositions."""
    monkeypatch.setenv("SAMTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "svd"


@pytest.fixture
def no_cache(monkeypatch):
    monkeypatch.setenv("SAMTUNE_CACHE", "off")


@pytest.fixture
def decompositions(monkeypatch):
    """Grows with each call of torch.linalg.svd."""
    calls, original = [], torch.linalg.svd

    def counted(*args, **options):
        calls.append(args)
        return original(*args, **options)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    return calls


def files_below(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


# accuracy


@pytest.mark.parametrize("shape", [(9, 7), (7, 9), (6, 6), (1, 5), (5, 1), (96, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reconstruction_and_orthogonality(no_cache, shape, dtype):
    weight, m = torch.randn(*shape, dtype=dtype), min(shape)
    svd = thin_svd(weight)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    assert [getattr(svd, name).dtype for name in FIELDS[:3]] == 3 * [dtype]
    product = svd.u.double() @ torch.diag(svd.s.double()) @ svd.vh.double()
    assert (product - weight.double()).norm() <= tolerance * weight.double().norm()
    for vectors in (svd.u.double(), svd.vh.double().T):
        assert (vectors.T @ vectors - torch.eye(m)).abs().max() <= 2 * tolerance
    assert (svd.s.diff() <= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_coarse_weight_is_decomposed_in_float64(no_cache, dtype):
    """Each tensor is NumPy's in float64, rounded once."""
    weight = torch.randn(40, 30).to(dtype)
    svd = thin_svd(weight)
    u, s, vh = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    sign = np.sign(u[np.abs(u).argmax(0), np.arange(30)])
    for found, exact in ((svd.u, u * sign), (svd.s, s), (svd.vh, vh * sign[:, None])):
        assert found.dtype == dtype
        exact = torch.from_numpy(exact)
        error = (found.double() - exact).abs()
        assert (error <= torch.finfo(dtype).eps / 2 * exact.abs() + 1e-12).all()


def test_anchors_are_positive_and_the_largest_of_their_column(no_cache):
    svd = thin_svd(torch.randn(30, 20))
    largest = svd.u.abs().max(0).values
    assert torch.equal(svd.u[svd.anchor.long(), torch.arange(20)], largest)


def test_weight_is_left_alone_and_no_graph_is_made(no_cache):
    weight = torch.nn.Parameter(torch.randn(6, 5))
    before = weight.detach().clone()
    svd = thin_svd(weight)
    assert torch.equal(weight, before)
    assert not any(getattr(svd, name).requires_grad for name in FIELDS)
    assert same(svd, thin_svd(weight.detach().T.contiguous().T))  # not contiguous


def test_meta_weight_gives_shapes(no_cache, decompositions):
    svd = thin_svd(torch.empty(9, 7, device="meta"))
    shapes = [tuple(getattr(svd, name).shape) for name in FIELDS]
    assert shapes == [(9, 7), (7,), (7, 7), (7,)]
    assert not decompositions


# cache


def test_hit_gives_the_same_bytes_without_decomposing(cache, decompositions):
    weight = torch.randn(9, 7)
    first = thin_svd(weight)
    (file,) = files_below(cache)
    content = file.read_bytes()
    assert same(thin_svd(weight.clone()), first)
    assert len(decompositions) == 1
    assert file.read_bytes() == content


def test_cache_knows_weights_apart(cache, decompositions):
    weight = torch.randn(6, 6)
    other = weight.clone()
    other[3, 2] += 1e-6
    others = [other, weight.view(4, 9), weight.double(), weight.bfloat16()]
    for count, w in enumerate([weight, *others], start=1):
        svd = thin_svd(w)
        assert len(decompositions) == len(files_below(cache)) == count
        assert svd.u.dtype == w.dtype
        assert same(thin_svd(w), svd)
    assert len(decompositions) == 5


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def _without_anchor(path):
    save_file({n: t for n, t in load_file(path).items() if n != "anchor"}, path)


def _other_shape(name):
    def damage(path):
        tensors = load_file(path)
        save_file(tensors | {name: tensors[name][:-1].contiguous()}, path)

    return damage


def _other_dtype(path):
    tensors = load_file(path)
    save_file({n: t.double() if t.is_floating_point() else t for n, t in tensors.items()}, path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not safetensors at all"),
        _truncate,
        _without_anchor,
        *(_other_shape(name) for name in FIELDS),
        _other_dtype,
    ],
    ids=["empty", "text", "truncated", "lacking", *FIELDS, "dtype"],
)
def test_damaged_file_is_made_again(cache, decompositions, damage):
    weight = torch.randn(9, 7)
    first = thin_svd(weight)
    (file,) = files_below(cache)
    content = file.read_bytes()
    damage(file)
    found = thin_svd(weight)
    assert same(found, first)
    assert found.u.dtype == weight.dtype
    assert len(decompositions) == 2
    assert file.read_bytes() == content


def test_off_writes_nothing(tmp_path, monkeypatch, no_cache, decompositions):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    weight = torch.randn(9, 7)
    assert same(thin_svd(weight), thin_svd(weight))
    assert len(decompositions) == 2
    assert not files_below(tmp_path)


@pytest.mark.parametrize("xdg", ["", "xdg"])
def test_default_folder(tmp_path, monkeypatch, xdg):
    monkeypatch.delenv("SAMTUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / xdg) if xdg else "")
    thin_svd(torch.randn(3, 2))
    (file,) = files_below(tmp_path)
    assert file.parent == tmp_path / (xdg or ".cache") / "samtune" / "svd"


@pytest.fixture
def locked_folder():
    """``locked_folder(mode)``: a cache whose folder has ``mode``, for a user who isn't root."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "svd"
        folder.mkdir()

        def lock(mode):
            Path(name).chmod(0o755)
            folder.chmod(mode)
            if root:  # modes don't stop root
                os.seteuid(65534)
            return Path(name)

        try:
            yield lock
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)


@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["read-only", "closed"])
def test_locked_cache_only_warns(locked_folder, monkeypatch, caplog, mode):
    monkeypatch.setenv("SAMTUNE_CACHE", "off")
    weight = torch.randn(9, 7)
    expected = thin_svd(weight)
    cache = locked_folder(mode)
    monkeypatch.setenv("SAMTUNE_CACHE", str(cache))
    with caplog.at_level(logging.WARNING):
        assert same(thin_svd(weight), expected)
    assert any(str(cache) in record.getMessage() for record in caplog.records)


def test_cache_that_is_a_file_only_warns(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SAMTUNE_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        thin_svd(torch.randn(9, 7))
    assert any("not kept" in record.getMessage() for record in caplog.records)
    assert (tmp_path / "file").read_text() == "in the way"


# adapters of another decomposition


def flip(svd, generator):
    """The same decomposition with random signs."""
    sign = (torch.randint(0, 2, svd.s.shape, generator=generator) * 2 - 1).to(svd.s)
    assert (sign < 0).any()
    return Svd(svd.u * sign, svd.s, svd.vh * sign[:, None], svd.anchor)


def image_batch(net):
    return torch.randn(1, 1, net.image_size, net.image_size)


def saved_adapter(net, method, path):
    adapt(net, method, decoder="frozen")
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "salt_" in name or "basis." in name:
                p.add_(torch.randn_like(p), alpha=0.2)
    save_adapter(path, net, peft=method_configs(method, "frozen"))
    return net


@pytest.mark.parametrize("kind", ["sam_vit", "tiny_vit"])
@pytest.mark.parametrize("which", ["salt", "ssam", "svf"])
@pytest.mark.parametrize("where", ["torch", "thin_svd"])
@torch.no_grad()
def test_adapter_does_not_depend_on_signs(
    tmp_path, make_small, tiny_method, monkeypatch, no_cache, generator, kind, which, where
):
    """``thin_svd``: as where two entries of a column are almost equal, on another machine."""
    method = tiny_method(which, blocks="last:2")
    path = tmp_path / "adapter.safetensors"
    net = saved_adapter(make_small(kind), method, path)
    image = image_batch(net)
    expected = net(image)
    if where == "torch":
        original = torch.linalg.svd

        def flipped(*args, **options):
            u, s, vh = original(*args, **options)
            sign = (torch.randint(0, 2, s.shape, generator=generator) * 2 - 1).to(s)
            return u * sign, s, vh * sign[:, None]

        monkeypatch.setattr(torch.linalg, "svd", flipped)
    else:
        monkeypatch.setattr(spectral, "thin_svd", lambda w: flip(thin_svd(w), generator))
    other = make_small(kind)
    adapt(other, method, decoder="frozen")
    load_adapter(other, path, peft=method_configs(method, "frozen"))
    assert torch.equal(other(image), expected)
    first = next(m for m in net.modules() if isinstance(m, SpectralBasis))
    again = next(m for m in other.modules() if isinstance(m, SpectralBasis))
    assert torch.equal(first.u, again.u) == (where == "torch" or which == "salt")


@torch.no_grad()
def test_flipped_signs_would_matter(make_small, tiny_method, monkeypatch, no_cache, generator):
    """The test above sees what it should: the same tensors with other vectors compute another W."""
    method = tiny_method("salt")

    def logits():
        net = make_small("sam_vit")
        adapt(net, method)
        for name, p in net.named_parameters():
            if "salt_" in name:
                p.copy_(torch.sin(torch.arange(p.numel())).view_as(p))
        return net(torch.ones(1, 1, 64, 64))

    expected = logits()
    monkeypatch.setattr(spectral, "thin_svd", lambda w: flip(thin_svd(w), generator))
    assert (logits() - expected).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("index", [0, 2])
@torch.no_grad()
def test_adapter_of_another_weight_is_refused(
    tmp_path, make_small, tiny_method, monkeypatch, no_cache, generator, index
):
    """Also where the first layers fit; the network stays as it was."""
    method = tiny_method("salt")
    path = tmp_path / "adapter.safetensors"
    saved_adapter(make_small("sam_vit"), method, path)
    other = make_small("sam_vit")
    other.image_encoder.blocks[index].attn.proj.weight.mul_(1.01)
    monkeypatch.setattr(spectral, "thin_svd", lambda w: flip(thin_svd(w), generator))
    adapt(other, method, decoder="frozen")
    for name, p in other.named_parameters():
        if "salt_" in name:
            p.normal_(0, 0.1)
    image = image_batch(other)
    expected = other(image)
    with pytest.raises(ValueError, match=rf"singular values of '.*blocks\.{index}\.attn\.proj"):
        load_adapter(other, path, peft=method_configs(method, "frozen"))
    assert torch.equal(other(image), expected)
