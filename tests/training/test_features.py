import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.losses import DiceCELoss
from monai.transforms import Compose, RandAffined
from torch.utils.data import DataLoader

from samtune.peft.lora import LoRA
from samtune.preprocessing.slice_transforms import LoadSliced, ToFramed
from samtune.training.features import PrepareSlices, SliceDataset
from samtune.training.handlers import FillCache
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
    with pytest.raises(ValueError, match=r"views is 1: .* need views > 1; give --views 4, "):
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


def images_of(dataset, epochs=(1,)):
    found = []
    for epoch in epochs:
        dataset.set_epoch(epoch)
        found += [(dataset[i]["image"], dataset[i]["label"]) for i in range(len(dataset))]
    return found


@pytest.mark.parametrize("views", [1, 3])
def test_features_on_disk_are_those_in_memory(make_network, make_dataset, tmp_path, views):
    network = make_network()
    options = {"random_transforms": [affine()], "views": views} if views > 1 else {}
    memory = make_dataset(network, **options)
    disk = make_dataset(network, cache_dir=tmp_path, **options)
    assert disk.from_block == memory.from_block
    expected, found = images_of(memory, (1, 2, 3)), images_of(disk, (1, 2, 3))
    for (features, label), (others, same_label) in zip(expected, found, strict=True):
        assert torch.equal(features, others)
        assert torch.equal(label, same_label)
        assert label.dtype == same_label.dtype
    assert memory[0].keys() == disk[0].keys()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 6 * views


def test_half_precision_on_disk_is_close(make_network, make_dataset, tmp_path):
    network = make_network()
    exact = make_dataset(network)
    half = make_dataset(network, cache_dir=tmp_path, dtype="float16")
    assert half[0]["image"].dtype == torch.float32
    torch.testing.assert_close(half[0]["image"], exact[0]["image"], rtol=1e-3, atol=1e-3)
    assert not torch.equal(half[0]["image"], exact[0]["image"])


@pytest.mark.parametrize("cache_dir", [True, False])
def test_values_beyond_float16_stay_finite(make_network, make_dataset, tmp_path, cache_dir):
    network = make_network(None)
    norm = network.image_encoder.neck[-1]
    with torch.no_grad():
        norm.weight.mul_(1e6)
    options = {"dtype": "float16", "cache_dir": tmp_path if cache_dir else None}
    image = make_dataset(network, **options)[0]["image"]
    assert image.abs().max() > 65504
    assert torch.equal(image, make_dataset(network)[0]["image"])


def counting(network, monkeypatch):
    calls = []
    prefix = network.prefix
    monkeypatch.setattr(network, "prefix", lambda *a: calls.append(1) or prefix(*a))
    return calls


def test_another_method_with_the_same_prefix_encodes_nothing(
    make_network, make_dataset, tmp_path, monkeypatch, caplog
):
    def run(method, decoder="full", **options):
        network = make_network(method, decoder=decoder).train()
        calls = counting(network, monkeypatch)
        options = {"random_transforms": [affine()], "views": 2, "cache_dir": tmp_path, **options}
        dataset = make_dataset(network, progress="caching", **options)
        with caplog.at_level("INFO"):
            images = images_of(dataset)
        assert network.training
        return len(calls), images

    first, expected = run(LoRA(rank=2, blocks="last:2"))
    assert first == 12
    again, images = run(LoRA(rank=4, alpha=3, blocks="last:2", targets=("proj",)), decoder="lora")
    assert again == 0
    assert f"caching: found 12, encoded 0 in '{tmp_path}'" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(expected[0], images[0], strict=True))
    assert run(LoRA(rank=2, blocks="last:1"))[0] == 12
    assert run(LoRA(rank=2, blocks="last:2"), dtype="float16")[0] == 12
    assert run(LoRA(rank=2, blocks="last:2"), seed=1)[0] == 6  # the slices themselves are known
    assert run(None)[0] == 12  # the embedding


def test_a_damaged_file_is_made_again(make_network, make_dataset, tmp_path, monkeypatch):
    network = make_network()
    expected = images_of(make_dataset(network, cache_dir=tmp_path))
    file = min(tmp_path.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])
    calls = counting(network, monkeypatch)
    found = images_of(make_dataset(network, cache_dir=tmp_path))
    assert len(calls) == 1
    assert all(torch.equal(a[0], b[0]) for a, b in zip(expected, found, strict=True))


def test_worker_processes_read_a_cache_on_disk(make_network, make_dataset, tmp_path):
    dataset = make_dataset(make_network(), cache_dir=tmp_path)
    loader = DataLoader(dataset, batch_size=3, num_workers=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, Python >= 3.12
        with pytest.raises(ValueError, match=r"call fill\(\) before worker processes start"):
            next(iter(loader))
        dataset.fill()
        found = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(found, torch.stack([dataset[i]["image"] for i in range(6)]))


def test_a_copy_for_a_worker_has_no_network_and_says_what_it_cannot_do(
    make_network, tiny_manifest, tmp_path
):
    transform = Compose([LoadSliced([1, 3]), ToFramed(32, "medsam")])  # can be pickled
    items = slice_items(tiny_manifest, "train")
    dataset = SliceDataset(items, transform, network=make_network(), cache_dir=tmp_path)
    dataset.fill()
    sent = pickle.dumps(dataset)
    assert len(sent) < 100_000  # features and weights stayed here
    copied = pickle.loads(sent)
    assert torch.equal(copied[2]["image"], dataset[2]["image"])
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(RuntimeError, match=r"has lost features .* set num_workers to 0"):
        copied[2]


def test_features_lost_in_between_are_made_again(make_network, make_dataset, tmp_path, caplog):
    network = make_network().train()
    options = {"random_transforms": [affine()], "views": 3, "cache_dir": tmp_path}
    dataset = make_dataset(network, **options)
    expected = images_of(dataset, (1, 2))
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    found = images_of(dataset, (1, 2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(expected, found, strict=True))
    assert caplog.text.count("raise cache_max_gib") == 1
    assert network.training


def test_a_cache_too_small_for_the_slices_is_refused(make_network, make_dataset, tmp_path):
    with pytest.raises(
        ValueError, match=r"6 slices in 1 versions need .* cache_max_gib is 9.31e-06"
    ):
        make_dataset(make_network(), cache_dir=tmp_path, cache_max_gib=1e4 / 2**30).fill()


def test_workers_are_preceded_by_the_fill(make_network, make_dataset, tmp_path):
    filled = []
    for number, (workers, options) in enumerate(
        [(2, {"cache_dir": tmp_path}), (0, {"cache_dir": tmp_path}), (2, {}), (2, {"cache": False})]
    ):
        dataset = make_dataset(make_network(), **options)
        dataset.fill = lambda number=number: filled.append(number)
        engine = Engine(lambda *_: None)
        FillCache([dataset], workers).attach(engine)
        engine.run([0])
    assert filled == [0]


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
