"""What a checkpoint file is."""

from dataclasses import dataclass
from pathlib import Path

from samtune.networks.architectures import ARCHITECTURES
from samtune.networks.build import arch_of
from samtune.networks.checkpoints import read_state_dict
from samtune.networks.layouts import (
    absent_parts,
    dtypes_of,
    layout_of,
    parameter_count,
    to_published_names,
)
from samtune.networks.opening import known_normalization
from samtune.networks.registry import by_sha256
from samtune.networks.weights import sha256_of


@dataclass(frozen=True)
class Inspection:
    """Findings about a file.

    Attributes:
        path: the file.
        size: bytes.
        sha256: of the file.
        name: of the published checkpoint with this hash, ``None``: not a known one.
        layout: how its tensors are named.
        architecture: ``None``: of no known one, or not convertible.
        dtypes: kinds of numbers, most tensors first.
        num_tensors, num_parameters: in the file.
        normalization: what ``auto`` chooses, ``None`` without an architecture.
        normalization_known: whether that is known of the file, or the architecture's default.
        missing: parts of a SAM that it has nothing of, to be given by a base.
        problem: why it can't be used as it is.
    """

    path: str
    size: int
    sha256: str
    name: str | None
    layout: str
    architecture: str | None
    dtypes: tuple[str, ...]
    num_tensors: int
    num_parameters: int
    normalization: str | None
    normalization_known: bool
    missing: tuple[str, ...]
    problem: str | None


def inspect_file(path: str | Path) -> Inspection:
    """Read a checkpoint and say what it is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it can't be read.
    """
    path = Path(path)
    state = read_state_dict(path)
    digest = sha256_of(path)
    published = by_sha256(digest)
    layout = layout_of(state)
    architecture: str | None = None
    missing: tuple[str, ...] = ()
    problem: str | None = None
    try:
        converted, _ = to_published_names(state, source=f"'{path}'")
        missing = tuple(absent_parts(converted)) if layout is not None else ()
        architecture = arch_of(converted, f"'{path}'")
    except ValueError as error:
        problem = str(error)
    known = known_normalization(path, digest)
    default = None if architecture is None else ARCHITECTURES[architecture].normalization
    return Inspection(
        path=str(path),
        size=path.stat().st_size,
        sha256=digest,
        name=None if published is None else published.name,
        layout="unknown" if layout is None else layout.name,
        architecture=architecture,
        dtypes=tuple(str(dtype).removeprefix("torch.") for dtype in dtypes_of(state)),
        num_tensors=len(state),
        num_parameters=parameter_count(state),
        normalization=known or default,
        normalization_known=known is not None,
        missing=missing,
        problem=problem,
    )
