"""Bottleneck adapters: small two-layer networks beside or behind frozen layers.

adapter(x) = up(act(down(x))), with ``up`` zero at the start: the network is the frozen one at step
0. (The reference implementations start at random values, or add a residual twice; ours don't.)
They hang on the frozen modules by forward hooks, so that these keep their names.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from samtune.peft.places import BlockPlace
from samtune.peft.protocol import Method, NotMergeableError, Site


class Bottleneck(nn.Module):
    """down, activation, up.

    Args:
        like: a tensor whose last axis is the width, for device and dtype.
        hidden: width between the two layers.
        activation: ``relu`` or ``gelu``.
        scale: factor of the output.
        learned_scale: train the factor.
        generator: for ``down``.
    """

    def __init__(
        self,
        like: Tensor,
        hidden: int,
        *,
        activation: str = "gelu",
        scale: float = 1.0,
        learned_scale: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if hidden < 1:
            msg = f"an adapter's hidden width must be at least 1, got {hidden}"
            raise ValueError(msg)
        width = like.shape[-1]
        where: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.down = linear(width, hidden, where, generator)
        self.act = {"relu": nn.ReLU, "gelu": nn.GELU}[activation]()
        self.up = linear(hidden, width, where, None)
        self.scale: Tensor | float
        if learned_scale:
            self.scale = nn.Parameter(torch.tensor([scale], **where))
        else:
            self.scale = scale

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(name for name, _ in self.named_parameters())

    def merge(self) -> nn.Module:
        """Refused: there is a non-linearity inside."""
        raise NotMergeableError("a bottleneck adapter")

    def forward(self, x: Tensor) -> Tensor:  # ... c
        """The scaled output, without ``x``."""
        out: Tensor = self.up(self.act(self.down(x))) * self.scale
        return out


def linear(
    inputs: int, outputs: int, where: dict[str, Any], generator: torch.Generator | None
) -> nn.Linear:
    """A linear layer with PyTorch's initial distribution, or zeros without a generator."""
    layer = nn.Linear(inputs, outputs, device="meta")
    weight, bias = torch.zeros(outputs, inputs), torch.zeros(outputs)
    if generator is not None:
        bound = inputs**-0.5
        weight.uniform_(-bound, bound, generator=generator)
        bias.uniform_(-bound, bound, generator=generator)
    layer.weight = nn.Parameter(weight.to(**where))
    layer.bias = nn.Parameter(bias.to(**where))
    return layer


def _beside(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    x = args[0]
    norm = getattr(module, "adapter_norm", "")
    update: Tensor = module.adapter_beside(module.get_submodule(norm)(x) if norm else x)  # type: ignore[operator]
    return output + update


def _behind(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    update: Tensor = module.adapter_behind(output)  # type: ignore[operator]
    return output + update


def _before(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
    x = args[0]
    update: Tensor = module.adapter_before(x)  # type: ignore[operator]
    return x + update


def _hang(site: Site, path: str, name: str, adapter: Bottleneck) -> str:
    module = site.model.get_submodule(path)
    if hasattr(module, name):
        msg = f"'{path}' has such an adapter already"
        raise ValueError(msg)
    adapter.train(module.training)
    module.add_module(name, adapter)
    if name == "adapter_before":
        module.register_forward_pre_hook(_before)
    else:
        module.register_forward_hook({"adapter_beside": _beside, "adapter_behind": _behind}[name])
    return f"{path}.{name}"


def _beside_mlp(site: Site, block: BlockPlace, adapter: Bottleneck) -> str:
    assert block.mlp is not None
    if block.mlp_norm is not None:
        inner = block.mlp_norm.removeprefix(f"{block.mlp}.")
        site.model.get_submodule(block.mlp).adapter_norm = inner  # type: ignore[assignment]
    return _hang(site, block.mlp, "adapter_beside", adapter)


def _width(site: Site, block: BlockPlace) -> Tensor:
    """A tensor as wide as the block's features, behind the attention where that widens them."""
    norm = site.model.get_submodule(block.norms[1])
    assert isinstance(norm, nn.LayerNorm)
    return norm.weight


def _generator(site: Site) -> torch.Generator:
    # zeros are for `up` alone: without a generator draw from torch's own
    if site.generator is not None:
        return site.generator
    return torch.Generator().manual_seed(int(torch.randint(2**31, ())))


@dataclass(frozen=True, kw_only=True)
class AdaptFormer(Method):
    """A bottleneck parallel to the MLP, on its normalised input, with a trained factor.

    Attributes:
        hidden: width of the bottleneck.
        scale: the factor at the start (the paper: 0.1).
    """

    name = "adaptformer"
    about = "ReLU bottleneck parallel to the MLP"
    source = "Chen et al. 2022, arXiv:2205.13535"
    mergeable = False

    hidden: int = field(default=64, metadata={"help": "width of the bottleneck"})
    scale: float = field(default=0.1, metadata={"help": "initial factor, trained"})

    def inject(self, site: Site) -> list[str]:
        """Hang one on the MLP of each chosen block."""
        return [
            _beside_mlp(
                site,
                block,
                Bottleneck(
                    _width(site, block),
                    self.hidden,
                    activation="relu",
                    scale=self.scale,
                    learned_scale=True,
                    generator=_generator(site),
                ),
            )
            for block in site.blocks
            if block.mlp is not None
        ]


@dataclass(frozen=True, kw_only=True)
class Houlsby(Method):
    """One bottleneck behind the attention (with skip), one parallel to the MLP.

    As Medical-SAM-Adapter places them (arXiv:2304.12620): the first on the attention's output,
    inside the window. In the mask decoder as finetune-SAM does (arXiv:2404.09957): one before norm2
    and norm4, shared by both, and one parallel to the MLP.

    Attributes:
        ratio: width of the bottleneck as a fraction of the block's.
        mlp_scale: factor of the parallel one.
    """

    name = "houlsby"
    about = "GELU bottlenecks behind the attention and parallel to the MLP"
    source = "arXiv:1902.00751; as placed in arXiv:2304.12620 and arXiv:2404.09957"
    mergeable = False

    ratio: float = field(default=0.25, metadata={"help": "bottleneck width / block width"})
    mlp_scale: float = field(default=0.5, metadata={"help": "factor of the parallel one"})

    def inject(self, site: Site) -> list[str]:
        """Hang two on each chosen block."""
        paths = []
        for block in site.blocks:
            if block.mlp is None:  # the decoder's last attention
                continue
            if block.component == "encoder":
                paths.append(
                    _hang(site, block.attentions[0], "adapter_behind", self._make(site, block, 1.0))
                )
            else:
                shared = self._make(site, block, 1.0)
                paths.append(_hang(site, block.norms[1], "adapter_before", shared))
                _hang(site, block.norms[3], "adapter_before", shared)
            paths.append(_beside_mlp(site, block, self._make(site, block, self.mlp_scale)))
        return paths

    def _make(self, site: Site, block: BlockPlace, scale: float) -> Bottleneck:
        like = _width(site, block)
        hidden = int(like.shape[-1] * self.ratio)
        return Bottleneck(like, hidden, scale=scale, generator=_generator(site))
