"""Position tables at another image size than the checkpoint's.

SAM's ViT holds two kinds of tables whose shapes follow the token grid: ``pos_embed``
``(1, h, w, c)``, and in its global blocks ``rel_pos_h`` and ``rel_pos_w`` ``(2 g - 1, d)``. At
another size the first is interpolated bicubically (ViT, arXiv:2010.11929, section 3.2), the others
linearly, as ``segment_anything`` itself does where a table's length doesn't fit its grid. Tables of
the right shape are left as they are, bit for bit; everything else in SAM knows no size.
"""

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_REL_POS = re.compile(r"(?:.+\.)?blocks\.\d+\.attn\.rel_pos_[hw]")
_POS_EMBED = re.compile(r"(?:.+\.)?pos_embed")


def is_table(name: str) -> bool:
    """Is ``name`` that of a table whose shape follows the image size?"""
    return bool(_REL_POS.fullmatch(name) or _POS_EMBED.fullmatch(name))


def fits_any_size(name: str, found: Tensor, own: Tensor) -> bool:
    """Same shape; of a table, same width."""
    if is_table(name):
        return found.ndim == own.ndim and found.shape[-1] == own.shape[-1]
    return found.shape == own.shape


def resize_pos_embed(table: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """``1 h w c`` to ``1 H W c``, bicubic, corners not aligned; the same grid is untouched."""
    if tuple(table.shape[1:3]) == grid_hw:
        return table
    channels_first = table.to(torch.float32).permute(0, 3, 1, 2)
    out = F.interpolate(channels_first, grid_hw, mode="bicubic", align_corners=False)
    return out.permute(0, 2, 3, 1).contiguous().to(table.dtype)


def resize_rel_pos(table: Tensor, length: int) -> Tensor:
    """``l d`` to ``length d``, linear, corners not aligned."""
    rows = table.to(torch.float32).t()[None]
    out = F.interpolate(rows, length, mode="linear", align_corners=False)
    return out[0].t().contiguous().to(table.dtype)


def fit_tables(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """``state`` with its tables at the size of ``module``'s.

    Only tables that differ in length are touched; another width is left for the strict loader to
    report.
    """
    own = module.state_dict()
    out = dict(state)
    for name, table in state.items():
        wanted = own[name].shape if name in own else table.shape
        if not is_table(name) or table.shape == wanted or table.ndim != len(wanted):
            continue
        if table.shape[-1] != wanted[-1] or not table.is_floating_point():
            continue
        if table.ndim == 4 and table.shape[0] == wanted[0]:
            out[name] = resize_pos_embed(table, (wanted[1], wanted[2]))
        elif table.ndim == 2:
            out[name] = resize_rel_pos(table, wanted[0])
    return out
