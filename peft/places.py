"""Where methods act: the transformer blocks of a SAM, with the layers in each.

An encoder that has ``adapter_sites()`` says where its layers are; ``segment_anything``'s own
encoder is recognised by its structure. The mask decoder's names are the same in every SAM.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from samtune.peft.blocks import BlockSpec, select_blocks

QKV = ("q", "k", "v")
# names of targets: slices of a fused qkv (or the separate projections), all of it, and the rest
TARGETS = (*QKV, "qkv", "proj", "lin1", "lin2", "mlp")


@dataclass(frozen=True)
class LinearPlace:
    """A linear layer.

    Attributes:
        role: ``qkv``, ``q``, ``k``, ``v``, ``proj``, ``lin1`` or ``lin2``.
        path: below the model.
        rows: of a fused qkv, the output rows of queries, keys and values.
    """

    role: str
    path: str
    rows: dict[str, Tensor] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class BlockPlace:
    """A transformer block; all paths are below the model.

    Attributes:
        component: ``encoder`` or ``decoder``.
        path: the block (the decoder's last attention is a block of its own).
        linears: its linear layers, in forward order.
        attentions: its attention modules.
        norms: its LayerNorms.
        mlp: the MLP module; ``None`` where the block has none.
        mlp_norm: the norm that the MLP module applies itself, if it does.
        stride: image pixels a token is wide; 0 in the decoder.
    """

    component: Literal["encoder", "decoder"]
    path: str
    linears: tuple[LinearPlace, ...]
    attentions: tuple[str, ...]
    norms: tuple[str, ...]
    mlp: str | None
    mlp_norm: str | None
    stride: int

    def targets(self, names: Sequence[str]) -> Iterator[tuple[str, list[Tensor] | None]]:
        """(path, groups of output rows or ``None`` for the whole layer) of the named targets."""
        wanted = {*names, *(("lin1", "lin2") if "mlp" in names else ())}
        for place in self.linears:
            if place.rows is not None and "qkv" not in wanted:
                groups = [place.rows[name] for name in names if name in QKV]
                if groups:
                    yield place.path, groups
            elif place.role in wanted or (place.role in QKV and "qkv" in wanted):
                yield place.path, None


def check_targets(targets: Sequence[str], allowed: Sequence[str] = TARGETS) -> tuple[str, ...]:
    """The targets as a tuple.

    Raises:
        ValueError: none, an unknown one, one twice, or two that overlap.
    """
    names = (targets,) if isinstance(targets, str) else tuple(targets)
    if not names or not set(names) <= set(allowed):
        msg = f"targets must be among {', '.join(allowed)}, got {names}"
        raise ValueError(msg)
    if len(set(names)) != len(names):
        msg = f"targets: each at most once, got {names}"
        raise ValueError(msg)
    for whole, parts in (("qkv", QKV), ("mlp", ("lin1", "lin2"))):
        if whole in names and set(parts) & set(names):
            msg = f"targets: '{whole}' includes {', '.join(parts)}, got {names}"
            raise ValueError(msg)
    return names


@dataclass(frozen=True)
class Places:
    """All blocks of a model."""

    encoder: tuple[BlockPlace, ...]
    decoder: tuple[BlockPlace, ...]

    def choose(self, blocks: BlockSpec, decoder: bool) -> list[BlockPlace]:
        """The chosen blocks of the encoder and, where asked, all of the decoder."""
        chosen = [self.encoder[i] for i in select_blocks(blocks, len(self.encoder))]
        return chosen + (list(self.decoder) if decoder else [])


def find_places(model: nn.Module) -> Places:
    """List the blocks of ``model``.

    Args:
        model: has ``image_encoder`` and may have ``mask_decoder``: a ``SamSegmenter``, or
            ``segment_anything``'s ``Sam``.

    Raises:
        ValueError: the encoder neither lists its blocks nor is ``segment_anything``'s.
    """
    encoder = model.get_submodule("image_encoder")
    if hasattr(encoder, "adapter_sites"):
        blocks = [_of_site(site, encoder) for site in encoder.adapter_sites()]  # type: ignore[operator]
    else:
        blocks = _of_upstream(encoder)
    has_decoder = any(name == "mask_decoder" for name, _ in model.named_children())
    decoder = _of_decoder(model.get_submodule("mask_decoder")) if has_decoder else []
    return Places(tuple(blocks), tuple(decoder))


def _of_site(site: Any, encoder: nn.Module) -> BlockPlace:
    root = "image_encoder."
    out_features = encoder.get_submodule(site.qkv).out_features
    rows = qkv_rows(int(out_features), site.num_heads, site.layout)  # type: ignore[arg-type]
    linears = (
        LinearPlace("qkv", root + site.qkv, rows),
        LinearPlace("proj", root + site.proj),
        LinearPlace("lin1", root + site.lin1),
        LinearPlace("lin2", root + site.lin2),
    )
    return BlockPlace(
        component="encoder",
        path=root + site.block,
        linears=linears,
        attentions=(root + site.attn,),
        norms=tuple(root + norm for norm in site.norms),
        mlp=root + site.mlp,
        mlp_norm=None if site.mlp_norm is None else root + site.mlp_norm,
        stride=site.stride,
    )


def _of_upstream(encoder: nn.Module) -> list[BlockPlace]:
    paths = {name for name, _ in encoder.named_modules()}
    blocks = sorted({p for p in paths if p.startswith("blocks.") and p.count(".") == 1}, key=_last)
    parts = ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2", "norm1", "norm2")
    if not blocks or any(f"{b}.{part}" not in paths for b in blocks for part in parts):
        msg = (
            f"{type(encoder).__name__} has no adapter_sites() and not the structure of "
            "segment_anything's image encoder (blocks.N.attn.qkv, ...)"
        )
        raise ValueError(msg)
    kernel = encoder.get_submodule("patch_embed.proj").kernel_size
    out = []
    for block in blocks:
        b = f"image_encoder.{block}"
        out_features = encoder.get_submodule(f"{block}.attn.qkv").out_features
        linears = (
            LinearPlace("qkv", f"{b}.attn.qkv", qkv_rows(int(out_features), 1, "qkv")),  # type: ignore[arg-type]
            LinearPlace("proj", f"{b}.attn.proj"),
            LinearPlace("lin1", f"{b}.mlp.lin1"),
            LinearPlace("lin2", f"{b}.mlp.lin2"),
        )
        norms = (f"{b}.norm1", f"{b}.norm2")
        stride = int(kernel[0])  # type: ignore[index]
        out.append(
            BlockPlace("encoder", b, linears, (f"{b}.attn",), norms, f"{b}.mlp", None, stride)
        )
    return out


def _of_decoder(decoder: nn.Module) -> list[BlockPlace]:
    root = "mask_decoder.transformer"
    blocks = []
    for i in range(len(decoder.get_submodule("transformer.layers"))):  # type: ignore[arg-type]
        b = f"{root}.layers.{i}"
        names = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
        attentions = tuple(f"{b}.{name}" for name in names)
        linears = [place for path in attentions for place in _of_attention(path)]
        linears += [LinearPlace("lin1", f"{b}.mlp.lin1"), LinearPlace("lin2", f"{b}.mlp.lin2")]
        norms = tuple(f"{b}.norm{n}" for n in (1, 2, 3, 4))
        blocks.append(
            BlockPlace("decoder", b, tuple(linears), attentions, norms, f"{b}.mlp", None, 0)
        )
    last = f"{root}.final_attn_token_to_image"
    blocks.append(
        BlockPlace(
            component="decoder",
            path=last,
            linears=_of_attention(last),
            attentions=(last,),
            norms=(f"{root}.norm_final_attn",),
            mlp=None,
            mlp_norm=None,
            stride=0,
        )
    )
    return blocks


def _of_attention(path: str) -> tuple[LinearPlace, ...]:
    roles = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj": "out_proj"}
    return tuple(LinearPlace(role, f"{path}.{name}") for role, name in roles.items())


def _last(path: str) -> int:
    return int(path.rsplit(".", 1)[1])


def qkv_rows(out_features: int, num_heads: int, layout: str) -> dict[str, Tensor]:
    """Output rows of queries, keys and values of a fused weight, a third of them each.

    Args:
        layout: ``qkv``: [q | k | v]; ``heads``: [q_h, k_h, v_h] for each head (equal widths).
    """
    index = torch.arange(out_features, device="cpu")
    if layout == "qkv":
        parts = index.view(3, -1)
    elif layout == "heads":
        parts = index.view(num_heads, 3, -1).transpose(0, 1).flatten(1)
    else:
        msg = f"qkv layout must be 'qkv' or 'heads', got '{layout}'"
        raise ValueError(msg)
    return dict(zip(QKV, parts, strict=True))
