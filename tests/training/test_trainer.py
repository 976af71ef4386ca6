"""Accumulation and mixed precision, on a linear model whose gradients can be worked out."""

import math

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from torch import nn
from torch.utils.data import DataLoader

from samtune.training.handlers import ClipGradients, StepSchedule
from samtune.training.schedule import make_schedule
from samtune.training.trainer import SliceEvaluator, SliceTrainer, StepEvents

SAMPLES = 10


@pytest.fixture
def data(generator):
    x = torch.randn(SAMPLES, 3, generator=generator)
    return [{"image": row, "label": row.sum(0, keepdim=True) + 0.1 * row[:1]} for row in x]


def prepare(batch, device, non_blocking, **kwargs):
    return batch["image"], batch["label"], (), {}


def make(data, *, batch_size, handlers=(), epochs=1, lr=0.1, momentum=0.0, **options):
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)
    trainer = SliceTrainer(
        **{
            **{"device": torch.device("cpu"), "max_epochs": epochs, "network": network},
            **{"optimizer": optimizer, "loss_function": nn.MSELoss(), "prepare_batch": prepare},
            "train_data_loader": DataLoader(data, batch_size=batch_size),
            **{"train_handlers": list(handlers), "decollate": False, **options},
        }
    )
    return trainer, network, optimizer


def trained(data, **options):
    trainer, network, _ = make(data, **options)
    trainer.run()
    return network.weight.detach().clone(), trainer


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "whole"),
    [
        (2, 2, 4),  # the last step of an epoch has one batch of two
        (2, 5, 10),
        (4, 3, 12),  # 4 + 4 + 2 samples: unequal shares of one step
        (4, 2, 8),  # then 2 samples alone
        (3, 2, 6),  # 3 + 3, 3 + 1
        (10, 4, 10),  # more than an epoch has
    ],
)
def test_it_equals_the_large_batch(data, batch_size, accumulation, whole):
    options = {"epochs": 3, "momentum": 0.9}
    found, _ = trained(data, batch_size=batch_size, accumulation_steps=accumulation, **options)
    expected, _ = trained(data, batch_size=whole, **options)
    start, _ = trained(data, batch_size=whole, **{**options, "epochs": 1})
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(found, start, rtol=1e-3)


def test_without_accumulation_it_is_a_bare_loop_bit_for_bit(data):
    found, _ = trained(data, batch_size=4, epochs=2)
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        for batch in DataLoader(data, batch_size=4):
            optimizer.zero_grad()
            nn.functional.mse_loss(network(batch["image"]), batch["label"]).backward()
            optimizer.step()
    assert torch.equal(found, network.weight)


def test_a_loader_that_does_not_know_its_length_counts_batches_alike(data):
    batches = [
        {key: torch.stack([one[key] for one in data[at : at + 5]]) for key in ("image", "label")}
        for at in (0, 5)
    ]
    found, _ = trained(None, batch_size=1, train_data_loader=batches, accumulation_steps=2)
    expected, _ = trained(data, batch_size=10)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped_once_a_step_and_as_a_whole(data):
    """Clipping each batch's part would let the sum be larger, and turn it elsewhere."""
    options = {"epochs": 1, "handlers": [ClipGradients(0.05)]}
    found, _ = trained(data, batch_size=2, accumulation_steps=5, **options)
    expected, _ = trained(data, batch_size=10, **options)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    free, _ = trained(data, batch_size=10)
    assert not torch.allclose(found, free)
    unclipped, _ = trained(data, batch_size=10, handlers=[ClipGradients(None)])
    assert torch.equal(unclipped, free)


def test_events_and_schedule_count_steps_and_the_loss_is_that_of_the_batch(data):
    trainer, network, optimizer = make(data, batch_size=4, epochs=2, accumulation_steps=2)
    schedule = make_schedule(
        "polynomial", optimizer, warmup_steps=0, epochs=2, batches=3, accumulation=2
    )
    StepSchedule(schedule).attach(trainer)
    events, rates, losses = [], [], []
    trainer.add_event_handler(
        IterationEvents.BACKWARD_COMPLETED,
        lambda: events.append(("ready", trainer.state.iteration)),
    )
    trainer.add_event_handler(
        StepEvents.OPTIMIZER_STEPPED, lambda: events.append(("step", trainer.state.iteration))
    )

    def collect():
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(float(trainer.state.output["loss"].detach()))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, collect)
    first = nn.functional.mse_loss(
        network(torch.stack([one["image"] for one in data[:4]])),
        torch.stack([one["label"] for one in data[:4]]),
    )
    trainer.run()
    expected = [(what, at) for at in (2, 3, 5, 6) for what in ("ready", "step")]
    assert events == expected  # no step reaches over an epoch's end
    by_step = [0.1 * (1 - step / 4) ** 0.9 for step in range(5)]
    assert rates == pytest.approx([by_step[n] for n in (0, 1, 2, 2, 3, 4)])
    assert losses[0] == pytest.approx(float(first.detach()))
    assert trainer.scaler is None


@pytest.mark.parametrize("number", [0, -1, 1.5, True])
def test_accumulation_is_a_number_of_batches(data, number):
    with pytest.raises(ValueError, match=f"1 or more, got {number}"):
        make(data, batch_size=2, accumulation_steps=number)


def scaled_trainer(data, **options):
    """With loss scaling, around a network in float32: half precision needs CUDA."""
    trainer, network, _ = make(data, **options)
    trainer.precision = "fp16"
    return trainer, network


def test_a_scaled_loss_gives_the_same_step_and_unscaled_gradients(data):
    norms = []
    trainer, network = scaled_trainer(data, batch_size=4, accumulation_steps=2)
    trainer.add_event_handler(
        IterationEvents.BACKWARD_COMPLETED, lambda: norms.append(float(network.weight.grad.norm()))
    )
    trainer.run()
    assert trainer.scaler.get_scale() > 1
    assert set(trainer.scaler.state_dict()) >= {"scale", "growth_factor"}  # a checkpoint has it
    expected, plain = trained(data, batch_size=4, accumulation_steps=2)
    torch.testing.assert_close(network.weight.detach(), expected, rtol=1e-5, atol=1e-7)
    assert norms[-1] == pytest.approx(float(plain.network.weight.grad.norm()), rel=1e-5)


def test_a_step_that_overflows_is_left_out_and_the_schedule_waits(data):
    def loss(pred, target):  # infinite in the first step of the two
        value = nn.functional.mse_loss(pred, target)
        return value * math.inf if trainer.state.iteration == 2 else value

    stepped = []
    trainer, network = scaled_trainer(
        data, batch_size=5, accumulation_steps=2, epochs=2, loss_function=loss
    )
    trainer.add_event_handler(
        StepEvents.OPTIMIZER_STEPPED, lambda: stepped.append(trainer.state.iteration)
    )
    trainer.run()
    assert stepped == [4]
    expected, _ = trained(data, batch_size=10)  # one step from the same start
    torch.testing.assert_close(network.weight.detach(), expected, rtol=1e-5, atol=1e-7)


def test_bf16_is_used_by_the_network_alone(data):
    seen = {}

    class Seen(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen["out"] = out.dtype
            return out

    def loss(pred, target):
        seen["pred"] = pred.dtype
        return nn.functional.mse_loss(pred, target)

    torch.manual_seed(0)
    network = Seen(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    options = {"network": network, "optimizer": optimizer, "loss_function": loss}
    trainer, _, _ = make(data, batch_size=10, precision="bf16", **options)
    trainer.run()
    assert seen == {"out": torch.bfloat16, "pred": torch.float32}
    assert network.weight.dtype == torch.float32
    exact, _ = trained(data, batch_size=10)
    torch.testing.assert_close(network.weight.detach(), exact, rtol=0.02, atol=0.01)
    assert not torch.equal(network.weight, exact)
    evaluator = SliceEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=5),
        network=network,
        prepare_batch=prepare,
        precision="bf16",
        decollate=False,
    )
    seen.clear()
    evaluator.run()
    assert seen["out"] == torch.bfloat16
    assert evaluator.state.output["pred"].dtype == torch.float32
    assert math.isfinite(float(evaluator.state.output["pred"].sum()))
