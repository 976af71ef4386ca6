import copy
import warnings

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from monai.transforms import RandAffined
from torch.utils.data import DataLoader

from samtune.peft.lora import LoRA
from samtune.preprocessing.slice_transforms import LoadSliced, ToFramed
from samtune.training.features import PrepareSlices, SliceDataset
from samtune.training.slice_data import slice_items


@pytest.fixture
def make_dataset(tiny_manifest):
    def make(network, **options):
        load, frame = LoadSliced([1, 3]), ToFramed(32, "medsam")
        items = slice_items(tiny_manifest, "train")
        return SliceDataset(items, lambda item: frame(load(item)), network=network, **options)

    return make


def affine():
    return RandAffined(
        keys=["image", "label"],
        prob=1.0,
        rotate_range=0.5,
        scale_range=0.3,
        mode=["bilinear", "nearest"],
        padding_mode="zeros",
    )


def loss_and_gradients(network, dataset):
    batch = next(iter(DataLoader(dataset, batch_size=6)))
    image, label, _, keywords = PrepareSlices(dataset)(batch, device="cpu")
    network.zero_grad()
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)(
        network(image, **keywords), label
    )
    loss.backward()
    return loss.item(), {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("method", "from_block"),
    [
        (LoRA(rank=2, blocks=[0]), 0),
        (LoRA(rank=2, blocks=[2, 4]), 2),
        (LoRA(rank=2, blocks="last:1"), 4),
        (None, 6),  # five blocks and the neck are frozen: the embedding is cached
    ],
)
def test_cached_features_give_the_loss_and_gradients_of_images(
    make_network, make_dataset, method, from_block
):
    network = make_network(method).train()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("lora_b"):
                parameter.fill_(0.1)  # zeros would make the adapted blocks plain ones
    cached, images = make_dataset(network), make_dataset(network, cache=False)
    assert (cached.from_block, images.from_block) == (from_block, None)
    loss, gradients = loss_and_gradients(network, cached)
    expected, expected_gradients = loss_and_gradients(network, images)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-5)


def test_each_slice_passes_the_frozen_part_once(make_network, make_dataset, monkeypatch):
    network = make_network().train()
    calls = []
    prefix = network.prefix
    monkeypatch.setattr(network, "prefix", lambda *a: calls.append(1) or prefix(*a))
    dataset = make_dataset(network)
    assert calls == []  # made when the first item is asked for
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            dataset[index]
    assert len(calls) == len(dataset) == 6
    assert network.training  # as it was before


def test_dropout_and_batch_statistics_dont_touch_the_cache(make_network, make_dataset):
    network = make_network(LoRA(rank=2, blocks="last:1", dropout=0.9)).train()
    before = copy.deepcopy(network.state_dict())
    first, second = make_dataset(network), make_dataset(network)
    assert all(torch.equal(first[i]["image"], second[i]["image"]) for i in range(6))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_half_precision_cache_is_close_and_given_out_as_float32(make_network, make_dataset):
    network = make_network()
    exact, half = make_dataset(network), make_dataset(network, dtype="float16")
    assert half[0]["image"].dtype == torch.float32
    torch.testing.assert_close(half[0]["image"], exact[0]["image"], rtol=1e-3, atol=1e-3)
    assert not torch.equal(half[0]["image"], exact[0]["image"])


def test_views_are_the_slice_itself_and_draws_of_the_transforms(make_network, make_dataset):
    network = make_network()
    plain = make_dataset(network)[0]
    dataset = make_dataset(network, random_transforms=[affine()], views=4)
    seen = {}
    for epoch in range(1, 40):
        dataset.set_epoch(epoch)
        item = dataset[0]
        seen[item["image"].numpy().tobytes()] = item
    assert len(seen) == 4
    itself = seen[plain["image"].numpy().tobytes()]
    torch.testing.assert_close(itself["label"], plain["label"])
    labels = {item["label"].numpy().tobytes() for item in seen.values()}
    assert len(labels) == 4  # the label moves with the image
    assert all(set(np.unique(item["label"])) <= {0, 1, 2} for item in seen.values())


@pytest.mark.parametrize("cache", [True, False])
def test_draws_depend_on_seed_epoch_and_index_alone(make_network, make_dataset, cache):
    network = make_network()

    def images(seed, epoch, order):
        options = {"views": 3} if cache else {"cache": False}
        dataset = make_dataset(network, random_transforms=[affine()], seed=seed, **options)
        dataset.set_epoch(epoch)
        found = {index: dataset[index] for index in order}
        return [(found[i]["image"], found[i]["label"]) for i in range(6)]

    def equal(a, b):
        return [all(map(torch.equal, x, y)) for x, y in zip(a, b, strict=True)]

    np.random.seed(1)  # noqa: NPY002 - global state must not matter
    torch.manual_seed(1)
    first = images(0, 1, range(6))
    torch.manual_seed(2)
    assert all(equal(first, images(0, 1, [5, 2, 0, 1, 4, 3])))  # in another order, after others
    assert not all(equal(first, images(0, 2, range(6))))
    assert not all(equal(first, images(1, 1, range(6))))
    if not cache:
        assert not torch.equal(first[0][0], images(0, 2, range(6))[0][0])


def test_random_transforms_need_views(make_network, make_dataset):
    with pytest.raises(ValueError, match=r"need views > 1 with the feature cache .*cache: false"):
        make_dataset(make_network(), random_transforms=[affine()])


def test_views_without_random_transforms_are_one(make_network, make_dataset):
    assert make_dataset(make_network(), views=4).views == 1


def test_unknown_dtype(make_network, make_dataset):
    with pytest.raises(ValueError, match="float32 or float16, got 'bfloat16'"):
        make_dataset(make_network(), dtype="bfloat16")


def test_nothing_to_cache_when_the_first_layers_are_trained(make_network, make_dataset):
    network = make_network()
    network.image_encoder.patch_embed.requires_grad_(True)
    with pytest.raises(ValueError, match=r"nothing to cache: .* set cache: false"):
        make_dataset(network)
    assert make_dataset(network, cache=False).from_block is None


def test_worker_processes_have_no_cache(make_network, make_dataset):
    loader = DataLoader(make_dataset(make_network()), batch_size=2, num_workers=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, Python >= 3.12
        with pytest.raises(ValueError, match="set num_workers to 0, or cache: false"):
            next(iter(loader))


def test_prepared_batches_carry_what_the_network_needs(make_network, make_dataset):
    batch = {"image": torch.zeros(2, 1, 4, 4), "boxes": torch.ones(2, 3, 4), "case": ["a", "b"]}
    image, label, args, keywords = PrepareSlices(keys=["boxes"])(batch, torch.device("cpu"))
    assert image is batch["image"]
    assert (label, args) == (None, ())
    assert keywords.keys() == {"boxes"}
    dataset = make_dataset(make_network())
    labelled = {**batch, "label": torch.zeros(2, 1, 4, 4, dtype=torch.long)}
    _, label, _, keywords = PrepareSlices(dataset)(labelled)
    assert label is not None
    assert keywords == {"from_block": dataset.from_block}
