"""Our attention beside upstream's, in one process: time, and bytes kept for the backward pass.

    python benchmarks/bench_attention.py --rounds 3

Shapes are those of SAM ViT-B at 1024 px: a global block (64x64 tokens) and the 25 windows of 14x14
of another; ``--tokens`` takes other grids. Outputs and gradients are shown equal first. ``saved``
are bytes that autograd keeps, parameters apart; the last line adds up the 4 global and 8 windowed
blocks of ViT-B. Times are CPU time, in turn; ratios within about 10 % are noise.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from samtune.benchmarks.timing import interleaved, saved_bytes
from samtune.networks.attention import RelPosAttention

DIM, HEADS = 768, 12
TOLERANCE = 1e-5


def make_pair(side: int) -> tuple[nn.Module, nn.Module]:
    """Upstream's attention on a ``side`` x ``side`` grid, frozen, and ours with its parts."""
    generator = torch.Generator().manual_seed(0)
    upstream = Attention(DIM, HEADS, use_rel_pos=True, input_size=(side, side))
    with torch.no_grad():
        for parameter in upstream.parameters():
            scale = 0.2 if parameter.shape[0] == 2 * side - 1 else DIM**-0.5
            parameter.normal_(0, scale, generator=generator)
    upstream.requires_grad_(False)
    return upstream, RelPosAttention(upstream)


def step(module: nn.Module, x: Tensor) -> Tensor:
    """Forward and backward; the gradient of the input."""
    x = x.detach().requires_grad_(True)
    module(x).square().mean().backward()
    assert x.grad is not None
    return x.grad


def infer(module: nn.Module, x: Tensor) -> Tensor:
    """Forward without a graph."""
    with torch.no_grad():
        out: Tensor = module(x)
    return out


def largest(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def ratio(
    pair: tuple[nn.Module, nn.Module],
    x: Tensor,
    do: Callable[[nn.Module, Tensor], Tensor],
    rounds: int,
) -> tuple[float, float, float]:
    """(upstream seconds, our seconds, largest relative difference) of ``do``."""
    upstream, ours = pair
    difference = largest(do(ours, x), do(upstream, x))
    if not difference <= TOLERANCE:
        msg = f"outputs differ by {difference:.1e} relative, more than {TOLERANCE:.0e}"
        raise RuntimeError(msg)
    times = interleaved(
        {"upstream": partial(do, upstream, x), "ours": partial(do, ours, x)}, rounds
    )
    return times["upstream"], times["ours"], difference


def measure(side: int, windows: int, rounds: int) -> tuple[float, float]:
    """Print one shape's row; returns saved MiB of upstream and of ours."""
    pair = make_pair(side)
    x = torch.randn(windows, side, side, DIM, generator=torch.Generator().manual_seed(1))
    train = ratio(pair, x, step, rounds)
    inference = ratio(pair, x, infer, rounds)
    kept = []
    for module in pair:
        leaf = x.clone().requires_grad_(True)
        kept.append(saved_bytes(partial(module, leaf), [*module.parameters(), leaf]) / 2**20)
    print(
        f"{windows:>3} x {side}x{side:<8}"
        f"{train[0]:>8.2f}{train[1]:>8.2f}{train[0] / train[1]:>7.2f}"
        f"{inference[0]:>9.2f}{inference[1]:>8.2f}{inference[0] / inference[1]:>7.2f}"
        f"{kept[0]:>10.1f}{kept[1]:>8.1f}{kept[0] / kept[1]:>7.2f}"
        f"{max(train[2], inference[2]):>10.1e}",
        flush=True,
    )
    return kept[0], kept[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="*", default=[28], help="further global grids")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, width {DIM}, {HEADS} heads"
    )
    print(
        f"{'':<16}{'step, s: upstream, ours, x':>23}{'forward, s: same':>24}"
        f"{'saved, MiB: same':>25}{'difference':>10}"
    )
    windowed = measure(14, 25, args.rounds)
    whole = measure(64, 1, args.rounds)
    for side in args.tokens:
        measure(side, 1, args.rounds)
    upstream, ours = (4 * g + 8 * w for g, w in zip(whole, windowed, strict=True))
    fold = f"{upstream:.0f} to {ours:.0f} MiB: {upstream / ours:.2f} x"
    print(f"all attention of ViT-B at 1024 px: {fold}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
