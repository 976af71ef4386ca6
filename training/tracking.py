"""Where a run's figures go: TensorBoard always; MLflow or Weights & Biases by one key."""

import logging
import math
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler
from monai.utils import path_to_sqlite_uri

from samtune.training.distributed import is_main, main_only
from samtune.training.trainer import step_output

logger = logging.getLogger(__name__)
TRACKERS = ("mlflow", "wandb")


class TensorBoardWriter:
    """A writer for MONAI's TensorBoard handlers that makes its file when something is written.

    All steps are iterations. What an earlier process wrote of later steps is hidden by TensorBoard
    (``purge_step``): a resumed run shows each iteration once. Of several processes rank 0 writes.

    Args:
        log_dir: folder of the event files.
    """

    def __init__(self, log_dir: str | Path) -> None:
        self.log_dir = Path(log_dir)
        self._writer: Any = None

    @main_only
    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Write one value."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.log_dir), purge_step=step)
        self._writer.add_scalar(tag, value, step)

    def flush(self) -> None:
        """Hand everything to the file."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close the file; a value after this opens another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Sink(Protocol):
    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self, finished: bool) -> None: ...


class Tracker:
    """Sends loss, learning rate and validation to a tracking service; to none by default.

    A run's entry is opened at its first iteration, and again, the same one, when it is resumed. Of
    several processes rank 0 sends, its own loss.

    Args:
        kind: ``mlflow``: a SQLite file and artifacts in the run's folder, or where
            ``MLFLOW_TRACKING_URI`` says. ``wandb``: as ``wandb`` is set up; without a login, or
            with ``WANDB_MODE=offline``, files in the run's folder. ``None``: nowhere.
        path: the run's folder.
        settings: of the run, by key.
        run_id: see :class:`samtune.training.run_folder.RunFolder`.
        validator: whose metrics are sent at the end of an epoch.

    Raises:
        ValueError: another kind, or its package is not installed; says how to install it.
    """

    def __init__(
        self,
        kind: str | None,
        *,
        path: str | Path,
        settings: Mapping[str, Any],
        run_id: str,
        validator: Engine,
    ) -> None:
        if kind not in (None, *TRACKERS):
            msg = f"tracker must be null, {' or '.join(TRACKERS)}, got {kind!r}"
            raise ValueError(msg)
        if kind is not None:
            _import(kind)
        self.kind = kind
        self.path = Path(path)
        self.settings = settings
        self.run_id = run_id
        self.validator = validator
        self._sink: _Sink | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after the validation handler."""
        if self.kind is None or not is_main():
            return
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Engine) -> _Sink:
        if self._sink is None:
            make: Callable[..., _Sink] = _MLflow if self.kind == "mlflow" else _Wandb
            self._sink = make(self.path, self.settings, self.run_id, engine)
        return self._sink

    def _iteration(self, engine: Engine) -> None:
        optimizer = cast(Any, engine).optimizer
        values = {
            "train_loss": float(step_output(engine)["loss"]),
            "learning_rate": float(optimizer.param_groups[0]["lr"]),
        }
        self._open(engine).log(values, engine.state.iteration)

    def _epoch(self, engine: Engine) -> None:
        if self.validator.state.epoch != engine.state.epoch:
            return
        found = {
            name: float(value)
            for name, value in self.validator.state.metrics.items()
            if isinstance(value, int | float) and not math.isnan(value)
        }
        if found:
            self._open(engine).log(found, engine.state.iteration)

    def _close(self, engine: Engine) -> None:
        if self._sink is not None:
            self._sink.close(engine.state.epoch >= (engine.state.max_epochs or 0))
            self._sink = None


class _MLflow:
    """One run, named as the folder, of the experiment ``samtune``; by MONAI's handler."""

    def __init__(
        self, path: Path, settings: Mapping[str, Any], run_id: str, engine: Engine
    ) -> None:
        self.handler = MLFlowHandler(
            tracking_uri=path_to_sqlite_uri(str(path.resolve() / "mlruns.db")),
            experiment_name="samtune",
            run_name=f"{path.name}-{run_id[:8]}",  # an unfinished one of this name is taken up
            artifacts=[path / name for name in ("config.yaml", "run.json")],
        )
        self.handler.start(engine)
        parameters = {key: str(value)[:500] for key, value in settings.items()}
        self.handler._delete_exist_param_in_dict(parameters)
        self.handler._log_params(parameters)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.handler._log_metrics(dict(values), step=step)

    def close(self, finished: bool) -> None:
        if finished:
            self.handler.complete()
            self.handler.close()  # marks it as finished: a resumed run would open another


class _Wandb:
    """One run of the project ``samtune``, resumed by the id of the run's folder."""

    def __init__(
        self, path: Path, settings: Mapping[str, Any], run_id: str, engine: Engine
    ) -> None:
        wandb = _import("wandb")
        has_login = bool(os.environ.get("WANDB_API_KEY")) or _has_netrc_login()
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "samtune"),
            name=path.name,
            id=run_id[:16],
            resume="allow",
            dir=str(path),
            config=dict(settings),
            mode=os.environ.get("WANDB_MODE") or ("online" if has_login else "offline"),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self, finished: bool) -> None:
        self.run.finish()


def _has_netrc_login() -> bool:
    """Whether ``wandb login`` was run: it writes there."""
    from netrc import NetrcParseError, netrc

    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].strip("/")
    try:
        return netrc(file).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        msg = f"tracker {name}: the package {error.name or name} is not installed; run "
        msg += f"'pip install \"samtune[{name}]\"', or set tracker: null"
        raise ValueError(msg) from error
