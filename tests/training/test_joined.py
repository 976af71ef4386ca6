from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose
from torch.utils.data import DataLoader

from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.slice_transforms import LoadSliced, ToFramed, ToTargetd
from samtune.preprocessing.slice_volumes import slice_volumes
from samtune.training.case_dice import CaseDice
from samtune.training.case_stream import reference_volume
from samtune.training.features import PrepareSlices, SliceDataset
from samtune.training.joined import join, open_slices
from samtune.training.losses import class_loss
from samtune.training.samplers import make_sampler
from samtune.training.slice_data import slice_items
from samtune.training.task import task_of

ABDOMEN = {1: "liver", 2: "spleen"}
THORAX = {1: "lung", 2: "liver"}


@pytest.fixture
def make_slices(tmp_path):
    """Slices of two cases, five slices each; the last two have no label, the third one class."""

    def make(name: str, names: dict[int, str], **changes) -> Path:
        root = tmp_path / name
        for case in "ab":
            label = np.zeros((8, 9, 5), np.uint8)
            label[1:3, 1:4, :3] = 1
            label[5:7, 1:4, :2] = 2
            image = np.random.default_rng(0).normal(100, 9, label.shape).astype(np.float32)
            for folder, array in (("images", image), ("labels", label)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / f"{case}.nii.gz")
        slice_volumes(
            root / "images",
            root / "labels",
            **{
                **{"modality": "mr", "out": root / "slices", "class_names": names, "axis": 2},
                **{"split_ratio": (1, 0, 0), "workers": 1, "progress": False, **changes},
            },
        )
        return root / "slices"

    return make


@pytest.fixture
def abdomen(make_slices):
    return make_slices("abdomen", ABDOMEN)


@pytest.fixture
def thorax(make_slices):
    return make_slices("thorax", THORAX)


def test_classes_are_joined_by_name_and_cases_keep_apart(abdomen, thorax):
    joined = open_slices([abdomen, {"folder": str(thorax), "weight": 2}])
    # lung is 1 in its folder, which liver took in the first: the next free value
    assert task_of(joined).classes == {1: "liver", 2: "spleen", 3: "lung"}
    assert sorted(joined.cases) == [
        *("abdomen_slices-a", "abdomen_slices-b", "thorax_slices-a", "thorax_slices-b")
    ]
    assert joined.joint_values("thorax_slices-a") == {1: 3, 2: 1}
    assert joined.part("thorax_slices-b").weight == 2
    assert joined.select(case="thorax_slices-a")[0].labels == {3: 6, 1: 6}
    assert all(joined.path(row).is_file() for row in joined.slices)
    alone = reference_volume(load_manifest(thorax), "a")
    together = reference_volume(joined, "thorax_slices-a")
    assert np.array_equal(together == 3, alone == 1)
    assert np.array_equal(together == 1, alone == 2)


def test_a_string_is_one_folder_as_ever(abdomen):
    assert open_slices(str(abdomen)) == load_manifest(abdomen)


def test_given_classes_set_the_values(abdomen, thorax):
    joined = open_slices([thorax], {1: "liver", 2: "spleen", 3: "lung"})
    assert joined.joint_values("slices-a") == {1: 3, 2: 1}
    assert task_of(joined).classes == {1: "liver", 2: "spleen", 3: "lung"}


def test_items_say_which_classes_are_annotated(abdomen, thorax):
    joined = open_slices([abdomen, thorax])
    load = LoadSliced((1, 2, 3))
    known = {}
    for item in slice_items(joined, "train"):
        loaded = load(item)
        known[item["case"].split("_")[0]] = loaded["annotated"].tolist()
        if item["index"] == 0 and "thorax" in item["case"]:
            assert loaded["label"][0, 1, 1] == 3  # channel of lung
            assert loaded["label"][0, 5, 1] == 1
    assert known == {"abdomen": [True, True, False], "thorax": [True, False, True]}
    regions = ToTargetd([[1, 2], [1], [3]])(loaded)  # liver + spleen, liver, lung
    assert regions["annotated"].tolist() == [False, True, True]


@pytest.mark.parametrize("cache", [False, True])
def test_a_network_learns_from_both_and_its_missing_class_stays(
    abdomen, thorax, make_network, cache
):
    joined = open_slices([abdomen, thorax])
    task = task_of(joined)
    network = make_network(num_classes=3)
    transform = Compose([LoadSliced(task.class_values), ToFramed(32, "medsam")])
    items = [i for i in slice_items(joined, "train") if i["case"].startswith("abdomen")]
    data = SliceDataset(items, transform, network=network, cache=cache)
    batch = next(iter(DataLoader(data, batch_size=4)))
    image, target, _, keywords = PrepareSlices(data)(batch)
    assert target["annotated"].tolist() == [[True, True, False]] * 4
    logits = network(image, **keywords)
    logits.retain_grad()
    class_loss()(logits, target).backward()
    gradient = logits.grad.abs().amax((0, 2, 3))
    assert gradient[3] == 0
    assert (gradient[1:3] > 0).all()


def test_validation_leaves_out_what_a_folder_does_not_annotate(abdomen, thorax, stream):
    joined = open_slices([abdomen, thorax])
    dice = CaseDice(joined, task_of(joined))
    slices = [
        (row.case, row.index, np.full((8, 9), 3, np.uint8)) for row in joined.slices
    ]  # lung everywhere
    engine = stream(slices)
    dice.attach(engine, "dice")
    engine.run(engine.batches)
    assert np.isnan(dice.per_case["abdomen_slices-a"]["lung"])
    assert np.isnan(dice.per_case["thorax_slices-a"]["spleen"])
    # lung is 2 x 3 pixels in 3 of 5 slices of 8 x 9
    assert dice.per_case["thorax_slices-a"]["lung"] == pytest.approx(2 * 18 / (18 + 360))
    assert dice.per_case["thorax_slices-a"]["liver"] == 0


def drawn(folders, kind, epochs=6):
    joined = open_slices(folders)
    items = slice_items(joined, "train")
    sampler = make_sampler(kind, items, joined, seed=0)
    rounds = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        rounds.append(list(sampler))
        assert list(sampler) == rounds[-1]
        assert len(rounds[-1]) == len(sampler)
    assert len({tuple(one) for one in rounds}) == epochs
    return joined, items, rounds


def test_all_slices_come_as_often_as_their_folder_weighs(abdomen, thorax):
    weighted = [abdomen, {"folder": thorax, "weight": 2.5}]
    _, items, rounds = drawn(weighted, "all")
    for indices in rounds:
        counts = Counter(indices)
        assert len(indices) == 10 + 25
        for index, item in enumerate(items):
            wanted = {1} if "abdomen" in item["case"] else {2, 3}
            assert counts[index] in wanted
    half = [{"folder": abdomen, "weight": 0.5}, thorax]
    assert {len(indices) for indices in drawn(half, "all")[2]} == {15}


def test_foreground_balanced_and_per_case(abdomen):
    joined, items, rounds = drawn(str(abdomen), "foreground")
    assert all(sorted(Counter(one)) == [0, 1, 2, 5, 6, 7] for one in rounds)
    labels = [row.labels for row in joined.select("train")]
    for indices in drawn(str(abdomen), "balanced")[2]:
        # 10 draws: 4 for class 1 (of 6 slices), 3 for class 2 (of 4), 3 for none (of 4)
        assert len(indices) == 10
        assert sum(not labels[i] for i in indices) == 3
        assert sum(2 in labels[i] for i in indices) >= 3
    for indices in drawn(str(abdomen), {"per_case": 2})[2]:
        assert Counter(items[i]["case"] for i in indices) == {"a": 2, "b": 2}
        assert len(set(indices)) == 4
    assert all(sorted(one) == list(range(10)) for one in drawn(str(abdomen), {"per_case": 9})[2])


def test_balanced_repeats_a_rare_class(make_slices):
    folder = make_slices("one", ABDOMEN)
    joined, items, rounds = drawn(str(folder), "balanced")
    rare = [i for i, row in enumerate(joined.select("train")) if row.labels and 2 in row.labels]
    assert len(rare) / len(items) == 0.4
    shares = [sum(i in rare for i in one) / len(one) for one in rounds]
    assert np.mean(shares) > 0.45


def test_samplers_that_cannot_be_are_named(abdomen):
    manifest = load_manifest(abdomen)
    items = slice_items(manifest, "train")
    for kind in ("some", {"per_case": 0}, {"per_case": 1, "x": 2}, {}):
        with pytest.raises(ValueError, match="sampler must be all, foreground, balanced or"):
            make_sampler(kind, items, manifest, seed=0)
    with pytest.raises(ValueError, match="none of 2 slices has a label pixel"):
        make_sampler("balanced", items[3:5], manifest, seed=0)


def test_folders_that_cannot_be_joined_are_named(abdomen, thorax, make_slices):
    for folders, message in [
        ([], "expected at least one folder"),
        ([abdomen, abdomen], "is there twice; give it a weight instead"),
        ([abdomen, {"dir": thorax}], "expected a folder, or {folder: DIR, weight: 2}"),
        ([{"folder": abdomen, "weight": 0}], "weight must be a number above 0, got 0"),
        ([abdomen, make_slices("other", THORAX, axis=1)], "was sliced with axis 1, .* with 2"),
        ([abdomen, make_slices("ct", THORAX, modality="ct")], "was sliced with modality ct"),
        ([abdomen, make_slices("bare", {})], "label value 1 has no name; folders are joined by"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_slices(folders)
    assert len(join([load_manifest(abdomen)]).cases) == 2
