"""Linear layers of one SAM ViT-B block with LoRA, SALT and S-SAM, ours beside the released forms.

    python benchmarks/bench_peft_layers.py --tokens 14 28 64 --rounds 9

Forward and backward of the layers alone (qkv for LoRA; qkv, proj, lin1 and lin2 for the others),
with a gradient for the input, as inside a network. Outputs and gradients of each pair are shown to
be equal first. A whole step, where attention dilutes these ratios: ``bench_peft.py``.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from samtune.benchmarks.reference_layers import ReleasedSALT, ReleasedSSAM, SliceAddLoRA
from samtune.benchmarks.timing import interleaved, saved_bytes
from samtune.peft.lora import LoRALinear
from samtune.peft.salt import SALTLinear
from samtune.peft.spectral import SpectralLinear

DIM = 768
FOUR = {"qkv": (DIM, 3 * DIM), "proj": (DIM, DIM), "lin1": (DIM, 4 * DIM), "lin2": (4 * DIM, DIM)}


def layers(names: Sequence[str], form: Callable[[nn.Linear], nn.Module]) -> nn.ModuleList:
    """The named layers, frozen, with trained values moved away from their start."""
    torch.manual_seed(0)
    out = nn.ModuleList(form(nn.Linear(*FOUR[n]).requires_grad_(False)) for n in names)
    with torch.no_grad():
        for parameter in out.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    return out


def lora(base: nn.Linear) -> nn.Module:
    """Rank 4 on queries and values."""
    rows = [torch.arange(DIM), torch.arange(2 * DIM, 3 * DIM)]
    return LoRALinear(base, rank=4, groups=rows)


def prove_equal(ours: nn.ModuleList, theirs: nn.ModuleList, xs: Sequence[Tensor]) -> None:
    """Outputs and input gradients agree; raises where they don't."""
    for a, b, x in zip(ours, theirs, xs, strict=True):
        ya, yb = a(x), b(x)
        torch.testing.assert_close(ya, yb, rtol=1e-3, atol=1e-4)
        (ga,) = torch.autograd.grad(ya.square().sum(), x)
        (gb,) = torch.autograd.grad(yb.square().sum(), x)
        torch.testing.assert_close(ga, gb, rtol=1e-3, atol=1e-3)


def measure(tokens: int, rounds: int) -> None:
    """Print the table of one grid."""
    four, qkv = list(FOUR), ["qkv"]
    frozen = layers(four, lambda base: base)
    ssam = layers(four, lambda base: SpectralLinear(base, pair=True, relu=True))
    salt = layers(four, lambda base: SALTLinear(base, top=64, rank=8))
    fused = layers(qkv, lora)
    table = {
        "qkv: frozen": layers(qkv, lambda base: base),
        "qkv: LoRA r=4, q and v": fused,
        "qkv: SAMed's slice-add form": nn.ModuleList(SliceAddLoRA(m) for m in fused),  # type: ignore[arg-type]
        "four: frozen": frozen,
        "four: S-SAM, clipped": ssam,
        "four: S-SAM's released form": nn.ModuleList(ReleasedSSAM(m) for m in ssam),  # type: ignore[arg-type]
        "four: SALT k=64 r=8": salt,
        "four: SALT's released form": nn.ModuleList(ReleasedSALT(m) for m in salt),  # type: ignore[arg-type]
    }
    inputs = {
        name: [torch.randn(1, tokens * tokens, FOUR[n][0], requires_grad=True) for n in names]
        for name in table
        for names in (qkv if name.startswith("qkv") else four,)
    }
    rivals = [name for name in table if "form" in name]
    for theirs in rivals:
        ours = list(table)[list(table).index(theirs) - 1]
        prove_equal(table[ours], table[theirs], inputs[ours])

    def forward(name: str) -> list[Tensor]:
        return [layer(x) for layer, x in zip(table[name], inputs[name], strict=True)]

    # gradients as the next layer would hand them down: no loss dilutes the ratios
    grads = {name: [torch.randn_like(y) for y in forward(name)] for name in table}

    def step(name: str) -> None:
        torch.autograd.backward(forward(name), grads[name])

    times = interleaved({name: partial(step, name) for name in table}, rounds)
    print(f"\n{tokens}x{tokens} tokens, batch 1 (CPU time, {rounds} rounds)")
    print(f"{'':<30}{'ms':>8}{'saved MiB':>11}{'x as fast':>11}{'saved, ratio':>14}")
    for name, layer in table.items():
        own = [*layer.parameters(), *layer.buffers()]
        saved = saved_bytes(partial(forward, name), own) / 2**20
        line = f"{name:<30}{1000 * times[name]:>8.1f}{saved:>11.1f}"
        if name not in rivals and (rival := _next(table, name)) in rivals:
            theirs_saved = saved_bytes(
                partial(forward, rival),
                [*table[rival].parameters(), *table[rival].buffers()],
            )
            line += f"{times[rival] / times[name]:>11.2f}{saved * 2**20 / theirs_saved:>14.2f}"
        print(line)


def _next(names: dict[str, nn.ModuleList], name: str) -> str:
    order = list(names)
    return order[min(order.index(name) + 1, len(order) - 1)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[14, 28, 64], help="side")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args(argv)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for tokens in args.tokens:
        measure(tokens, args.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
