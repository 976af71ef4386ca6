"""The batches of an epoch after those that are done, without loading the done ones."""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)


class _Rest(Iterable[Any]):
    """``source`` from its entry ``skip`` on.

    The skipped entries are drawn when an iterator is asked for, not when it is read: a sampler that
    seeds itself from the global generator does that then, as in the epoch that was left.
    """

    def __init__(self, source: Iterable[Any], skip: int) -> None:
        self.source = source
        self.skip = skip

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self.source)
        for _ in islice(iterator, self.skip):
            pass
        return iterator


def rest_of_epoch(loader: Iterable[Any], skip: int) -> Iterable[Any]:
    """``loader`` without its first ``skip`` batches.

    Of a :class:`torch.utils.data.DataLoader` over a dataset with indices they are not loaded,
    whatever its sampler; of any other iterable they have to be.
    """
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        logger.warning("%d batches are loaded only to get past them", skip)
        return _Rest(loader, skip)
    return DataLoader(
        loader.dataset,
        batch_sampler=_Rest(loader.batch_sampler, skip),  # type: ignore[arg-type]  # iterated only
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )
