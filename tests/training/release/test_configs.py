"""Changes of a config's text: what was asked, nothing else, comments kept."""

import pytest
import yaml

from samtune.training.release import configs
from samtune.training.release.config_text import set_header, set_keys
from samtune.training.release.portable import without_paths

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


def test_settings_go_to_the_keys_that_the_config_records(monkeypatch, tmp_path):
    base = {
        **{"epochs": 5, "flags": {"amp": "$@amp"}, "amp": False, "activation": "softmax"},
        **{"loss": {"x": {"weight": 1, "kind": "dice"}}, "device": "auto"},
        "run_folder": {
            "settings": {
                **{"number": "@epochs", "amp": "@flags::amp", "activation": "$@task.activation"},
                **{"weight": "@loss::x::weight", "device": "$str(@device)"},
            }
        },
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/train.yaml").write_text(yaml.safe_dump(base))
    monkeypatch.setattr(configs, "BASE", tmp_path)
    monkeypatch.setattr(configs, "LATER_SETTINGS", {})
    settings = {"number": 9, "amp": True, "activation": "sigmoid", "weight": 3, "device": "cuda"}
    record = {
        "settings": settings,
        "task": {"classes": {"2": "b"}, "regions": {}},
        "network": {"arch": "vit_b", "image_size": 512, "normalization": "sam", "x": 1},
    }
    assert configs.train_settings(record) == {
        **{"epochs": 9, "amp": True, "activation": "sigmoid"},
        "loss": {"x": {"weight": 3, "kind": "dice"}},
        **{"arch": "vit_b", "image_size": 512, "normalization": "sam"},
        **{"classes": {2: "b"}, "regions": {}},
    }
    settings["old"] = 1
    with pytest.raises(ValueError, match="doesn't record: old"):
        configs.train_settings(record)


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
