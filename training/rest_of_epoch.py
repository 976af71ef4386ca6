"""The batches of an epoch after those that are done, without loading the done ones."""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)


class RestOfEpoch:
    """``loader`` without its first ``skip`` batches, as ``self.loader``.

    Of a :class:`torch.utils.data.DataLoader` over a dataset with indices they are not loaded,
    whatever its sampler; of any other iterable they have to be. All that is drawn from global
    random generators in between is drawn in the order of a whole epoch.
    """

    def __init__(self, loader: Iterable[Any], skip: int) -> None:
        self._rest: _Rest
        self.loader: Iterable[Any]
        if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
            logger.warning("%d batches are loaded only to get past them", skip)
            self.loader = self._rest = _Rest(loader, skip)
            return
        self._rest = _Rest(loader.batch_sampler, skip)
        self.loader = DataLoader(
            loader.dataset,
            batch_sampler=self._rest,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
        )

    def skip(self) -> None:
        """Get past the batches that are done, after an iterator was asked for."""
        self._rest.skip_now()


class _Rest(Iterable[Any]):
    def __init__(self, source: Iterable[Any], skip: int) -> None:
        self.source = source
        self.pending = skip
        self._iterator: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        self._iterator = iter(self.source)
        return self._entries()

    def _entries(self) -> Iterator[Any]:
        self.skip_now()  # worker processes ask for entries at once
        yield from self._iterator

    def skip_now(self) -> None:
        for _ in islice(self._iterator, self.pending):
            pass
        self.pending = 0
