"""Features of frozen encoder parts on disk, shared by runs and processes.

One safetensors file a key, in 256 subfolders. Files appear whole (written beside, then renamed), a
reader of a file that is being removed gets it whole or misses it, and every entry carries a
checksum: what is damaged counts as missing. No process waits for another.
"""

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from samtune.atomic import PARTIAL_SUFFIX, whole_file

# part of every key: raise it when the encoders' code computes something else from the same weights
FORMAT_VERSION = 1
_SUFFIX = ".safetensors"
_NAME = "features"
_CHECKSUM = "crc32"
_STALE_SECONDS = 3600  # after that a half-written file is one of a killed process

logger = logging.getLogger(__name__)


@dataclass
class CacheCounts:
    """What happened to one :class:`FeatureCache` since it was made.

    Attributes:
        found, missing: entries that were asked for.
        damaged: of the missing, those that were there but unreadable.
        kept_float32: written as float32, as float16 doesn't reach their values.
        evicted: removed to make room.
    """

    found: int = 0
    missing: int = 0
    damaged: int = 0
    kept_float32: int = 0
    evicted: int = 0


class FeatureCache:
    """Tensors by key in a folder of bounded size, the least recently used removed first.

    Several processes may use one folder. Each cache knows what it wrote itself and looks at the
    whole folder when it has written a sixteenth of ``max_bytes``: alone it never exceeds
    ``max_bytes``, each further one that writes at the same time may by a sixteenth of it.

    Args:
        folder: made when it is missing; ``~`` is the home folder.
        max_bytes: of all files together, > 0.
        dtype: of the stored values, float16 or float32.
    """

    def __init__(
        self, folder: str | Path, max_bytes: int, dtype: torch.dtype = torch.float16
    ) -> None:
        if max_bytes <= 0:
            msg = f"max_bytes of the feature cache must be positive, got {max_bytes}"
            raise ValueError(msg)
        if dtype not in (torch.float16, torch.float32):
            msg = f"dtype of the feature cache must be float16 or float32, got {dtype}"
            raise ValueError(msg)
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        self.dtype = dtype
        self.counts = CacheCounts()
        self._slack = max_bytes // 16
        self._total: int | None = None  # of all files, as far as known; None: not looked yet
        self._own = 0  # written since the last look

    def get(self, key: str) -> Tensor | None:
        """The tensor of ``key`` as it is stored, or ``None``; marks it as used."""
        path = self._path(key)
        try:
            tensor = _read(path)
        except FileNotFoundError:
            self.counts.missing += 1
            return None
        except (SafetensorError, ValueError) as error:
            logger.warning("feature cache: '%s' is damaged, made again: %s", path, error)
            path.unlink(missing_ok=True)
            self.counts.damaged += 1
            self.counts.missing += 1
            return None
        with suppress(OSError):  # removed just now, or another user's
            os.utime(path)
        self.counts.found += 1
        return tensor

    def put(self, key: str, tensor: Tensor) -> Tensor:
        """Store ``tensor`` under ``key`` and return it as stored, on the CPU.

        Raises:
            ValueError: it alone is larger than the cache may be.
            OSError: it can't be written.
        """
        stored = to_storage(tensor, self.dtype)
        if self.dtype == torch.float16 and stored.dtype != torch.float16:
            self.counts.kept_float32 += 1
        size = stored.nbytes
        if size > self.max_bytes:
            msg = (
                f"feature cache '{self.folder}': an entry has {size} bytes, all together may have "
                f"{self.max_bytes}"
            )
            raise ValueError(msg)
        self._make_room(size)
        path = self._path(key)
        with whole_file(path, several_writers=True) as partial:
            save_file({_NAME: stored}, partial, {_CHECKSUM: str(_checksum(stored))})
            size = partial.stat().st_size
        assert self._total is not None
        self._total += size
        self._own += size
        return stored

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{_SUFFIX}"

    def _make_room(self, size: int) -> None:
        """Remove the files that were used longest ago, where ``size`` more would be too many."""
        overhead = 1024  # of a file's header, at most
        needed = size + overhead
        full = self._total is None or self._total + needed > self.max_bytes
        if not full and self._own < self._slack:
            return
        files = sorted(self._files())
        total = sum(length for _, length, _ in files)
        self._own = 0
        if total + needed > self.max_bytes:
            limit = max(0, self.max_bytes - self._slack - needed)
            for _, length, path in files:
                if total <= limit:
                    break
                with suppress(PermissionError):  # open in another process (Windows)
                    path.unlink(missing_ok=True)  # another process may be at it too
                    self.counts.evicted += 1
                    total -= length
        self._total = total

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """Time of last use (ns), bytes and path of every entry; clears up after killed writers."""
        stale = time.time() - _STALE_SECONDS
        for path in self.folder.glob("??/*"):
            try:
                found = path.stat()
                if path.suffix == _SUFFIX:
                    yield found.st_mtime_ns, found.st_size, path
                elif path.suffix == PARTIAL_SUFFIX and found.st_mtime < stale:
                    path.unlink(missing_ok=True)
            except FileNotFoundError:
                continue


@dataclass(frozen=True)
class FeatureSource:
    """What features depend on beside the image: together they make the key.

    Attributes:
        prefix_sha256: hash of the weights they pass, see :func:`prefix_sha256`.
        from_block: where they end, see ``SamSegmenter.frozen_prefix``.
        arch, image_size, normalization: of the network.
        dtype: of the stored features.
        device: type of the device that computes them; others round differently.
    """

    prefix_sha256: str
    from_block: int
    arch: str
    image_size: int
    normalization: str
    dtype: str
    device: str

    def key(self, image: Tensor) -> str:
        """Key of ``image`` (``c h w``) as it enters the network, SHA-256.

        The pixels stand for file and transforms: a transform that changes changes them, and one
        described by its settings could change its code unnoticed.
        """
        pixels = image.detach().cpu().contiguous()
        header = {
            **asdict(self),
            "format_version": FORMAT_VERSION,
            "image_dtype": str(pixels.dtype),
            "image_shape": list(pixels.shape),
        }
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode() + b"\0")
        digest.update(_bytes(pixels))
        return digest.hexdigest()


def feature_source(network: Any, from_block: int, dtype: torch.dtype) -> FeatureSource:
    """What the features of a ``SamSegmenter`` before ``from_block`` depend on."""
    return FeatureSource(
        prefix_sha256=prefix_sha256(network.image_encoder, from_block),
        from_block=from_block,
        arch=network.arch,
        image_size=network.image_size,
        normalization=network.normalization,
        dtype=str(dtype).removeprefix("torch."),
        device=next(network.parameters()).device.type,
    )


_hashes: WeakKeyDictionary[nn.Module, dict[int, tuple[list[tuple[str, int, int]], str]]] = (
    WeakKeyDictionary()
)


def prefix_sha256(encoder: nn.Module, from_block: int) -> str:
    """Hash of all parameters and buffers of ``encoder`` that take part before ``from_block``.

    Computed once a network and block, and again when one of the tensors was replaced or written to.
    """
    tensors = {
        name: tensor
        for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]
        if encoder.unit_of(name) < from_block  # type: ignore[operator]
    }
    state = [(name, t.data_ptr(), t._version) for name, t in sorted(tensors.items())]
    known = _hashes.setdefault(encoder, {})
    if from_block in known and known[from_block][0] == state:
        return known[from_block][1]
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(_bytes(tensor.detach().cpu().contiguous()))
    known[from_block] = state, digest.hexdigest()
    return known[from_block][1]


def to_storage(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor`` on the CPU as ``dtype``, or as float32 where float16 would make it infinite."""
    plain = tensor.detach().to("cpu", torch.float32)
    stored = plain.to(dtype).contiguous()
    return stored if bool(stored.isfinite().all()) else plain.contiguous()


def _read(path: Path) -> Tensor:
    data = path.read_bytes()  # not mapped: another process may remove the file at any moment
    tensor = load(data).get(_NAME)
    if tensor is None:
        msg = f"it holds no tensor '{_NAME}'"
        raise ValueError(msg)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    checksum = header.get("__metadata__", {}).get(_CHECKSUM)
    if checksum != str(_checksum(tensor)):
        msg = f"its checksum is {_checksum(tensor)}, written was {checksum}"
        raise ValueError(msg)
    return tensor


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(_bytes(tensor))


def _bytes(tensor: Tensor) -> Any:  # a buffer, without a copy
    return tensor.reshape(-1).view(torch.uint8).numpy().data
