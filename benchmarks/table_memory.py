"""Peak memory of a training step at batch 1, by backbone, size and method: computed, not measured.

    python benchmarks/table_memory.py --json memory.json

Nothing is calculated and no GPU is needed: a forward runs on the meta device, on tensors that have
a shape but no values. The sum of

- weights (4 bytes a parameter), gradients and AdamW's two moments (12 bytes a trained parameter),
- what autograd keeps for the backward pass: unique storages, weights apart, with the fused
  attention that a GPU takes; for bfloat16 autocast half of it and a copy of the weights, which is
  an estimate: some operations stay in float32,

in GiB. Not in it: passing tensors of single operations, the caching allocator's gaps, the CUDA
context (about half a GiB). ``checkpointed``: of each encoder block its input is kept, and all of
one block at a time. ``last:2``: frozen blocks before the adapted ones keep nothing, cached or not.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from samtune.atomic import write_atomically
from samtune.networks import ARCHITECTURES, SamSegmenter, build_sam
from samtune.peft.adapt import adapt
from samtune.peft.registry import build_method

GIB = 2**30
# name: method, blocks, whether blocks are checkpointed
METHODS: dict[str, tuple[str, str, bool]] = {
    "full": ("full", "all", False),
    "LoRA, all blocks": ("lora", "all", False),
    "LoRA, checkpointed": ("lora", "all", True),
    "LoRA, last:2": ("lora", "last:2", False),
    "decoder only": ("decoder_only", "all", False),
}
ROWS = (
    ("lite_medsam", 128),
    ("lite_medsam", 256),
    ("vit_t", 1024),
    ("vit_b", 512),
    ("vit_b", 1024),
    ("vit_l", 512),
    ("vit_l", 1024),
    ("vit_h", 512),
    ("vit_h", 1024),
)
QUICK_ROWS = (("lite_medsam", 128), ("vit_b", 256))
CLASSES = 2


class Kept:
    """Bytes that autograd keeps for the backward pass, of which those within each block.

    Args:
        own: tensors that don't count, the model's parameters and buffers.
        blocks: of the encoder.
    """

    def __init__(self, own: Sequence[Tensor], blocks: Sequence[nn.Module]) -> None:
        self._mine = {t.untyped_storage()._cdata for t in own}
        self._seen: dict[int, Any] = {}
        self.total = 0
        self.blocks: dict[nn.Module, int] = {}
        self.inputs: dict[nn.Module, int] = {}
        for block in blocks:
            block.register_forward_pre_hook(self._enter)
            block.register_forward_hook(self._leave)

    def _enter(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():  # not in the frozen blocks before the adapted ones
            self.inputs[block] = inputs[0].untyped_storage().nbytes()
            self.blocks[block] = -self.total

    def _leave(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if torch.is_grad_enabled():
            self.blocks[block] += self.total

    def pack(self, tensor: Tensor) -> Tensor:
        """Hook of :class:`torch.autograd.graph.saved_tensors_hooks`."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._mine | self._seen.keys():
            self._seen[storage._cdata] = storage  # held: its address is not given again
            self.total += storage.nbytes()
        return tensor.detach()

    def peak(self, checkpointed: bool) -> int:
        """Bytes at the end of the forward pass, or when the largest block is done again."""
        if not checkpointed:
            return self.total
        rest = self.total - sum(self.blocks.values())
        return rest + sum(self.inputs.values()) + max(self.blocks.values())


@contextmanager
def no_values() -> Iterator[None]:
    """The kernel that a GPU takes: without one PyTorch would count the plain form, N x N."""

    def fused(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **_: Any,
    ) -> Tensor:
        out: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
        )[0]
        return out

    attention = "torch.nn.functional.scaled_dot_product_attention"
    # autocast doesn't know the device
    with mock.patch(attention, fused), mock.patch("torch.is_autocast_enabled", return_value=False):
        yield


def activations(
    arch: str, size: int, method: str, *, blocks: str, checkpointed: bool
) -> tuple[int, int, int]:
    """Bytes kept in float32, trained and all parameters, of one forward at batch 1."""
    with torch.device("meta"), no_values():
        segmenter = SamSegmenter(build_sam(arch, "random", size), CLASSES)
        adapt(segmenter, build_method({"name": method, "blocks": blocks}), decoder="full")
        segmenter.train()
        image = torch.empty(1, 3, size, size)
        encoder: Any = segmenter.image_encoder
        layers = [encoder] if not hasattr(encoder, "layers") else list(encoder.layers)
        inner = [block for layer in layers for block in getattr(layer, "blocks", [])]
        kept = Kept([*segmenter.parameters(), *segmenter.buffers()], inner)
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda t: t):
            out = segmenter(image)
        del out
        trained = sum(p.numel() for p in segmenter.parameters() if p.requires_grad)
        total = sum(p.numel() for p in segmenter.parameters())
    return kept.peak(checkpointed), trained, total


def cell(arch: str, size: int, way: str) -> dict[str, float]:
    """GiB of a step in float32 and under bfloat16 autocast."""
    method, blocks, checkpointed = METHODS[way]
    kept, trained, total = activations(arch, size, method, blocks=blocks, checkpointed=checkpointed)
    constant = 4 * total + 12 * trained
    return {
        "kept float32": kept / GIB,
        "float32": (constant + kept) / GIB,
        "bfloat16": (constant + 2 * total + kept / 2) / GIB,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", choices=list(ARCHITECTURES), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="two rows")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    rows = [
        row
        for row in (QUICK_ROWS if args.quick else ROWS)
        if args.backbones is None or row[0] in args.backbones
    ]
    print(f"| GiB, float32 / bfloat16 | {' | '.join(METHODS)} |\n|{'---|' * (len(METHODS) + 1)}")
    table: dict[str, dict[str, dict[str, float]]] = {}
    for arch, size in rows:
        label = f"{arch}, {size} px"
        table[label] = {name: cell(arch, size, name) for name in METHODS}
        shown = [f"{c['float32']:.2f} / {c['bfloat16']:.2f}" for c in table[label].values()]
        print(f"| {label} | {' | '.join(shown)} |", flush=True)
    if args.json:
        facts = {"torch": torch.__version__, "batch": 1, "computed": table}
        write_atomically(args.json, (json.dumps(facts, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
