"""Features on disk: what makes a key, what a damaged file does, and processes sharing a folder."""

import dataclasses
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from samtune.networks.feature_cache import (
    FeatureCache,
    FeatureSource,
    feature_source,
    prefix_sha256,
)

ENTRY = 4 * 1024  # bytes of `values(n)` as float32
MANY = 1 << 30


def values(seed: int) -> torch.Tensor:
    """What belongs to entry ``seed``: 1024 numbers that only it has."""
    return torch.rand(1024, generator=torch.Generator().manual_seed(seed))


def key(number: int) -> str:
    return f"{number:02x}" * 32


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def test_float32_is_exact_and_float16_is_rounded(tmp_path):
    exact = FeatureCache(tmp_path / "exact", MANY, torch.float32)
    half = FeatureCache(tmp_path / "half", MANY)
    tensor = torch.randn(3, 5, 7)
    assert exact.get(key(1)) is None
    exact.put(key(1), tensor)
    half.put(key(1), tensor)
    assert torch.equal(FeatureCache(exact.folder, MANY).get(key(1)), tensor)
    assert torch.equal(half.get(key(1)), tensor.half())
    assert half.get(key(2)) is None
    assert bytes_in(half.folder) < 0.7 * bytes_in(exact.folder)
    assert (exact.counts.found, exact.counts.missing) == (0, 1)
    assert (half.counts.found, half.counts.missing) == (1, 1)


@pytest.mark.parametrize(("largest", "dtype"), [(65504.0, torch.float16), (7e4, torch.float32)])
def test_what_float16_does_not_reach_stays_float32(tmp_path, largest, dtype):
    cache = FeatureCache(tmp_path, MANY)
    tensor = torch.tensor([1.0, -largest, 3e-5])
    cache.put(key(1), tensor)
    found = cache.get(key(1))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), tensor, rtol=1e-3, atol=1e-6)
    assert cache.counts.kept_float32 == (dtype == torch.float32)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_file_is_a_miss_and_is_written_again(tmp_path, length):
    cache = FeatureCache(tmp_path, MANY)
    cache.put(key(1), values(1))
    [file] = files(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:length])
    assert cache.get(key(1)) is None
    assert (cache.counts.damaged, cache.counts.missing) == (1, 1)
    assert files(tmp_path) == []
    cache.put(key(1), values(1))
    assert file.read_bytes() == content
    assert torch.equal(cache.get(key(1)), values(1).half())


def test_an_altered_value_is_a_miss(tmp_path):
    cache = FeatureCache(tmp_path, MANY)
    cache.put(key(1), values(1))
    [file] = files(tmp_path)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert load_file(file)  # readable: only the checksum tells
    assert cache.get(key(1)) is None
    assert cache.counts.damaged == 1


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "disk full")

    cache = FeatureCache(tmp_path, MANY)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        cache.put(key(1), values(1))
    assert files(tmp_path) == []


def test_the_least_recently_used_go_first(tmp_path):
    cache = FeatureCache(tmp_path, 5 * ENTRY, torch.float32)
    for number in range(3):
        cache.put(key(number), values(number))
        [file] = (path for path in files(tmp_path) if path.name.startswith(key(number)))
        os.utime(file, (1000 + number, 1000 + number))
    assert cache.get(key(0)) is not None  # used now: no longer the oldest
    for number in (3, 4, 5):
        cache.put(key(number), values(number))
    there = [number for number in range(6) if cache.get(key(number)) is not None]
    # a fifth doesn't fit beside four and their headers: 1 went for 4, 2 for 5
    assert there == [0, 3, 4, 5]
    assert cache.counts.evicted == 2


def test_the_folder_stays_within_its_bound(tmp_path):
    limit = 20 * ENTRY
    for _ in range(2):  # what a run before left counts too
        cache = FeatureCache(tmp_path, limit, torch.float32)
        for number in range(60):
            cache.put(key(number), values(number))
            assert bytes_in(tmp_path) <= limit
    assert bytes_in(tmp_path) > limit / 2
    assert torch.equal(cache.get(key(59)), values(59))


def test_the_folder_is_not_listed_at_every_write(tmp_path, monkeypatch):
    looks = []
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda *a: looks.append(1) or glob(*a))
    cache = FeatureCache(tmp_path, 320 * ENTRY, torch.float32)
    for number in range(100):
        cache.put(key(number), values(number))
    assert 1 <= len(looks) <= 7  # the first, and one every 20 entries


def test_what_a_killed_writer_left_is_removed_once_it_is_old(tmp_path):
    cache = FeatureCache(tmp_path, MANY)
    folder = tmp_path / key(1)[:2]
    folder.mkdir()
    old, young = folder / ".1-ab.x.safetensors.part", folder / ".2-ab.x.safetensors.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.put(key(1), values(1))
    assert not old.exists()
    assert young.exists()


def test_an_entry_larger_than_the_cache_is_refused(tmp_path):
    cache = FeatureCache(tmp_path, ENTRY - 1, torch.float32)
    with pytest.raises(ValueError, match=r"an entry has 4096 bytes, all together may have 4095"):
        cache.put(key(1), values(1))


@pytest.mark.parametrize(
    ("max_bytes", "dtype", "said"),
    [(0, torch.float16, "must be positive, got 0"), (9, torch.bfloat16, "got torch.bfloat16")],
)
def test_bad_arguments(tmp_path, max_bytes, dtype, said):
    with pytest.raises(ValueError, match=said):
        FeatureCache(tmp_path, max_bytes, dtype)


def share(folder: str, limit: int, start: int, out) -> None:
    """One of two processes: asks for 24 entries again and again, makes those that are missing."""
    cache = FeatureCache(folder, limit, torch.float32)
    chance = random.Random(start)  # in a fixed order the least recently used is always the next
    for _ in range(300):
        entry = chance.randrange(24)
        found = cache.get(key(entry))
        if found is None:
            found = cache.put(key(entry), values(entry))
        if not torch.equal(found, values(entry)):
            out.put(f"entry {entry} is another's")
            return
    out.put(dataclasses.asdict(cache.counts))


def test_an_entry_that_is_removed_while_it_is_read_is_missing(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path, 10**6, torch.float32)
    cache.put(key(1), values(1))
    real = Path.read_bytes

    def removed(self):
        self.unlink()
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", removed)
    assert cache.get(key(1)) is None
    assert (cache.counts.missing, cache.counts.damaged) == (1, 0)


def test_two_processes_write_read_and_evict_the_same_keys(tmp_path):
    limit = 16 * ENTRY  # fewer than the 24 entries
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    workers = [
        context.Process(target=share, args=(str(tmp_path), limit, start, out)) for start in (0, 5)
    ]
    for worker in workers:
        worker.start()
    counts = [out.get(timeout=100) for _ in workers]
    for worker in workers:
        worker.join(timeout=20)
        assert worker.exitcode == 0
    for count in counts:
        assert isinstance(count, dict), count
        assert count["damaged"] == 0
        assert min(count["found"], count["missing"], count["evicted"]) > 0
    assert bytes_in(tmp_path) <= limit + limit // 16 + ENTRY
    assert all(path.suffix == ".safetensors" for path in files(tmp_path))


@pytest.fixture
def source():
    return FeatureSource(
        prefix_sha256="ab",
        from_block=2,
        arch="vit_b",
        image_size=1024,
        normalization="sam",
        dtype="float16",
        device="cpu",
    )


OTHERS = {
    "prefix_sha256": "cd",
    "from_block": 3,
    "arch": "vit_l",
    "image_size": 512,
    "normalization": "medsam",
    "dtype": "float32",
    "device": "cuda",
}


def test_every_ingredient_changes_the_key(source, monkeypatch):
    image = torch.rand(1, 8, 8)
    assert OTHERS.keys() == {field.name for field in dataclasses.fields(source)}
    keys = [
        dataclasses.replace(source, **{name: value}).key(image) for name, value in OTHERS.items()
    ]
    other = image.clone()
    other[0, 7, 7] += 1e-6
    assert not torch.equal(other, image)
    keys += [source.key(i) for i in (other, image.view(1, 4, 16), image.double())]
    own = source.key(image)
    assert own == source.key(image.clone())
    monkeypatch.setattr("samtune.networks.feature_cache.FORMAT_VERSION", 2)
    keys.append(source.key(image))
    assert len({own, *keys}) == len(OTHERS) + 5


def test_a_strided_image_has_the_key_of_its_copy(source):
    image = torch.rand(4, 6, 3).permute(2, 0, 1)
    assert source.key(image) == source.key(image.contiguous())


@pytest.mark.parametrize("kind", ["tiny_vit", "sam_vit"])
def test_the_prefix_hash_covers_what_comes_before_and_nothing_after(make_encoder, kind):
    encoder = make_encoder(kind)
    end = len(encoder.adapter_sites()) + 1
    before = [prefix_sha256(encoder, block) for block in range(end + 1)]
    assert len(set(before)) == end + 1
    tensors = {
        (encoder.unit_of(name), tensor.dtype, name in dict(encoder.named_buffers())): tensor
        for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]
    }
    assert {unit for unit, *_ in tensors} == set(range(-1, end))
    for (unit, *_), tensor in tensors.items():
        with torch.no_grad():
            kept = tensor.clone()
            tensor.view(-1)[-1] += 1
            now = [prefix_sha256(encoder, block) for block in range(end + 1)]
            tensor.copy_(kept)
        changed = [block for block in range(end + 1) if now[block] != before[block]]
        assert changed == list(range(unit + 1, end + 1))
    assert [prefix_sha256(encoder, block) for block in range(end + 1)] == before


def test_weights_are_hashed_once(make_segmenter, monkeypatch):
    network = make_segmenter()
    hashed = []
    import samtune.networks.feature_cache as module

    buffer = module._bytes
    monkeypatch.setattr(module, "_bytes", lambda t: hashed.append(1) or buffer(t))
    first = feature_source(network, 2, torch.float16)
    count = len(hashed)
    assert feature_source(network, 2, torch.float16) == first
    assert len(hashed) == count > 0
    assert (first.arch, first.image_size, first.normalization) == ("tiny_vit", 32, "medsam")
    assert (first.dtype, first.device, first.from_block) == ("float16", "cpu", 2)
