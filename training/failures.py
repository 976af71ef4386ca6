"""What a run says when a step fails: which slices made the loss NaN, what to lower for memory."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from samtune.training.distributed import anywhere, gather

_GUARDED = "samtune_guarded"
_CPU_FULL = re.compile(r"can't allocate memory|not enough memory|cannot allocate memory", re.I)


def leave_to_guard(engine: Engine, error: Exception) -> None:
    """How a handler of ``EXCEPTION_RAISED`` has to end: Ignite takes ``error`` for dealt with else.

    Raises:
        Exception: ``error``, unless a :class:`FailureGuard` does it later.
    """
    if not getattr(engine, _GUARDED, False):
        raise error


class FailureGuard:
    """Stops at a loss that is not finite, naming its slices; tells what lowers the memory needed.

    Of several processes all stop with what the first that has such a loss says: none waits for it.

    Args:
        settings: by config key, for advice that fits.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after all others that look at failures."""
        setattr(engine, _GUARDED, True)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._check)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._failed)

    def _check(self, engine: Engine) -> None:
        output: Any = engine.state.output
        loss = float(output["loss"].detach())
        is_finite = loss - loss == 0  # neither NaN nor infinite
        if not anywhere(not is_finite):
            return
        said = gather(None if is_finite else self._what_is_wrong(engine, loss))
        raise ValueError(next(text for text in said if text is not None))

    def _what_is_wrong(self, engine: Engine, loss: float) -> str:
        batch: Any = engine.state.batch
        bad = [name for name, image in slices_of(batch) if not bool(torch.isfinite(image).all())]
        where = f"epoch {engine.state.epoch}, iteration {engine.state.iteration}"
        if bad:
            why = f"the image holds NaN or infinite values in {', '.join(bad)}; correct the data"
        else:
            names = ", ".join(name for name, _ in slices_of(batch))
            why = (
                f"the batch was {names}. Lower learning_rate or clip_norm"
                f"{', or set amp: false' if self.settings.get('amp') else ''}"
                "; the checkpoint from before is kept"
            )
        return f"the loss is {loss} ({where}): {why}"

    def _failed(self, engine: Engine, error: Exception) -> None:
        if is_out_of_memory(error):
            raise MemoryError(memory_advice(error, self.settings)) from error
        raise error


def slices_of(batch: Mapping[str, Any]) -> list[tuple[str, torch.Tensor]]:
    """Name and image of each slice of a collated batch."""
    images: torch.Tensor = batch["image"]
    cases = batch.get("case", ["?"] * len(images))
    indices = batch.get("index", ["?"] * len(images))
    return [
        (f"case '{case}' slice {int(index) if isinstance(index, torch.Tensor) else index}", image)
        for case, index, image in zip(cases, indices, images, strict=True)
    ]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU or the processor had no room left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_FULL.search(str(error)) is not None


def memory_advice(error: BaseException, settings: Mapping[str, Any]) -> str:
    """Which keys to lower and by how much, largest effect first."""
    on_gpu = isinstance(error, torch.OutOfMemoryError)
    advice = []
    batch = settings.get("batch_size")
    if isinstance(batch, int) and batch > 1:
        advice.append(f"batch_size {batch} -> {batch // 2}")
    if settings.get("checkpointing") is False:
        advice.append("checkpointing false -> true")
    if on_gpu and settings.get("amp") is False:
        advice.append("amp false -> true")
    if not on_gpu and settings.get("cache") and settings.get("cache_dir") is None:
        if settings.get("cache_dtype") == "float32":
            advice.append("cache_dtype float32 -> float16")
        views = settings.get("views")
        if isinstance(views, int) and views > 2:
            advice.append(f"views {views} -> {max(views // 2, 2)}")
        advice.append("cache_dir null -> a folder")
    size = settings.get("image_size")
    if isinstance(size, int) and size >= 64:
        advice.append(f"image_size {size} -> {size // 2}")
    elif size == "auto":
        advice.append("image_size: half of the backbone's own")
    if not advice:
        advice.append("a smaller backbone (arch)")
    where = "the GPU" if on_gpu else "the machine"
    return (
        f"{where} has no memory left; lower, one at a time: {'; '.join(advice)}. "
        f"What was refused: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    )
