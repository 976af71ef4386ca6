"""What each of several processes trains and validates on: disjoint shares of the same epoch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from torch.utils.data import Sampler

from samtune.training.distributed import rank, world_size

Item = TypeVar("Item", bound=Mapping[str, Any])


class Shard(Sampler[int]):
    """This process's share of an epoch's order: every n-th index of n processes, from its rank on.

    The order is drawn by seed and epoch alone, so all processes share out one and the same. The
    n-th batches of all processes together are the n-th batch of a single process with n times the
    batch size. Up to n - 1 indices at the end of the order are left out, others every epoch: all
    shares have one length, and none has a slice of another.

    Args:
        sampler: of the whole epoch; its ``set_epoch`` is called by the one who made it.
        share: number of this process and of all; ``None``: as they joined.

    Raises:
        ValueError: an epoch has fewer slices than there are processes.
    """

    def __init__(self, sampler: Sampler[int], share: tuple[int, int] | None = None) -> None:
        self.sampler = sampler
        self.rank, self.number = (rank(), world_size()) if share is None else share
        if len(sampler) < self.number:  # type: ignore[arg-type]  # ours have a length
            msg = (
                f"{self.number} processes for {len(sampler)} training slices an epoch: "  # type: ignore[arg-type]
                "start fewer"
            )
            raise ValueError(msg)

    def __iter__(self) -> Iterator[int]:
        order = list(self.sampler)
        return iter(order[self.rank : len(order) // self.number * self.number : self.number])

    def __len__(self) -> int:
        return len(self.sampler) // self.number  # type: ignore[arg-type]


def own_cases(items: Sequence[Item], share: tuple[int, int] | None = None) -> list[Item]:
    """The items of the cases that this process validates, in their order.

    Whole cases, dealt out from the largest on to whoever has the fewest slices. A process for which
    no case is left repeats the smallest, whose row counts once, see
    :func:`samtune.training.distributed.gather_rows`.

    Args:
        items: of all cases.
        share: number of this process and of all; ``None``: as they joined.
    """
    own, number = (rank(), world_size()) if share is None else share
    slices: dict[str, int] = {}
    for item in items:
        slices[str(item["case"])] = slices.get(str(item["case"]), 0) + 1
    hands: list[list[str]] = [[] for _ in range(number)]
    loads = [0] * number
    by_size = sorted(slices, key=lambda case: (-slices[case], case))
    for case in by_size:
        player = loads.index(min(loads))
        hands[player].append(case)
        loads[player] += slices[case]
    cases = set(hands[own] or by_size[-1:])
    return [item for item in items if str(item["case"]) in cases]
