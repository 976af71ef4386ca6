"""Learning-rate schedules, stepped once a step of the optimizer."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

SCHEDULES = ("cosine", "polynomial", "constant")
POWER = 0.9  # of the polynomial, as DeepLab and finetune-SAM have it


def make_schedule(
    name: str,
    optimizer: Optimizer,
    *,
    warmup_steps: int,
    epochs: int,
    batches: int,
    accumulation: int = 1,
) -> LambdaLR:
    """The schedule of a run.

    Args:
        name: ``cosine``, ``polynomial`` or ``constant``, see :func:`warmup_schedule`.
        optimizer: whose rates it sets.
        warmup_steps: steps of the optimizer; at most a quarter of the run is warm-up.
        epochs, batches: of the run, and of an epoch.
        accumulation: batches a step; an epoch's last step may have fewer.
    """
    total = epochs * num_updates(batches, accumulation)
    steps = min(warmup_steps, total // 4)
    return warmup_schedule(name, optimizer, warmup_steps=steps, total_steps=total)


def num_updates(batches: int, accumulation: int) -> int:
    """Steps of the optimizer in an epoch.

    Raises:
        ValueError: ``accumulation`` is not a number of batches.
    """
    if isinstance(accumulation, bool) or int(accumulation) != accumulation or accumulation < 1:
        msg = f"accumulation must be a number of batches, 1 or more, got {accumulation!r}"
        raise ValueError(msg)
    return math.ceil(batches / accumulation)


def warmup_schedule(
    name: str, optimizer: Optimizer, *, warmup_steps: int, total_steps: int
) -> LambdaLR:
    """Linear warm-up from 1 / warmup_steps to 1, then to 0 at ``total_steps``, or constant.

    Args:
        name: ``cosine``: half a cosine; ``polynomial``: (1 - share done) ** 0.9; ``constant``: 1.
        optimizer: whose rates it sets.
        warmup_steps, total_steps: steps of the optimizer.

    Raises:
        ValueError: another name, or a warm-up that doesn't end before the run.
    """
    if name not in SCHEDULES:
        msg = f"schedule must be one of {', '.join(SCHEDULES)}, got '{name}'"
        raise ValueError(msg)
    if not 0 <= warmup_steps < max(total_steps, 1):
        msg = (
            f"warmup_steps must be in [0, {total_steps}) of {total_steps} steps, got {warmup_steps}"
        )
        raise ValueError(msg)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if name == "constant":
            return 1.0
        done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        if name == "polynomial":
            return float((1 - done) ** POWER)
        return 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)
