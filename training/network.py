"""The network of a run: a SAM, its class head, and the PEFT method put into it."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from samtune.networks import ARCHITECTURES, SamSegmenter, build_sam
from samtune.networks.checkpointing import set_checkpointing
from samtune.networks.class_head import JoinReport
from samtune.networks.segmenter import Activation
from samtune.networks.text_embeddings import load_text_embeddings
from samtune.peft.adapt import AdaptSummary, adapt, method_configs, summarise
from samtune.peft.adapter_file import (
    BASE_DEFAULTS,
    HEAD_PREFIX,
    AdapterFile,
    load_adapter,
    read_adapter,
)
from samtune.peft.registry import build_methods
from samtune.training.clicks import Clicks, click_rounds
from samtune.training.warm_start import warm_start

logger = logging.getLogger(__name__)

# a quarter of the cost of LiteMedSAM's native 256, enough for small structures cut out large
DEFAULT_IMAGE_SIZE = {"lite_medsam": 128}
PROMPTS = ("none", "box", "point", "hybrid", "clicks")


class AdaptedSegmenter(SamSegmenter):
    """A :class:`SamSegmenter` that knows how it was adapted.

    Attributes:
        peft: method and decoder policy, as they stand in adapter files.
        summary: parameter counts.
        joined: which classes came from another adapter, if training starts from one.
        prompts: kind of prompts it is trained with, one of :data:`PROMPTS`; with any but ``none``
            the class head is not trained and a forward without prompts is refused.
    """

    peft: dict[str, Any]
    summary: AdaptSummary
    joined: JoinReport | None = None
    prompts: str = "none"

    def decoder_paths(self) -> list[str]:
        """Modules of the mask decoder that the masks it is trained for depend on."""
        paths = super().decoder_paths()
        if self.prompts == "none":
            return paths
        tokens = [*paths, "mask_decoder.mask_tokens"]
        if self.prompts == "clicks":
            parts = ("output_hypernetworks_mlps", "iou_prediction_head")
            return [*tokens, *(f"mask_decoder.{part}" for part in parts)]
        return [*tokens, "mask_decoder.output_hypernetworks_mlps.0"]

    def forward(
        self,
        image: Tensor,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        from_block: int | None = None,
        clicks: Clicks | None = None,
    ) -> Any:
        """See :class:`~samtune.networks.SamSegmenter`.

        Args:
            clicks: simulate clicks after the prompts; the result is that of
                :func:`samtune.training.clicks.click_rounds`.

        Raises:
            ValueError: no prompt, and the network was trained with prompts.
        """
        if clicks is not None:
            embedding = self.encode(image, from_block)
            return click_rounds(self, embedding, boxes, points, point_labels, clicks)
        given = (boxes, points, point_labels, masks)
        if self.prompts == "none":
            return super().forward(image, *given, from_block=from_block)
        if all(prompt is None for prompt in given):
            msg = (
                f"this network was trained with prompts ({self.prompts}) and has no trained class "
                "head: give boxes or points, or train without prompts to segment without"
            )
            raise ValueError(msg)
        found = super().forward(image, *given, from_block=from_block)
        if torch.is_grad_enabled() and not found[1].any():
            # no prompt in the batch: every trained parameter still gets a gradient, of zero
            idle = sum(p.sum() for p in self.parameters() if p.requires_grad)
            return found[0] + 0 * idle, found[1]
        return found


def build_network(
    *,
    arch: str = "auto",
    checkpoint: str | Path | None = None,
    image_size: int | str | None = "auto",
    num_classes: int,
    peft: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    decoder: str = "full",
    seed: int = 0,
    adapter: str | Path | AdapterFile | None = None,
    normalization: str = "auto",
    class_names: Sequence[str] | None = None,
    activation: str = "softmax",
    text_embeddings: str | Path | Tensor | None = None,
    init_adapter: str | Path | None = None,
    checkpointing: bool = False,
    prompts: str = "none",
) -> AdaptedSegmenter:
    """Build, adapt, and where asked load a trained adapter.

    Args:
        arch, checkpoint: see :func:`samtune.networks.build_sam`.
        image_size: pixels; ``auto``: 128 for ``lite_medsam``, the native size for the others.
        num_classes: foreground classes.
        peft: ``{"name": "lora", ...}``, or a list of such; ``None``: the encoder stays as it is.
        decoder: ``frozen``, ``full``, or a method's name: that method in the decoder too.
        seed: of the initial factors.
        adapter: file of a trained adapter of exactly this network.
        normalization: ``auto``, ``sam`` or ``medsam``; see :func:`samtune.networks.build_sam`.
        class_names: of the foreground classes, in channel order.
        activation: ``softmax``, or ``sigmoid`` for channels that may overlap.
        text_embeddings: file of ``samtune text`` that has every class name, or the rows themselves.
        init_adapter: file of a trained adapter to start from: same base and method, any classes;
            the class head is joined by class name, see
            :func:`samtune.training.warm_start.warm_start`.
        checkpointing: see :func:`samtune.networks.checkpointing.set_checkpointing`.
        prompts: kind of prompts it is trained with, see :class:`AdaptedSegmenter`.

    Raises:
        ValueError: an argument is wrong, or a file doesn't fit.
        FileNotFoundError: a file isn't there.
    """
    text = text_embeddings
    if isinstance(text, (str, Path)):
        if class_names is None:
            msg = f"text embeddings '{text}' need class_names"
            raise ValueError(msg)
        text = load_text_embeddings(text).rows(class_names)
    size = None
    if image_size == "auto":
        name = "lite_medsam" if arch == "auto" and checkpoint is None else arch
        size = DEFAULT_IMAGE_SIZE.get(name)
    elif image_size is not None:
        size = int(image_size)
    sam = build_sam(arch, checkpoint, size, normalization=normalization)
    preferred = DEFAULT_IMAGE_SIZE.get(sam.arch, sam.image_size)
    if image_size == "auto" and sam.image_size != preferred:  # recognised from the checkpoint
        sam = build_sam(sam.arch, checkpoint, preferred, normalization=sam.normalization)
    network = AdaptedSegmenter(
        sam,
        num_classes,
        class_names=class_names,
        activation=cast(Activation, activation),  # checked there
        text=text,
    )
    set_checkpointing(network.image_encoder, checkpointing)
    if prompts not in PROMPTS:
        msg = f"prompts must be one of {', '.join(PROMPTS)}, got '{prompts}'"
        raise ValueError(msg)
    network.prompts = prompts
    methods = build_methods(peft)
    generator = torch.Generator().manual_seed(seed)
    network.summary = adapt(network, methods, decoder=decoder, generator=generator)
    network.peft = method_configs(methods, decoder)
    if prompts != "none":
        network.class_head.requires_grad_(False)  # no mask of a prompt depends on it
        network.summary = summarise(network, network.summary.adapted)
        if network.summary.trainable == 0:
            msg = f"prompts: {prompts} with decoder: {decoder} and no method: nothing is trained"
            raise ValueError(msg)
    if init_adapter is not None and adapter is None:
        network.joined = warm_start(network, init_adapter, peft=network.peft)
        logger.info("classes from '%s': %s", init_adapter, network.joined)
    if adapter is not None:
        load_adapter(network, adapter, peft=network.peft)
    return network


def network_from_adapter(
    path: str | Path, *, checkpoint: str | Path | None = None
) -> tuple[AdaptedSegmenter, AdapterFile]:
    """Rebuild the network of an adapter file and load it.

    Args:
        checkpoint: base weights; ``None``: the packaged ones, where the architecture has them.

    Raises:
        FileNotFoundError: no such adapter.
        ValueError: it isn't one, or is of other base weights, or of random ones, which are kept
            nowhere.
    """
    adapter = read_adapter(path)
    if adapter.base["base_sha256"] == "random":
        msg = (
            f"adapter '{path}' was trained on random base weights (checkpoint: random), which are "
            "kept nowhere; train on a checkpoint to use the result"
        )
        raise ValueError(msg)
    if adapter.base["arch"] not in ARCHITECTURES:
        msg = (
            f"adapter '{path}' is for architecture '{adapter.base['arch']}', known are: "
            f"{', '.join(ARCHITECTURES)}"
        )
        raise ValueError(msg)
    base = {**BASE_DEFAULTS, **adapter.base}
    network = build_network(
        arch=adapter.base["arch"],
        checkpoint=checkpoint,
        image_size=adapter.base["image_size"],
        num_classes=adapter.base["num_classes"],
        peft=adapter.peft["method"],
        decoder=adapter.peft["decoder"],
        adapter=adapter,
        normalization=adapter.base["normalization"],  # what it was trained with
        class_names=base["class_names"],
        activation=base["activation"],
        text_embeddings=adapter.tensors.get(f"{HEAD_PREFIX}text_embeddings"),
        prompts=base["prompts"],
    )
    return network.eval(), adapter
