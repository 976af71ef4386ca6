"""Methods that train parameters of the network itself: nothing is added, nothing to merge."""

from collections.abc import Iterator
from dataclasses import dataclass

from samtune.peft.protocol import Method, Site, adapted_modules


def _below(site: Site, paths: Iterator[str], ending: str = "") -> list[str]:
    """Parameters below ``paths``, those that other methods added left out."""
    prefixes = tuple(f"{path}." for path in paths)
    added = {
        f"{path}.{name}"
        for path, module in adapted_modules(site.model)
        for name in module.adapter_parameter_names()
    }
    names = [name for name, _ in site.model.named_parameters() if name not in added]
    return [n for n in names if n.startswith(prefixes) and n.endswith(ending)]


def _whole(site: Site) -> Iterator[str]:
    """The chosen blocks, and norms of theirs that lie beside them (the decoder's last one)."""
    return (path for block in site.blocks for path in (block.path, *block.norms))


@dataclass(frozen=True, kw_only=True)
class Bias(Method):
    """All biases of the chosen blocks (BitFit, Ben Zaken et al. 2021, arXiv:2106.10199)."""

    name = "bias"
    about = "biases of the blocks"
    source = "arXiv:2106.10199"

    def inject(self, site: Site) -> list[str]:
        """List them."""
        return _below(site, _whole(site), ".bias")


@dataclass(frozen=True, kw_only=True)
class LayerNorms(Method):
    """Weights and biases of the chosen blocks' LayerNorms."""

    name = "layernorm"
    about = "LayerNorms of the blocks"
    source = "arXiv:2312.11420"

    def inject(self, site: Site) -> list[str]:
        """List them."""
        return _below(site, (norm for block in site.blocks for norm in block.norms))


@dataclass(frozen=True, kw_only=True)
class Attention(Method):
    """Everything in the chosen blocks' attention, position biases included."""

    name = "attention"
    about = "attention layers of the blocks, whole"
    source = "arXiv:2203.09795"

    def inject(self, site: Site) -> list[str]:
        """List it."""
        return _below(site, (path for block in site.blocks for path in block.attentions))


@dataclass(frozen=True, kw_only=True)
class Blocks(Method):
    """Whole blocks, with ``blocks: last:N`` the end of the encoder (late fine-tuning)."""

    name = "blocks"
    about = "chosen blocks, whole"
    source = "plain fine-tuning"

    def inject(self, site: Site) -> list[str]:
        """List them."""
        return _below(site, _whole(site))


@dataclass(frozen=True, kw_only=True)
class PosEmbed(Method):
    """The absolute position embedding; ``blocks`` has no effect.

    Encoders without one (TinyViT) are refused.
    """

    name = "pos_embed"
    about = "absolute position embedding"
    source = "as trained by S-SAM, arXiv:2408.06447"

    def inject(self, site: Site) -> list[str]:
        """List it."""
        name = "image_encoder.pos_embed"
        if all(name != n for n, _ in site.model.named_parameters()):
            msg = "the image encoder has no absolute position embedding to train"
            raise ValueError(msg)
        return [name]


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """The whole image encoder; ``blocks`` has no effect."""

    name = "full"
    about = "the whole encoder"
    source = "plain fine-tuning"

    def inject(self, site: Site) -> list[str]:
        """List it."""
        return _below(site, iter(["image_encoder"]))


@dataclass(frozen=True, kw_only=True)
class DecoderOnly(Method):
    """Nothing of the encoder: with ``decoder: full`` the mask decoder alone."""

    name = "decoder_only"
    about = "nothing of the encoder; the decoder as its policy says"
    source = "plain fine-tuning"

    def inject(self, site: Site) -> list[str]:
        """Nothing."""
        return []
