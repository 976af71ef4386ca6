"""Every backbone beside its own published module: loading, equality, sizes, cost.

    python benchmarks/table_backbones.py --timed vit_b vit_t sam2_tiny --json table.json

For each backbone the published module gets random weights, which are written under its published
names and loaded by ``build_sam("auto", file)``. One image at 256 px (MobileSAM: 1024, the only size
its own code takes) passes both; the differences of embedding and masks (a box, two points, both)
are relative to the largest value. Counts: LoRA r=4 on q and v, SALT with its defaults, all blocks,
decoder frozen, without class head. ``--timed``: forward, and forward and backward from an input
that needs a gradient, frozen weights, at the native size, in turn, CPU time and saved bytes.
"""

import argparse
import gc
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samtune.benchmarks.timing import interleaved, saved_bytes
from samtune.benchmarks.upstream_backbones import UPSTREAM, Upstream, at_size
from samtune.networks import ARCHITECTURES, Sam, SamSegmenter, build_sam
from samtune.peft.adapt import adapt
from samtune.peft.registry import build_method

COMPARED_SIZE = 256
FIXED_SIZE = {"vit_t": 1024}
METHODS: dict[str, dict[str, Any]] = {
    "lora r=4": {"name": "lora", "rank": 4},
    "salt": {"name": "salt"},
}


def prompts_for(size: int) -> dict[str, dict[str, Tensor]]:
    """One prompt of each kind for one image."""
    box = torch.tensor([[0.2, 0.3, 0.7, 0.8]]) * size
    points = torch.tensor([[[0.4, 0.5], [0.9, 0.1]]]) * size
    labels = torch.tensor([[1, 0]])
    return {
        "box": {"boxes": box},
        "points": {"points": points, "point_labels": labels},
        "box and points": {"boxes": box, "points": points, "point_labels": labels},
    }


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def compare(arch: str, upstream: Upstream, sam: Sam) -> dict[str, float]:
    """Differences of embedding and masks on one image of ``sam.image_size``."""
    size = sam.image_size
    if arch.startswith("vit_") and arch != "vit_t":
        at_size(upstream.module, size)
    segmenter = SamSegmenter(sam, 1).eval()
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    maps = upstream.encode(image)
    embedding = segmenter.encode(image)
    source, high_res = segmenter.mask_decoder.split(embedding)  # type: ignore[operator]
    theirs = list(maps)[::-1] if arch.startswith("sam2") else [maps]
    ours = [source, *high_res]
    out = {"embedding": max(difference(a, b) for a, b in zip(ours, theirs, strict=True))}
    for name, prompts in prompts_for(size).items():
        low = upstream.masks(maps, prompts)
        expected = nn.functional.interpolate(
            low, (size, size), mode="bilinear", align_corners=False
        )
        found, valid = segmenter(image, **{k: v[:, None] for k, v in prompts.items()})
        assert bool(valid.all())
        out[name] = difference(found, expected)
    return out


def count(arch: str) -> dict[str, int]:
    """Trainable parameters of the methods, on the meta device."""
    out = {}
    for label, config in METHODS.items():
        with torch.device("meta"):
            sam = build_sam(arch, "random")
        summary = adapt(sam, build_method({**config, "blocks": "all"}), decoder="frozen")
        out[label] = summary.trainable
    return out


def time_pair(upstream: Upstream, sam: Sam, rounds: int) -> dict[str, float]:
    """Our time and saved bytes over upstream's, encoder alone, at the native size."""
    size = sam.image_size
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    upstream.module.requires_grad_(False)
    sam.requires_grad_(False)

    def theirs(image: Tensor) -> Tensor:
        maps = upstream.encode(image)
        return maps if isinstance(maps, Tensor) else torch.cat([m.flatten() for m in maps])

    encoders: dict[str, Callable[[Tensor], Tensor]] = {
        "upstream": theirs,
        "ours": sam.image_encoder,
    }

    def forward(encode: Any) -> None:
        with torch.no_grad():
            encode(x)

    def step(encode: Any) -> None:
        leaf = x.clone().requires_grad_(True)
        encode(leaf).square().mean().backward()

    out: dict[str, float] = {"size": size}
    for name, do in (("forward", forward), ("step", step)):
        times = interleaved({k: partial(do, e) for k, e in encoders.items()}, rounds)
        out[f"{name} s"] = times["ours"]
        out[f"{name} ratio"] = times["ours"] / times["upstream"]
    own = [*upstream.module.parameters(), *upstream.module.buffers()]
    own += [*sam.parameters(), *sam.buffers()]
    leaf = x.clone().requires_grad_(True)
    saved = {k: saved_bytes(partial(e, leaf), [*own, leaf]) for k, e in encoders.items()}
    out["saved MiB"] = saved["ours"] / 2**20
    out["saved ratio"] = saved["ours"] / saved["upstream"]
    return out


def row(arch: str, folder: Path, timed: bool, rounds: int) -> dict[str, Any]:
    """One backbone's facts."""
    size = FIXED_SIZE.get(arch, COMPARED_SIZE)
    upstream = UPSTREAM[arch](arch, size)
    file = folder / f"{arch}.pth"
    torch.save(dict(upstream.module.state_dict()), file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the file's hash is no published one
        native = build_sam("auto", file) if timed else None
        sam = build_sam("auto", file, size)
    file.unlink()
    out: dict[str, Any] = {"arch": sam.arch, "size": size, "counts": count(arch)}
    if native is not None:
        out["timed"] = time_pair(UPSTREAM[arch](arch, native.image_size), native, rounds)
    out["differences"] = compare(arch, upstream, sam)
    step = ARCHITECTURES[arch].size_multiple
    out["sizes"] = f"{ARCHITECTURES[arch].native_size}, any multiple of {step}"
    return out


def show(arch: str, facts: Mapping[str, Any]) -> None:
    """Print one row."""
    counts = "".join(f"{n:>12,}" for n in facts["counts"].values())
    differences = "".join(f"{d:>10.1e}" for d in facts["differences"].values())
    print(f"{arch:<16}{facts['arch']:<16}{facts['size']:>5}{differences}{counts}", flush=True)
    if "timed" in facts:
        t = facts["timed"]
        print(
            f"    encoder at {t['size']} px, ours over upstream's: forward {t['forward ratio']:.2f}"
            f" ({t['forward s']:.2f} s), step {t['step ratio']:.2f} ({t['step s']:.2f} s), "
            f"saved {t['saved ratio']:.2f} ({t['saved MiB']:.0f} MiB)",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=list(UPSTREAM), choices=list(UPSTREAM))
    parser.add_argument("--timed", nargs="*", default=[], choices=list(UPSTREAM))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the facts here too")
    args = parser.parse_args(argv)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'published as':<16}{'found to be':<16}{'px':>5}{'embedding':>10}{'box':>10}", end="")
    print(f"{'points':>10}{'both':>10}" + "".join(f"{name:>12}" for name in METHODS), flush=True)
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        for arch in args.backbones:
            table[arch] = row(arch, Path(folder), arch in args.timed, args.rounds)
            show(arch, table[arch])
            gc.collect()
    if args.json is not None:
        args.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
