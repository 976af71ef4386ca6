"""Shares of an epoch and of the validation cases."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from samtune.training.samplers import make_sampler
from samtune.training.sharding import Shard, own_cases
from samtune.training.slice_data import EpochSampler, slice_items


@pytest.mark.parametrize("kind", ["all", "foreground", "balanced", {"per_case": 2}])
@pytest.mark.parametrize("number", [2, 3])
def test_shares_are_the_whole_epoch_without_a_double(tiny_manifest, kind, number):
    items = slice_items(tiny_manifest, "train")
    whole = make_sampler(kind, items, tiny_manifest, seed=1)
    for epoch in (1, 2):
        shares = []
        for rank in range(number):
            own = make_sampler(kind, items, tiny_manifest, seed=1)  # each process makes its own
            own.set_epoch(epoch)
            share = Shard(own, (rank, number))
            shares.append(list(share))
            assert len(share) == len(shares[-1]) == len(whole) // number
        whole.set_epoch(epoch)
        order = list(whole)
        dealt = [index for row in zip(*shares, strict=True) for index in row]
        assert dealt == order[: len(dealt)]
        assert len(order) - len(dealt) < number


def test_what_is_left_out_changes_from_epoch_to_epoch():
    sampler = EpochSampler(7, seed=0)
    left_out = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        seen = {index for rank in range(3) for index in Shard(sampler, (rank, 3))}
        left_out |= set(range(7)) - seen
    assert left_out == set(range(7))


def test_batches_of_all_processes_are_one_of_the_doubled_size():
    data = TensorDataset(torch.arange(10))

    def batches(sampler, size):
        return [set(b.tolist()) for (b,) in DataLoader(data, batch_size=size, sampler=sampler)]

    sampler = EpochSampler(10, seed=3)
    halves = [batches(Shard(sampler, (rank, 2)), 2) for rank in range(2)]
    assert [a | b for a, b in zip(*halves, strict=True)] == batches(sampler, 4)


def test_fewer_slices_than_processes_is_an_error():
    with pytest.raises(ValueError, match="4 processes for 3 training slices an epoch"):
        Shard(EpochSampler(3, seed=0), (0, 4))


def test_one_process_has_everything():
    sampler = EpochSampler(5, seed=0)
    assert list(Shard(sampler)) == list(sampler)
    items = [{"case": "b", "index": 0}, {"case": "a", "index": 1}]
    assert own_cases(items) == items


@pytest.mark.parametrize("number", [2, 3, 4])
def test_cases_are_dealt_out_whole_and_even(number):
    sizes = {"a": 9, "b": 2, "c": 5, "d": 4, "e": 1}
    items = [{"case": case, "index": i} for case, n in sizes.items() for i in range(n)]
    shares = [own_cases(items, (rank, number)) for rank in range(number)]
    assert sorted((i for share in shares for i in share), key=items.index) == items
    for share in shares:
        assert [item for item in items if item in share] == share  # in their order
    cases = [{item["case"] for item in share} for share in shares]
    assert sum(len(own) for own in cases) == len(sizes)
    longest = max(len(share) for share in shares)
    assert longest <= {2: 11, 3: 9, 4: 9}[number]


def test_a_process_without_a_case_repeats_the_smallest():
    items = [{"case": c, "index": i} for c, n in {"a": 3, "b": 2}.items() for i in range(n)]
    shares = [own_cases(items, (rank, 4)) for rank in range(4)]
    assert [{item["case"] for item in share} for share in shares] == [{"a"}, {"b"}, {"b"}, {"b"}]
