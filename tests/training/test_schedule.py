import math

import pytest
import torch

from samtune.training.schedule import (
    make_schedule,
    num_updates,
    warmup_schedule,
)


def rates(warmup_steps, total_steps, lr=2.0):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = warmup_schedule(
        "cosine", optimizer, warmup_steps=warmup_steps, total_steps=total_steps
    )
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


def named(name, warmup_steps, total_steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_schedule(name, optimizer, warmup_steps=warmup_steps, total_steps=total_steps)
    return [2.0 * schedule.lr_lambdas[0](step) for step in range(total_steps + 2)]


def test_polynomial_and_constant_after_the_same_warm_up():
    expected = [0.5, 1.0, 1.5, 2.0, *(2 * (1 - step / 8) ** 0.9 for step in range(9)), 0.0]
    assert named("polynomial", 4, 12) == pytest.approx(expected)
    assert named("constant", 4, 12) == [0.5, 1.0, 1.5, *[2.0] * 11]
    assert named("constant", 0, 3) == [2.0] * 5


def test_an_unknown_schedule_names_the_known_ones():
    with pytest.raises(ValueError, match="one of cosine, polynomial, constant, got 'step'"):
        named("step", 0, 5)


@pytest.mark.parametrize(
    ("batches", "accumulation", "steps"), [(7, 1, 7), (7, 2, 4), (7, 7, 1), (7, 8, 1), (8, 2, 4)]
)
def test_steps_of_an_epoch(batches, accumulation, steps):
    assert num_updates(batches, accumulation) == steps


def test_the_schedule_of_a_run_counts_steps_and_warms_up_for_a_quarter_at_most():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    options = {"epochs": 2, "batches": 7, "accumulation": 2}  # 8 steps
    schedule = make_schedule("cosine", optimizer, warmup_steps=30, **options)
    factors = [schedule.lr_lambdas[0](step) for step in range(9)]
    expected = [0.5, *(0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(7)), 0.0]
    assert factors == pytest.approx([0.5, 1.0, *expected[1:8]])
