"""The class head: what the mask decoder needs for one mask a class without a prompt."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEXT = ("text_embeddings", "text_projection.weight")


class ClassHead(nn.Module):
    """One output token, hypernetwork and bias a foreground class.

    Token and hypernetwork start from SAM's single-mask pair, the bias at 0.
    LiteMedSAM trained mask token 0 alone; tokens 1 to 3 are no starting point there.

    Args:
        mask_decoder: whose first token and hypernetwork are copied.
        num_classes: foreground classes.
        text: ``num_classes d``: an embedding of each class's name. A trained linear projection of
            it, zero at the start, is added to the class's token. The embeddings are kept as a
            buffer, so a trained head needs neither the text encoder nor its file.

    Raises:
        ValueError: ``text`` has another number of rows than there are classes.
    """

    def __init__(
        self, mask_decoder: nn.Module, num_classes: int, *, text: Tensor | None = None
    ) -> None:
        super().__init__()
        token = cast(Tensor, mask_decoder.mask_tokens.weight)[:1].detach()  # type: ignore[union-attr]
        hypernetwork: nn.Module = mask_decoder.get_submodule("output_hypernetworks_mlps.0")
        self.tokens = nn.Parameter(token.repeat(num_classes, 1))
        self.hypernetworks = nn.ModuleList(copy.deepcopy(hypernetwork) for _ in range(num_classes))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.text_projection: nn.Linear | None = None
        if text is not None:
            if text.ndim != 2 or len(text) != num_classes:
                msg = f"text must be ({num_classes} classes, d), got {tuple(text.shape)}"
                raise ValueError(msg)
            self.register_buffer("text_embeddings", text.detach().to(token).clone())
            # on no device first: drawing numbers only to zero them would move torch's generator
            projection = nn.Linear(text.shape[1], token.shape[1], bias=False, device="meta")
            self.text_projection = projection.to_empty(device=token.device).to(token.dtype)
            nn.init.zeros_(self.text_projection.weight)

    def class_tokens(self) -> Tensor:
        """The tokens ``num_classes c`` that enter the decoder: learned, and the names' part."""
        if self.text_projection is None:
            return self.tokens
        named: Tensor = self.text_projection(self.text_embeddings)
        return self.tokens + named

    def trained_buffer_names(self) -> tuple[str, ...]:
        """Buffers that belong to the trained tensors, for adapter files."""
        return () if self.text_projection is None else (TEXT[0],)

    @torch.no_grad()
    def plain_state(self) -> dict[str, Tensor]:
        """The state of a head without text that computes the same."""
        return plain_state(self.state_dict())


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A head's ``state_dict`` with the names' part added to the tokens."""
    plain = {name: tensor for name, tensor in state.items() if name not in TEXT}
    if TEXT[0] in state:
        plain["tokens"] = state["tokens"] + F.linear(state[TEXT[0]], state[TEXT[1]])
    return plain


@dataclass(frozen=True)
class JoinReport:
    """What became of each class when a head took another's.

    Attributes:
        joined: classes that both have: copied.
        new: classes of this head alone: they keep their start.
        left: classes of the other head alone: not used.
    """

    joined: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        parts = (("joined", self.joined), ("new", self.new), ("left out", self.left))
        return "; ".join(f"{what}: {', '.join(names) or 'none'}" for what, names in parts)


@torch.no_grad()
def join_class_head(
    head: ClassHead,
    names: Sequence[str],
    state: Mapping[str, Tensor],
    source_names: Sequence[str],
) -> JoinReport:
    """Copy token, hypernetwork and bias of every class that another head has under the same name.

    The tokens attend to each other in the decoder: beside other classes than before, a class's
    logits are near the trained ones, not equal.

    Args:
        head: changed in place.
        names: its classes, in channel order.
        state: ``state_dict`` of the other head, with or without text.
        source_names: its classes, in channel order.

    Raises:
        ValueError: names and tensors don't fit each other, a name is there twice, no name is
            shared, or the tensors are of another size. ``head`` is as it was then.
    """
    for what, listed, number in (
        ("class head", names, len(head.tokens)),
        ("source", source_names, len(state.get("tokens", ()))),
    ):
        if len(listed) != number:
            msg = f"{what} has {number} classes, but {len(listed)} names: {list(listed)}"
            raise ValueError(msg)
        twice = sorted({name for name in listed if list(listed).count(name) > 1})
        if twice:
            msg = f"{what} has two classes named '{twice[0]}': can't be joined by name"
            raise ValueError(msg)
    joined = tuple(name for name in names if name in source_names)
    if not joined:
        msg = f"no class name is shared: {list(names)} here, {list(source_names)} in the source"
        raise ValueError(msg)
    source = plain_state(state)
    own = head.state_dict()
    copies: list[tuple[Tensor, Tensor]] = []
    for name in joined:
        to, start = list(names).index(name), list(source_names).index(name)
        # with text: the token is what is left of the source's once the projection has its part
        part = head.class_tokens()[to] - head.tokens[to]
        copies.append((own["tokens"][to], source["tokens"][start] - part))
        copies.append((own["bias"][to], source["bias"][start]))
        prefix = f"hypernetworks.{to}."
        for key in [key for key in own if key.startswith(prefix)]:
            other = f"hypernetworks.{start}.{key.removeprefix(prefix)}"
            if other not in source:
                msg = f"source of class '{name}' lacks {other}"
                raise ValueError(msg)
            copies.append((own[key], source[other]))
    for to_tensor, from_tensor in copies:
        if to_tensor.shape != from_tensor.shape:
            shapes = f"{tuple(from_tensor.shape)}, expected {tuple(to_tensor.shape)}"
            msg = f"source has a class tensor of shape {shapes}"
            raise ValueError(msg)
    for to_tensor, from_tensor in copies:
        to_tensor.copy_(from_tensor)
    new = tuple(name for name in names if name not in joined)
    left = tuple(name for name in source_names if name not in joined)
    return JoinReport(joined, new, left)
