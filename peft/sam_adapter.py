"""SAM-Adapter (Chen et al. 2023, arXiv:2304.09148; EVP, arXiv:2303.10883).

With x0 the tokens that enter the first block, I the image, i = 0 .. depth:

    F   = W_pe x0 + b + W_hfc patches(hfc(I)) + b      task information, ``tune_width`` channels
    P_i = up(GELU(tune_i(F)))                          tune_i: a layer for each i; up: shared
    x   <- x0 + P_0 before block 0;   x <- block_i(x) + P_{i+1} after block i

hfc(I) is |I| without its low frequencies: of the centred spectrum a square with the fraction
``tau`` of its area is set to zero. Here ``up`` starts at zero, so that step 0 is the frozen network
(the released code starts at random values). Where blocks differ in width or grid (TinyViT), each
width has its own ``up``, and F is averaged onto the grid.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.peft.bottleneck import _generator, linear
from samtune.peft.protocol import Method, NotMergeableError, Site


def high_frequencies(image: Tensor, tau: float) -> Tensor:
    """Magnitude of ``image`` (``b c h w``) without the central square of its spectrum.

    Args:
        tau: fraction of the spectrum's area that is removed, in [0, 1].
    """
    height, width = image.shape[-2:]
    half = int((height * width * tau) ** 0.5 // 2)
    # half precision has no transform of every size
    fine = image.to(torch.promote_types(image.dtype, torch.float32))
    spectrum = torch.fft.fftshift(torch.fft.fft2(fine, norm="forward"), dim=(-2, -1))
    keep = torch.ones(height, width, device=image.device)
    keep[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half] = 0
    back = torch.fft.ifftshift(spectrum * keep, dim=(-2, -1))
    high: Tensor = torch.fft.ifft2(back, norm="forward").real.abs().to(image.dtype)
    return high


class TaskPrompts(nn.Module):
    """The trained layers, and what they compute from an image while it passes the encoder."""

    def __init__(
        self,
        widths: list[int],
        stride: int,
        *,
        tune_width: int,
        hidden: int,
        tau: float,
        where: dict[str, Any],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.tau, self.stride = tau, stride
        self.patch_tune = linear(widths[0], tune_width, where, generator)
        self.hfc_tune = linear(3 * stride * stride, tune_width, where, generator)
        # the prompt before block 0, then one after each block
        self.widths = [widths[0], *widths]
        self.tune = nn.ModuleList(linear(tune_width, hidden, where, generator) for _ in self.widths)
        self.up = nn.ModuleDict(
            {str(w): linear(hidden, w, where, None) for w in dict.fromkeys(self.widths)}
        )
        self._images: list[Tensor] = []
        self._begun = False
        self._tokens = 0  # address of the tokens that the images became
        self._task: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies start without the images and prompts of the last forward."""
        return {**self.__dict__, "_images": [], "_begun": False, "_task": None}

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(name for name, _ in self.named_parameters())

    def merge(self) -> nn.Module:
        """Refused: it adds layers."""
        raise NotMergeableError("sam_adapter")

    def see(self, image: Tensor) -> None:
        """Keep images (``b 3 h w``) until the first block is reached.

        An encoder may embed a batch image by image and run the blocks on all of it.
        """
        if self._begun:
            self._images.clear()
            self._begun = False
        self._images.append(image)

    def begin(self, x: Tensor) -> Tensor:
        """Tokens ``b h w c`` of the first block, with P_0; F is kept for the others.

        Raises:
            RuntimeError: no image came before, or a checkpointed block is run again after another
                image came: the prompts of the first are gone.
        """
        if len(self._images) == 0:
            msg = "sam_adapter: the patch embedding was not called before the first block"
            raise RuntimeError(msg)
        # kept until the next image comes: a checkpointed block is run a second time
        if not torch.compiler.is_compiling():
            if self._begun and x.data_ptr() != self._tokens:
                msg = (
                    "sam_adapter with gradient checkpointing takes one forward before each "
                    "backward: put the images into one batch"
                )
                raise RuntimeError(msg)
            self._tokens = x.data_ptr()
        self._begun = True
        image = torch.cat(self._images)[-x.shape[0] :]  # a forward that failed may have left more
        patches = F.pixel_unshuffle(high_frequencies(image, self.tau), self.stride)
        self._task = self.patch_tune(x) + self.hfc_tune(patches.permute(0, 2, 3, 1))
        return x + self.prompt(0, x)

    def prompt(self, index: int, x: Tensor) -> Tensor:
        """P_index for tokens ``b h w c``."""
        task = self._task
        if task is None:
            msg = "sam_adapter: the first block was not called before this one"
            raise RuntimeError(msg)
        if task.shape[1:3] != x.shape[1:3]:
            size = (x.shape[1], x.shape[2])
            task = F.adaptive_avg_pool2d(task.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
        up: nn.Module = self.up[str(self.widths[index])]
        out: Tensor = up(F.gelu(self.tune[index](task)))
        return out


class _Hook:
    """A hook with what it needs; a class, so that copies of a model get hooks of their own."""

    def __init__(self, prompts: TaskPrompts, index: int = 0) -> None:
        self.prompts, self.index = prompts, index


class _See(_Hook):
    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.prompts.see(args[0])


class _Begin(_Hook):
    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        return self.prompts.begin(args[0])


class _Add(_Hook):
    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + self.prompts.prompt(self.index, output)


@dataclass(frozen=True, kw_only=True)
class SAMAdapter(Method):
    """SAM-Adapter on the whole encoder; ``blocks`` must be ``all``.

    Attributes:
        tune_width: channels of the task information.
        hidden: channels inside the adapters.
        tau: fraction of the spectrum's area that is removed.
    """

    name = "sam_adapter"
    about = "prompts from tokens and high image frequencies, added between blocks"
    source = "arXiv:2304.09148"
    mergeable = False

    tune_width: int = field(default=192, metadata={"help": "channels of the task information"})
    hidden: int = field(default=32, metadata={"help": "channels inside the adapters"})
    tau: float = field(default=0.25, metadata={"help": "removed fraction of the spectrum"})

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            msg = f"tau must be in [0, 1], got {self.tau}"
            raise ValueError(msg)

    def inject(self, site: Site) -> list[str]:
        """Hang the prompts on the encoder."""
        encoder_blocks = [block for block in site.blocks if block.component == "encoder"]
        if len(encoder_blocks) != len(site.all_blocks):
            msg = "sam_adapter works on all blocks of the encoder: blocks must be 'all'"
            raise ValueError(msg)
        encoder = site.model.get_submodule("image_encoder")
        # the second norm is as wide as the block's output, the first as its input
        weights = [site.model.get_parameter(f"{b.norms[1]}.weight") for b in encoder_blocks]
        like = weights[0]
        prompts = TaskPrompts(
            [len(w) for w in weights],
            encoder_blocks[0].stride,
            tune_width=self.tune_width,
            hidden=self.hidden,
            tau=self.tau,
            where={"device": like.device, "dtype": like.dtype},
            generator=_generator(site),
        )
        prompts.train(encoder.training)
        encoder.add_module("sam_adapter", prompts)
        encoder.get_submodule("patch_embed").register_forward_pre_hook(_See(prompts))
        for index, block in enumerate(encoder_blocks):
            module = site.model.get_submodule(block.path)
            if index == 0:
                module.register_forward_pre_hook(_Begin(prompts))
            module.register_forward_hook(_Add(prompts, index + 1))
        return ["image_encoder.sam_adapter"]
