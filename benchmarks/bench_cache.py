"""What cached features save a training step: SAM ViT-B, random weights, batch 1, in one process.

    python benchmarks/bench_cache.py --size 1024 --rounds 3

``decoder only``: forward and backward of the mask decoder for one box prompt, the encoder run at
every step against its embedding read from the cache. ``last 4``: LoRA in the last 4 blocks over
features read from the cache against LoRA in all 12. Cached features are read from the disk at every
step, float16. Variants take turns; medians of CPU time. First the cached losses are shown to be the
others. ``--json FILE`` keeps the figures.
"""

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samtune.atomic import write_atomically
from samtune.benchmarks.timing import interleaved
from samtune.networks import SamSegmenter
from samtune.networks.build import assemble_sam
from samtune.networks.feature_cache import FeatureCache, feature_source
from samtune.networks.sam_vit import SamViT
from samtune.peft.adapt import adapt
from samtune.peft.lora import LoRA

HALF_TOLERANCE = 2e-3  # relative, of a loss over float16 features


def make_segmenter(size: int, depth: int, method: LoRA | None) -> SamSegmenter:
    """ViT-B's width at ``size`` pixels, adapted, in training mode; always the same base weights."""
    torch.manual_seed(0)
    encoder = SamViT(
        image_size=size,
        dim=768,
        depth=depth,
        num_heads=12,
        global_blocks=tuple(range(2, depth, 3)),
    )
    sam = assemble_sam(encoder, arch="vit_b", image_size=size, normalization="sam")
    segmenter = SamSegmenter(sam, 1)
    decoder = "full" if method is None else "frozen"
    adapt(segmenter, method, decoder=decoder, generator=torch.Generator().manual_seed(0))
    return segmenter.train()


def cached(cache: FeatureCache, segmenter: SamSegmenter, image: Tensor) -> Callable[[], Tensor]:
    """Puts the features of ``image`` (``1 c h w``) into the cache; returns what reads them."""
    block = segmenter.frozen_prefix()
    key = feature_source(segmenter, block, cache.dtype).key(image[0])
    features = segmenter.prefix(image, block)
    cache.put(key, features[0])

    def read() -> Tensor:
        found = cache.get(key)
        assert found is not None
        return found[None].to(torch.float32)

    torch.testing.assert_close(read(), features, rtol=1e-3, atol=1e-5)
    return read


def step(segmenter: SamSegmenter, image: Tensor, **options: Any) -> float:
    """Zero gradients, forward, backward; the loss."""
    segmenter.zero_grad(set_to_none=True)
    out = segmenter(image, **options)
    logits = out[0] if isinstance(out, tuple) else out
    loss = torch.nn.functional.softplus(logits).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def compare(slow: Callable[[], float], fast: Callable[[], float], rounds: int) -> dict[str, float]:
    """Seconds of both, whose losses have to agree, and their ratio."""
    a, b = slow(), fast()
    if abs(a - b) > HALF_TOLERANCE * abs(a):
        msg = f"loss {a:.6f} without the cache, {b:.6f} with it"
        raise RuntimeError(msg)
    times = interleaved({"without": slow, "with": fast}, rounds)
    return {**times, "ratio": times["without"] / times["with"]}


def decoder_only(size: int, depth: int, rounds: int, cache: FeatureCache) -> dict[str, float]:
    """Encoder at every step against its cached embedding."""
    segmenter = make_segmenter(size, depth, None)
    image = torch.rand(1, 3, size, size)
    boxes = torch.tensor([[[0.2, 0.3, 0.7, 0.8]]]) * size
    read = cached(cache, segmenter, image)
    block = segmenter.frozen_prefix()
    return compare(
        lambda: step(segmenter, image, boxes=boxes),
        lambda: step(segmenter, read(), boxes=boxes, from_block=block),
        rounds,
    )


def last_blocks(size: int, depth: int, rounds: int, cache: FeatureCache) -> dict[str, float]:
    """LoRA in all blocks against LoRA in the last 4 over cached features."""
    image = torch.rand(1, 3, size, size)
    whole = make_segmenter(size, depth, LoRA(rank=4))
    late = make_segmenter(size, depth, LoRA(rank=4, blocks="last:4"))
    read = cached(cache, late, image)
    block = late.frozen_prefix()
    # LoRA starts as the frozen network: all three losses are one
    return compare(
        lambda: step(whole, image),
        lambda: step(late, read(), from_block=block),
        rounds,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print both ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, help="side of the image, pixels")
    parser.add_argument("--depth", type=int, default=12, help="blocks of the encoder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if args.size % 16 or args.depth < 5:
        parser.error("--size must be a multiple of 16, --depth at least 5")
    measures = {"decoder only": decoder_only, "last 4": last_blocks}
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in measures.items():
            cache = FeatureCache(Path(folder, name.replace(" ", "_")), 2**30)
            results[name] = measure(args.size, args.depth, args.rounds, cache)
            found = results[name]
            print(
                f"{name:<14}{args.size} px, {args.depth} blocks: without {found['without']:.3f} s, "
                f"with the cache {found['with']:.3f} s: {found['ratio']:.1f} x",
                flush=True,
            )
    if args.json:
        about = {
            "size": args.size,
            "depth": args.depth,
            "rounds": args.rounds,
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "results": results,
        }
        write_atomically(args.json, (json.dumps(about, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
