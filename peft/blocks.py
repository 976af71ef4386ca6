"""Which attention blocks a method adapts: ``all``, ``last:N`` or a list of indices."""

from collections.abc import Sequence

BlockSpec = str | Sequence[int]


def select_blocks(spec: BlockSpec, num_blocks: int) -> list[int]:
    """Indices of the chosen blocks, ascending.

    Args:
        spec: ``all``, ``last:N`` (0 <= N <= num_blocks; ``last:0`` is none), a list of indices, or
            the list as text: ``0,1,10``.
        num_blocks: attention blocks of the encoder.

    Raises:
        ValueError: says what was given and what the encoder has.
    """
    expected = f"expected 'all', 'last:N' or indices from 0 to {num_blocks - 1}"
    if isinstance(spec, str):
        if spec == "all":
            return list(range(num_blocks))
        kind, _, number = spec.partition(":")
        if kind == "last" and number.isdecimal() and int(number) <= num_blocks:
            return list(range(num_blocks - int(number), num_blocks))
        parts = [part.strip() for part in spec.split(",")]
        if not all(part.isdecimal() for part in parts):
            msg = f"blocks '{spec}' not understood, {expected}"
            raise ValueError(msg)
        spec = [int(part) for part in parts]
    if not isinstance(spec, Sequence):  # a config's bare `blocks: 3`
        msg = f"blocks {spec} not understood, {expected}, as a list"
        raise ValueError(msg)
    chosen = [*spec]
    fits = all(type(b) is int and 0 <= b < num_blocks for b in chosen)
    if not fits or len(set(chosen)) != len(chosen):
        msg = f"blocks {chosen}: each index once, {expected}"
        raise ValueError(msg)
    return sorted(chosen)
