from collections import Counter

import pytest
import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.transforms import Compose, RandFlipd

from samtune.preprocessing.slice_transforms import LoadSliced, ToFramed
from samtune.training.datasets import monai_dataset
from samtune.training.joined import join
from samtune.training.slice_data import slice_items

KINDS = {"none": Dataset, "memory": CacheDataset, "disk": PersistentDataset}


class Counted(LoadSliced):
    """Reads like ``LoadSliced`` and counts."""

    def __init__(self, class_values, seen):
        super().__init__(class_values)
        self.seen = seen

    def __call__(self, data):
        self.seen[data["file"]] += 1
        return super().__call__(data)


@pytest.mark.parametrize("cache", KINDS)
@pytest.mark.parametrize("joined", [False, True])
def test_each_of_monais_datasets_gives_the_same_items_and_caches_what_is_deterministic(
    tiny_manifest, tmp_path, cache, joined
):
    manifest = join([tiny_manifest]) if joined else tiny_manifest
    items, seen = slice_items(manifest, "train"), Counter()
    flip = RandFlipd(["image", "label"], prob=0.5, spatial_axis=1)
    transforms = [Counted((1, 3), seen), ToFramed(16, "medsam"), flip]
    folder = tmp_path / "cache" if cache == "disk" else None
    dataset = monai_dataset(items, transforms, cache=cache, cache_dir=folder)
    assert type(dataset) is KINDS[cache]
    plain = Compose([LoadSliced((1, 3)), ToFramed(16, "medsam")])
    flipped = 0
    for _ in range(4):
        for index, item in enumerate(items):
            expected, found = plain(item), dataset[index]
            turned = not torch.equal(torch.as_tensor(found["image"]), expected["image"])
            flipped += turned
            for key in ("image", "label"):
                want = expected[key].flip(-1) if turned else expected[key]
                assert torch.equal(torch.as_tensor(found[key]), want)
            assert found["case"] == item["case"]
            assert ("annotated" in found) is joined
    assert 0 < flipped < 4 * len(items)
    assert set(seen.values()) == {4 if cache == "none" else 1}


@pytest.mark.parametrize("arguments", [{"cache": "ram"}, {"cache": "disk"}, {"cache_dir": "x"}])
def test_caches_that_cannot_be_are_refused(arguments):
    with pytest.raises(ValueError, match="cache must be none, memory or disk with cache_dir"):
        monai_dataset([], [LoadSliced((1,))], **arguments)
