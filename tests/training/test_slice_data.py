from pathlib import Path

import numpy as np
import pytest

from samtune.training.slice_data import EpochSampler, slice_items


def test_items_are_all_slices_of_a_split_in_case_order(tiny_manifest):
    items = slice_items(tiny_manifest, "train")
    cases = [case for case, record in tiny_manifest.cases.items() if record.split == "train"]
    assert len(cases) == 2
    assert [(i["case"], i["index"]) for i in items] == [
        (c, n) for c in sorted(cases) for n in range(3)
    ]
    assert all(Path(item["file"]).is_file() for item in items)
    assert {item["position"] for item in items} == {0}


def test_labelled_only_leaves_out_empty_slices(tiny_manifest):
    items = slice_items(tiny_manifest, "val", labelled_only=True)
    assert {item["index"] for item in items} == {0, 1}  # the third slice of each case is empty


def test_a_split_without_slices_names_those_there_are(slice_labels):
    label = np.zeros((4, 5, 3), np.uint8)
    label[1, 1, 1] = 1
    manifest = slice_labels({"a": label}, split="test")
    with pytest.raises(ValueError, match="no slices in split 'train', it has: test"):
        slice_items(manifest, "train")


def test_unlabelled_slices_name_the_case_and_the_command(slice_labels):
    manifest = slice_labels({"a": np.zeros((4, 5, 3), np.uint8)}, labelled=False)
    with pytest.raises(ValueError, match="case 'a' of split 'test' has no label; run 'samtune sli"):
        slice_items(manifest, "test")


def test_sampler_permutes_by_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = EpochSampler(50, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0, 1)) == list(range(50))
    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (1, 2, 3)}) == 6
    sampler = EpochSampler(50, seed=0)
    sampler.set_epoch(3)
    assert list(sampler) == list(sampler) == order(0, 3)  # asking twice changes nothing
    assert len(sampler) == 50
