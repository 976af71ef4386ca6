import math

import pytest
import torch

from samtune.training.schedule import warmup_cosine


def rates(warmup_steps, total_steps, lr=2.0):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = warmup_cosine(optimizer, warmup_steps=warmup_steps, total_steps=total_steps)
    out = []
    for _ in range(total_steps + 2):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return out


def test_warm_up_is_linear_and_ends_at_the_full_rate():
    assert rates(4, 12)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_then_half_a_cosine_to_zero_where_it_stays():
    got = rates(4, 12)[4:]
    expected = [1 + math.cos(math.pi * step / 8) for step in range(9)]
    assert got == pytest.approx([*expected, 0.0], abs=1e-12)
    assert got[4] == pytest.approx(1.0)  # half way, half the rate


def test_without_warm_up():
    assert rates(0, 2) == pytest.approx([2.0, 1.0, 0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize(("warmup", "total"), [(5, 5), (-1, 5), (1, 0)])
def test_warm_up_must_end_before_the_run_does(warmup, total):
    with pytest.raises(ValueError, match=f"got {warmup}"):
        rates(warmup, total)
