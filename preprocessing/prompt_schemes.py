"""How prompts are made from a reference label: boxes, points or both, by one small description."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from samtune.preprocessing.prompts import (
    Mask,
    PointsXY,
    Region,
    centre_point,
    connected_regions,
    inner_part,
    random_points,
    tight_box,
)
from samtune.preprocessing.slice_transforms import IGNORED

Box = Literal["none", "tight", "full"]
Places = Literal["uniform", "inner", "centre"]
Owner = Literal["region", "class"]


@dataclass(frozen=True, kw_only=True)
class PromptScheme:
    """What prompts a label gives.

    Attributes:
        box: ``tight`` around the mask; ``full``: the image's, whatever the label; ``none``.
        jitter_px: (least, most) whole pixels that each side of a tight box moves outward, both
            included, each side by itself; then it is clipped to the image.
        jitter_at: long side in pixels of the image that ``jitter_px`` is meant for; the numbers
            drawn are scaled from there. ``None``: pixels of the image at hand.
        jitter_percent: (least, most) outward move in percent of the side's length, uniform.
        noise_percent: standard deviation of a normal move of each side, in or out, in percent of
            the side's length; at most ``noise_px`` pixels of an image whose long side is
            ``noise_at``.
        noise_px, noise_at: see ``noise_percent``.
        regions: which connected parts of a class are prompted for: its ``whole`` mask at once,
            ``all`` parts, the ``largest``, or ``random`` ones.
        num_regions: of ``largest`` and ``random`` parts at most.
        one_per: ``region``: a prompt for each part; ``class``: one for all of them together.
        num_points: points inside, for a class: spread over its parts evenly, the larger first.
        num_background: points outside, for a prompt.
        points: where inside: ``uniform``; ``inner``: among the deepest pixels (``inner_fraction``);
            ``centre``: the deepest, at most one a part.
        inner_fraction: share of a part's pixels that ``inner`` draws from.
        replace: a pixel may be drawn twice; otherwise small parts give fewer points.
        pad_points: length of the point list, filled with label -1; 0: as long as needed.
        either: each prompt is its box or its points, with equal chance.

    Raises:
        ValueError: a value out of range or of an unknown word.
    """

    box: Box = "none"
    jitter_px: tuple[int, int] = (0, 0)
    jitter_at: int | None = None
    jitter_percent: tuple[float, float] = (0.0, 0.0)
    noise_percent: float = 0.0
    noise_px: int = 20
    noise_at: int = 1024
    regions: Region = "whole"
    num_regions: int = 1
    one_per: Owner = "class"
    num_points: int = 0
    num_background: int = 0
    points: Places = "uniform"
    inner_fraction: float = 0.1
    replace: bool = False
    pad_points: int = 0
    either: bool = False

    def __post_init__(self) -> None:
        for name, words in (
            ("box", Box),
            ("regions", Region),
            ("one_per", Owner),
            ("points", Places),
        ):
            value = getattr(self, name)
            if value not in get_args(words):
                msg = f"{name} must be one of {', '.join(get_args(words))}, got '{value}'"
                raise ValueError(msg)
        for name in ("jitter_px", "jitter_percent"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                msg = f"{name} must be (least, most) with 0 <= least <= most, got ({low}, {high})"
                raise ValueError(msg)
        if min(self.num_points, self.num_background, self.pad_points) < 0 or self.num_regions < 1:
            msg = "numbers of points must be at least 0 and num_regions at least 1"
            raise ValueError(msg)
        if min(self.noise_percent, self.noise_px) < 0 or self.noise_at < 1:
            msg = "noise_percent and noise_px must be at least 0 and noise_at at least 1"
            raise ValueError(msg)
        if self.either and (self.box == "none" or self.length == 0):
            msg = "either a box or points: the scheme must have both"
            raise ValueError(msg)
        if not 0 < self.inner_fraction <= 1:
            msg = f"inner_fraction must be in (0, 1], got {self.inner_fraction}"
            raise ValueError(msg)
        if self.pad_points and self.pad_points < self.length:
            msg = f"pad_points {self.pad_points} is less than the {self.length} points of a prompt"
            raise ValueError(msg)

    @property
    def length(self) -> int:
        """Points a prompt has at most."""
        return self.num_points + self.num_background

    @property
    def uses_label(self) -> bool:
        """Are the prompts an oracle's, made from the reference?"""
        return self.box == "tight" or self.length > 0

    def without_chance(self) -> "PromptScheme":
        """The same with nothing left to chance, for validation and tests.

        Boxes as tight as they are; one point in the centre of each part that has any, and none
        outside; the largest parts where random ones are drawn; of box or points the points.
        """
        return replace(
            self,
            box="none" if self.either else self.box,
            jitter_px=(0, 0),
            jitter_at=None,
            jitter_percent=(0.0, 0.0),
            noise_percent=0.0,
            regions="largest" if self.regions == "random" else self.regions,
            # of several parts each gets one of its share
            num_points=min(self.num_points, 1) if self.regions == "whole" else self.num_points,
            num_background=0,
            points="centre" if self.num_points else "uniform",
            inner_fraction=0.1,
            replace=False,
            pad_points=0,
            either=False,
        )


# The references' schemes, by their names. Differs from them: boxes end one past the last pixel, and
# an empty mask gives no prompt, where they give a box or points at (0, 0) or leave the slice out. A
# prompt here is one box and one list of points: of several boxes each is a prompt of its own.
PRESETS: dict[str, PromptScheme] = {
    "no_prompt": PromptScheme(),
    "full_box": PromptScheme(box="full"),
    "oracle_box": PromptScheme(box="tight"),
    "centre_point": PromptScheme(num_points=1, points="centre"),
    "oracle_hybrid": PromptScheme(box="tight", num_points=1, points="centre"),
    # the first prompt of SAM's interactive training (arXiv:2304.02643, appendix A)
    "sam_first": PromptScheme(box="tight", noise_percent=10.0, num_points=1, either=True),
    "sam_adapter": PromptScheme(box="tight"),
    # outward by randint(0, 5), whose upper end is excluded, in pixels of the image itself
    "sam_lora": PromptScheme(box="tight", jitter_px=(0, 4), num_points=5, replace=True),
    "medsam": PromptScheme(box="tight", jitter_px=(0, 20), jitter_at=1024),
    "finetune_sam_box": PromptScheme(
        box="tight",
        jitter_percent=(0.0, 10.0),
        regions="largest",
        num_regions=3,
        one_per="region",
    ),
    # Differs from finetune-SAM: label -1 is padding here and no token of SAM's
    "finetune_sam_point": PromptScheme(
        regions="largest", num_regions=3, num_points=5, points="inner", pad_points=8
    ),
    # Differs from finetune-SAM: each of the three boxes is a prompt, with its share of the points
    "finetune_sam_hybrid": PromptScheme(
        box="tight",
        jitter_percent=(0.0, 10.0),
        regions="largest",
        num_regions=3,
        one_per="region",
        num_points=5,
        points="inner",
        pad_points=8,
    ),
}


def scheme_of(scheme: str | PromptScheme) -> PromptScheme:
    """A preset by its name; a scheme is given back.

    Raises:
        ValueError: no such preset.
    """
    if isinstance(scheme, PromptScheme):
        return scheme
    if scheme not in PRESETS:
        msg = f"unknown prompt scheme '{scheme}', expected one of: {', '.join(PRESETS)}"
        raise ValueError(msg)
    return PRESETS[scheme]


@dataclass(frozen=True)
class Prompts:
    """Prompts of one image, in pixels of the label they were made from.

    Attributes:
        boxes: ``P 4`` float32 XYXY, x1 and y1 one past the last pixel; a row of NaN is no box.
        points: ``P N 2`` float32 (x, y) pixel indices.
        point_labels: ``P N`` int64: 1 inside, 0 outside, -1 no point.
        owners: ``P`` int64: which of the classes asked for a prompt belongs to.
        targets: ``P h w`` bool: what each prompt asks for; empty where it is none.
    """

    boxes: npt.NDArray[np.float32]
    points: npt.NDArray[np.float32]
    point_labels: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    targets: npt.NDArray[np.bool_]


def make_prompts(
    label: npt.NDArray[Any],
    regions: Sequence[Sequence[int]],
    scheme: str | PromptScheme,
    generator: np.random.Generator,
) -> Prompts:
    """Prompts from a label, in the order of ``regions``.

    Each region has a fixed number of prompts (1, ``num_regions``, or with ``all`` parts as many as
    there are, at least 1); those without a part, and all of an empty mask, hold nothing: box NaN,
    point labels -1. Only ``full_box`` is there whether the class is or not.

    Args:
        label: class map ``h w``; no point is made where it is
            :data:`~samtune.preprocessing.slice_transforms.IGNORED`.
        regions: class values of each class or union of classes that is prompted for.
        scheme: a :class:`PromptScheme` or a name of :data:`PRESETS`.
        generator: source of all chance; not touched by a scheme without any.
    """
    scheme = scheme_of(scheme)
    slots: list[_Slot] = []
    for owner, values in enumerate(regions):
        slots += _slots(owner, np.isin(label, list(values)), scheme, generator)
    length = max(scheme.pad_points, scheme.length)
    boxes = np.full((len(slots), 4), np.nan, np.float32)
    points = np.zeros((len(slots), length, 2), np.float32)
    labels = np.full((len(slots), length), -1, np.int64)
    targets = np.zeros((len(slots), *label.shape), bool)
    for i, slot in enumerate(slots):
        for part in slot.parts:
            targets[i] |= part
        box = _box(targets[i], scheme, generator)
        if box is not None:
            boxes[i] = box
        if slot.parts:
            inside = _inside(slot, scheme, generator)
            background = ~np.isin(label, [*regions[slot.owner], IGNORED])
            outside = random_points(background, scheme.num_background, generator=generator)
            number = len(inside) + len(outside)
            points[i, :number] = np.concatenate([inside, outside])
            labels[i, : len(inside)] = 1
            labels[i, len(inside) : number] = 0
            if scheme.either and generator.integers(2) == 1:
                boxes[i] = np.nan
            elif scheme.either:
                labels[i] = -1
    owners = np.array([slot.owner for slot in slots], np.int64)
    return Prompts(boxes, points, labels, owners, targets)


@dataclass(frozen=True)
class _Slot:
    """A prompt to be made: its class, the parts it is for, and how many points go into each."""

    owner: int
    parts: tuple[Mask, ...]
    shares: tuple[int, ...]


def _slots(
    owner: int, mask: Mask, scheme: PromptScheme, generator: np.random.Generator
) -> list[_Slot]:
    parts = connected_regions(mask, scheme.regions, number=scheme.num_regions, generator=generator)
    each, left = divmod(scheme.num_points, max(len(parts), 1))
    shares = [each + (i < left) for i in range(len(parts))]
    if scheme.one_per == "class":
        return [_Slot(owner, tuple(parts), tuple(shares))]
    slots = [_Slot(owner, (part,), (n,)) for part, n in zip(parts, shares, strict=True)]
    number = scheme.num_regions if scheme.regions in ("largest", "random") else 1
    return slots + [_Slot(owner, (), ())] * (number - len(slots))


def _box(
    target: Mask, scheme: PromptScheme, generator: np.random.Generator
) -> npt.NDArray[np.float64] | None:
    height, width = target.shape
    if scheme.box == "none":
        return None
    if scheme.box == "full":
        return np.array([0.0, 0.0, width, height])
    tight = tight_box(target)
    if tight is None:
        return None
    box = np.array(tight, np.float64)
    outward = np.zeros(4)
    if scheme.jitter_px[1] > 0:
        scale = 1.0 if scheme.jitter_at is None else max(height, width) / scheme.jitter_at
        outward += scale * generator.integers(*scheme.jitter_px, size=4, endpoint=True)
    if scheme.jitter_percent[1] > 0:
        sides = np.tile(box[2:] - box[:2], 2)
        outward += sides * generator.uniform(*scheme.jitter_percent, size=4) / 100
    box += outward * (-1, -1, 1, 1)
    if scheme.noise_percent > 0:
        most = scheme.noise_px * max(height, width) / scheme.noise_at
        moves = np.tile(box[2:] - box[:2], 2) * generator.normal(0, scheme.noise_percent / 100, 4)
        noisy = box + moves.clip(-most, most)
        # opposite sides stay a pixel apart
        box = np.concatenate([np.minimum(noisy[:2], box[2:] - 1), np.maximum(noisy[2:], box[:2])])
        box[2:] = np.maximum(box[2:], box[:2] + 1)
    return box.clip(0, (width, height, width, height))


def _inside(slot: _Slot, scheme: PromptScheme, generator: np.random.Generator) -> PointsXY:
    found = [np.zeros((0, 2), np.float32)]
    for part, number in zip(slot.parts, slot.shares, strict=True):
        if number == 0:
            continue
        if scheme.points == "centre":
            found.append(centre_point(part))
            continue
        source = inner_part(part, scheme.inner_fraction) if scheme.points == "inner" else part
        drawn = random_points(source, number, generator=generator, replace=scheme.replace)
        found.append(drawn)
    return np.concatenate(found)
