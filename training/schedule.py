"""Learning-rate schedule, stepped once an iteration."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, *, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Linear warm-up from 1 / warmup_steps to 1, then half a cosine to 0 at ``total_steps``."""
    if not 0 <= warmup_steps < max(total_steps, 1):
        msg = (
            f"warmup_steps must be in [0, {total_steps}) of {total_steps} steps, got {warmup_steps}"
        )
        raise ValueError(msg)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    return LambdaLR(optimizer, factor)
