import math

import pytest
import torch

from samtune.training.errors import root_cause
from samtune.training.failures import (
    FailureGuard,
    is_out_of_memory,
    leave_to_guard,
    memory_advice,
)
from samtune.training.handlers import Progress
from tests.training.checkpointed import attach

SETTINGS = {
    "batch_size": 8,
    "cache": True,
    "cache_dir": None,
    "cache_dtype": "float32",
    "views": 5,
    "image_size": 1024,
    "amp": False,
    "checkpointing": False,
}


def cpu_error():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


def test_a_refusal_of_the_processor_is_known_by_its_own_words():
    assert is_out_of_memory(cpu_error())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_advice_names_keys_and_by_how_much():
    text = memory_advice(cpu_error(), SETTINGS)
    assert "batch_size 8 -> 4; checkpointing false -> true" in text
    assert "cache_dtype float32 -> float16; views 5 -> 2; cache_dir null -> a folder" in text
    assert "image_size 1024 -> 512" in text
    assert "amp" not in text
    on_gpu = memory_advice(torch.OutOfMemoryError("CUDA out of memory.\nTried"), SETTINGS)
    assert on_gpu.startswith("the GPU has no memory left; lower, one at a time: batch_size 8 -> 4")
    assert "amp false -> true" in on_gpu
    assert "cache" not in on_gpu
    assert on_gpu.endswith("CUDA out of memory.")
    least = {"batch_size": 1, "cache": False, "image_size": 32, "amp": True}
    assert "a smaller backbone" in memory_advice(MemoryError(), least)


@pytest.fixture
def guarded(make_training):
    """A trainer with the handlers that look at failures, as train.yaml has them."""
    training = make_training()
    for handler in (Progress(show=False), FailureGuard(SETTINGS)):
        handler.attach(training.trainer)
    return training


def test_a_loss_that_is_nan_names_the_slices_and_keeps_the_checkpoint(guarded, tmp_path):
    attach(guarded, tmp_path, minutes=0)
    loss, calls, batches = guarded.trainer.loss_function, [], []

    def third_is_nan(pred, label):
        calls.append(1)
        return loss(pred, label) * (math.nan if len(calls) == 3 else 1)

    prepare = guarded.trainer.prepare_batch

    def recorded(batch, *args, **kwargs):
        batches.append(list(zip(batch["case"], batch["index"].tolist(), strict=True)))
        return prepare(batch, *args, **kwargs)

    guarded.trainer.loss_function = third_is_nan
    guarded.trainer.prepare_batch = recorded
    with pytest.raises(ValueError, match=r"the loss is nan \(epoch 2, iteration 3\)") as caught:
        guarded.trainer.run()
    named = [f"case '{case}' slice {index}" for case, index in batches[2]]
    assert f"the batch was {', '.join(named)}. Lower learning_rate" in str(caught.value)
    assert torch.load(tmp_path / "checkpoint.pt")["iteration"] == 2


def test_nan_in_an_image_names_that_slice_alone(guarded):
    prepare, broken = guarded.trainer.prepare_batch, []

    def spoiled(batch, *args, **kwargs):
        batch["image"][1, ..., 0, 0] = math.inf
        broken.append(f"case '{batch['case'][1]}' slice {int(batch['index'][1])}")
        return prepare(batch, *args, **kwargs)

    guarded.trainer.prepare_batch = spoiled
    with pytest.raises(ValueError, match="the image holds NaN or infinite values in ") as caught:
        guarded.trainer.run()
    assert str(caught.value).endswith(f"values in {broken[0]}; correct the data")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_out_of_memory_in_a_step_ends_with_advice(guarded, error):
    def refuse(*args):
        raise error

    guarded.trainer.loss_function = refuse
    with pytest.raises(MemoryError, match="batch_size 8 -> 4") as caught:
        guarded.trainer.run()
    wrapped = RuntimeError("evaluating a config")  # as MONAI does
    wrapped.__cause__ = caught.value
    assert root_cause(wrapped) is caught.value


def test_other_errors_pass(guarded):
    def fail(*args):
        raise KeyError("other")

    guarded.trainer.loss_function = fail
    with pytest.raises(KeyError, match="other"):
        guarded.trainer.run()


def test_without_a_guard_a_failure_is_raised_at_once(make_training):
    engine = make_training().trainer
    with pytest.raises(KeyError):
        leave_to_guard(engine, KeyError())
    FailureGuard({}).attach(engine)
    leave_to_guard(engine, KeyError())
