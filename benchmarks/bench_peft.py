"""Time and memory of a step with each PEFT method, side by side in one process.

    python benchmarks/bench_peft.py --tokens 14 28 --rounds 5

One encoder of SAM ViT-B's width (``--depth`` blocks, one of them global) at 14x14, 28x28 or 64x64
tokens; a step is forward and backward, batch 1. Variants are interleaved round by round, and the
median of each is given relative to the frozen encoder. ``saved`` are the bytes that autograd keeps
for the backward pass, parameters and buffers apart. Forms of the released codes are timed beside
ours, after their outputs were shown to be equal. Absolute times are the machine's; ratios within
about 10 % are noise.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module

import torch
from torch import Tensor, nn

from samtune.benchmarks.reference_layers import ReleasedSALT, ReleasedSSAM, SliceAddLoRA
from samtune.benchmarks.timing import interleaved, saved_bytes
from samtune.networks.sam_vit import SamViT
from samtune.peft.adapt import adapt, merge_adapters
from samtune.peft.lora import LoRA, LoRALinear
from samtune.peft.protocol import Method, replace_module
from samtune.peft.registry import METHODS
from samtune.peft.salt import SALT, SALTLinear
from samtune.peft.spectral import SSAM, SpectralLinear

PATCH = 16
SKIPPED = ("decoder_only", "pos_embed", "full", "qlora")  # qlora: CUDA only


class EncoderOnly(nn.Module):
    """What the methods look for, without a decoder."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = encoder


def make_encoder(tokens: int, depth: int) -> EncoderOnly:
    """A frozen encoder of ViT-B's width; the last block attends globally."""
    torch.manual_seed(0)
    encoder = SamViT(
        image_size=PATCH * tokens, dim=768, depth=depth, num_heads=12, global_blocks=(depth - 1,)
    )
    return EncoderOnly(encoder).requires_grad_(False)


def adapted(base: EncoderOnly, method: Method) -> EncoderOnly:
    """A copy of ``base`` with ``method``, its trained values moved away from their start."""
    model = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(0)
    adapt(model, method, decoder="frozen", generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return model


def released(
    model: EncoderOnly, ours: type[nn.Module], form: Callable[..., nn.Module]
) -> EncoderOnly:
    """A copy of ``model`` whose adapted layers are computed the released way."""
    copied = copy.deepcopy(model)
    for path, module in list(copied.named_modules()):
        if isinstance(module, ours):
            replace_module(copied, path, form(module))
    return copied


def hugging_face(base: EncoderOnly) -> nn.Module | None:
    """Hugging Face peft's LoRA on the fused qkv; ``None`` if it isn't installed."""
    try:
        # by name: in this repository a bare `import peft` would look like our own folder
        peft = import_module("peft")
    except ImportError:
        return None
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["qkv"], lora_dropout=0.0)
    wrapped: nn.Module = peft.get_peft_model(copy.deepcopy(base).image_encoder, config)
    holder = nn.Module()
    holder.image_encoder = wrapped
    return holder


def step(model: nn.Module, x: Tensor) -> None:
    """Forward and backward from features that need a gradient, as behind a trained layer."""
    model.zero_grad(set_to_none=True)
    encoder = model.get_submodule("image_encoder")
    encoder(x).square().mean().backward()


def groups(base: EncoderOnly) -> Iterator[dict[str, nn.Module]]:
    """What is timed, by name, a few at a time: all at once exceed a small machine's memory."""
    yield {"full fine-tuning": copy.deepcopy(base).requires_grad_(True)}
    names = [name for name in METHODS if name not in SKIPPED]
    for start in range(0, len(names), 4):
        yield {name: adapted(base, METHODS[name]()) for name in names[start : start + 4]}
    lora = adapted(base, LoRA(rank=4))
    slices = released(lora, LoRALinear, SliceAddLoRA)
    yield proved({"lora r=4 q,v": lora, "  SAMed's slice-add form": slices}, base)
    fused: dict[str, nn.Module] = {
        "lora r=4 fused qkv": adapted(base, LoRA(rank=4, targets=("qkv",)))
    }
    peft = hugging_face(base)
    yield fused if peft is None else {**fused, "  Hugging Face peft, same": peft}
    ssam = adapted(base, SSAM(relu=True))
    form = released(ssam, SpectralLinear, ReleasedSSAM)
    yield proved({"ssam, clipped": ssam, "  S-SAM's released form": form}, base)
    salt = adapted(base, SALT(top=64, rank=8))
    form = released(salt, SALTLinear, ReleasedSALT)
    yield proved({"salt k=64 r=8": salt, "  SALT's released form": form}, base)


def proved(pair: dict[str, nn.Module], base: EncoderOnly) -> dict[str, nn.Module]:
    """``pair``, once its outputs agree; raises where they don't."""
    size = base.get_submodule("image_encoder").img_size
    x = torch.rand(1, 3, size, size)  # type: ignore[call-overload]
    with torch.no_grad():
        ours, theirs = (model.get_submodule("image_encoder")(x) for model in pair.values())
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    return pair


def measure(tokens: int, depth: int, rounds: int) -> None:
    """Print the table of one grid; each group is timed beside the frozen encoder."""
    base = make_encoder(tokens, depth)
    x = torch.rand(1, 3, PATCH * tokens, PATCH * tokens, requires_grad=True)
    print(f"\n{tokens}x{tokens} tokens, {depth} blocks of width 768 (CPU time, {rounds} rounds)")
    print(f"{'':<27}{'x frozen':>9}{'x full':>8}{'seconds':>9}{'saved MiB':>11}{'trainable':>12}")
    full = math.nan
    for group in groups(base):
        models = {"frozen": base, **group}
        steps = {name: partial(step, model, x) for name, model in models.items()}
        times = interleaved(steps, rounds)
        if "full fine-tuning" in times:  # the first group
            full = times["full fine-tuning"] / times["frozen"]
        for name, model in models.items():
            if name == "frozen" and "full fine-tuning" not in group:
                continue  # once
            ratio = times[name] / times["frozen"]
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            own = [*model.parameters(), *model.buffers()]
            saved = saved_bytes(partial(model.get_submodule("image_encoder"), x), own) / 2**20
            print(
                f"{name:<27}{ratio:>9.2f}{ratio / full:>8.2f}{times[name]:>9.2f}"
                f"{saved:>11.1f}{trained:>12,}",
                flush=True,
            )


def measure_prefix(rounds: int) -> None:
    """Last-4 LoRA over cached features against LoRA in all 12 blocks, 14x14 tokens."""
    base = make_encoder(14, 12)
    x = torch.rand(1, 3, 224, 224)
    whole, late = adapted(base, LoRA(rank=4)), adapted(base, LoRA(rank=4, blocks="last:4"))
    encoder = late.image_encoder
    with torch.no_grad():
        features = encoder.forward_prefix(x, 8)  # type: ignore[operator]

    def cached() -> None:
        late.zero_grad(set_to_none=True)
        encoder.forward_suffix(features, 8).square().mean().backward()  # type: ignore[operator]

    a, b = interleaved({"all": lambda: step(whole, x), "last": cached}, rounds).values()
    print(f"\n224 px, depth 12, LoRA r=4: all 12 {a:.2f} s, last 4 cached {b:.2f} s: {a / b:.2f} x")


def measure_merged(tokens: int, depth: int, rounds: int) -> None:
    """Inference of merged networks against the plain one and the released forms."""
    base = make_encoder(tokens, depth)
    x = torch.rand(1, 3, PATCH * tokens, PATCH * tokens)
    salt = adapted(base, SALT())
    models = {
        "plain": base,
        "salt": salt,
        "  SALT's released form": released(salt, SALTLinear, ReleasedSALT),
        "salt, merged": copy.deepcopy(salt),
        "lora, merged": adapted(base, LoRA()),
    }
    for name in ("salt, merged", "lora, merged"):
        merge_adapters(models[name])
    with torch.no_grad():
        encoders = {name: model.get_submodule("image_encoder") for name, model in models.items()}
        times = interleaved({n: partial(e, x) for n, e in encoders.items()}, rounds)
    print(f"\ninference, {tokens}x{tokens} tokens, {depth} blocks: times relative to plain")
    for name, seconds in times.items():
        print(f"{name:<27}{seconds / times['plain']:>9.2f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Print all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[14, 28], help="side of the grid")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    start = time.perf_counter()
    first = adapted(make_encoder(14, 1), SSAM())
    cold = time.perf_counter() - start
    start = time.perf_counter()
    adapted(make_encoder(14, 1), SSAM())
    print(f"adapting a block with S-SAM: {cold:.1f} s, again {time.perf_counter() - start:.1f} s")
    del first
    for tokens in args.tokens:
        measure(tokens, args.depth, args.rounds)
    measure_prefix(args.rounds)
    measure_merged(28, args.depth, 2 * args.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
