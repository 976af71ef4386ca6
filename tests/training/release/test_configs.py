"""Changes of a config's text: what was asked, nothing else, comments kept."""

import pytest
import yaml

from samtune.training.release import configs
from samtune.training.release.config_text import set_header, set_keys
from samtune.training.release.portable import without_paths
from samtune.training.run_folder import TrainedRun

ME = "/" + "home/me"  # in two pieces: no file here holds such a path
TEXT = """# head
# more
a: 1 # one
b: # two
  c: [1, 2]
  d: x
e:
- 1
- {f: 2}

# section
g: '@a'
"""


def test_blocks_are_replaced_and_comments_stay():
    out = set_keys(TEXT, {"a": 0.001, "e": [], "b": {"c": {"k": None}}, "new": "$@a + 'x'"})
    assert yaml.safe_load(out) == {
        **{"a": 0.001, "b": {"c": {"k": None}}, "e": [], "g": "@a"},
        "new": "$@a + 'x'",
    }
    assert "a: 0.001 # one\n" in out
    assert "\n# section\ng: '@a'\n" in out
    assert set_header(out, ["new head"]).splitlines()[:2] == ["# new head", "a: 0.001 # one"]


def test_what_can_t_be_changed_alone_is_an_error():
    text = "a: &x 1\nb: *x\n"
    # the key is there twice
    with pytest.raises(ValueError, match=r"x\.yaml: setting a would change more than that"):
        set_keys("a: 1\nb: 1\na: 2\n", {"a": 3}, name="x.yaml")
    with pytest.raises(yaml.YAMLError):
        set_keys(text, {"a": 2})
    with pytest.raises(ValueError, match="expected a mapping of keys, found list"):
        set_keys("- 1\n", {})


CONFIG = """# training
bundle_root: {_target_: root}
dataset_dir: auto # slices
runs_dir: ./runs
run_name: lora
output_dir: {_target_: dir}
source: null
arch: auto # found out
checkpoint: null
cache_dir: null
epochs: 5 # how long
device: auto
gone: 1
loss: {weight: 1, kind: dice}
run_folder: {path: "$@output_dir + '/curve.csv'"}
initialize: [$start()]
"""


@pytest.fixture
def frozen(monkeypatch, tmp_path):
    """The frozen config of a run whose merged config differs from the bundle's as told."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/train.yaml").write_text(CONFIG)
    monkeypatch.setattr(configs, "BASE", tmp_path)
    monkeypatch.setattr(configs, "base_name", lambda run: "medsam.pth")
    network = {"arch": "vit_b", "image_size": 512, "normalization": "sam", "x": 1}
    task = {"classes": {"2": "b"}, "regions": {"whole": [2]}}

    def freeze(config, data=f"{ME}/slices"):
        merged = {**yaml.safe_load(CONFIG), **config}
        del merged["gone"]
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(merged))
        record = {"task": task, "network": network, "data": {"dataset_dir": data}}
        return configs.train_text(TrainedRun(tmp_path, record, None), name="mr_lora")

    return freeze


def test_the_training_config_is_the_runs_own(frozen):
    changes = {
        **{"epochs": 9, "dataset_dir": f"{ME}/slices", "cache_dir": "/scratch/me"},
        **{"checkpoint": f"{ME}/medsam.pth", "text_embeddings": f"{ME}/text.safetensors"},
        **{"loss": {"weight": 3, "kind": f"$my_loss('{ME}/a.json')"}, "own": ["x", {"y": 1}]},
        **{"runs_dir": f"{ME}/runs", "device": "cuda:3", "output_dir": f"{ME}/out"},
    }
    text = frozen(changes)
    found, base = yaml.safe_load(text), yaml.safe_load(CONFIG)
    assert found.pop("initialize")[-1] == "$start()"
    assert found == {
        # as the run had it
        **{"epochs": 9, "loss": {"weight": 3, "kind": "$my_loss('a.json')"}},
        **{"own": ["x", {"y": 1}], "run_folder": base["run_folder"]},
        # as was found out
        **{"arch": "vit_b", "image_size": 512, "normalization": "sam"},
        **{"classes": {2: "b"}, "regions": {"whole": [2]}},
        # wherever it is run
        **{"checkpoint": "medsam.pth", "text_embeddings": "text.safetensors", "cache_dir": None},
        **{key: base[key] for key in ("runs_dir", "device", "output_dir", "source")},
        **{"bundle_root": ".", "dataset_dir": "./slices", "run_name": "mr_lora"},
    }
    assert "epochs: 9 # how long\n" in text
    joined = [{"folder": "/data/a", "weight": 2}, "/data/b"]
    found = yaml.safe_load(frozen({"dataset_dir": joined}, ["/data/a", "/data/b"]))
    assert found["dataset_dir"] == [{"folder": "a", "weight": 2}, "b"]


def test_a_frozen_config_frozen_again_checks_once(frozen):
    steps = yaml.safe_load(frozen({}))["initialize"]
    assert len(steps) == 3
    assert yaml.safe_load(frozen({"initialize": steps}))["initialize"] == steps


def test_a_damaged_config_of_a_run_is_named(frozen, tmp_path):
    frozen({})
    (tmp_path / "config.yaml").write_text("[]")
    run = TrainedRun(tmp_path, {"task": {}, "network": {}}, None)
    with pytest.raises(ValueError, match=r"config\.yaml' is damaged: expected the keys"):
        configs.train_text(run, name="x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{ME}/runs/a", "a"),
        (f"--x={ME}/a.pth", "--x=a.pth"),
        (f"['{ME}/a.yaml', '{ME}/b.yaml']", "['a.yaml', 'b.yaml']"),
        (r"C:\Users\me\a.pth", "a.pth"),
        ("configs/train.yaml", "configs/train.yaml"),
        ("https://host/path/file", "https://host/path/file"),
        ("mm/px and 1 / 2", "mm/px and 1 / 2"),
        (3, 3),
    ],
)
def test_paths_of_a_machine_are_cut(text, expected):
    assert without_paths({"a": [text]}) == {"a": [expected]}
