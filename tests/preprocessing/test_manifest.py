import json

import numpy as np
import pytest

from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.manifest import CaseRecord, Manifest, SliceRecord, load_manifest
from samtune.preprocessing.slicing import CaseGeometry

SHA = "0123456789abcdef" * 4


def case_record(case, split):
    geometry = CaseGeometry(case, (5, 7, 2), np.eye(4), (1.0, 1.0, 1.0), "RAS", 2)
    return CaseRecord(geometry, split, SHA, f"{case}.nii.gz", f"{case}.nii.gz", 2, SHA)


@pytest.fixture
def manifest(tmp_path):
    settings = {
        "modality": "mr",
        "intensity": Intensity.for_modality("mr").to_dict(),
        "axis": "auto",
        "layout": "slice",
        "labelled": True,
        "split": {"rule": "counts", "counts": [1, 0, 1], "seed": 0},
        "class_names": {"1": "anterior"},
        "label_values": [1, 12],
    }
    slices = [
        SliceRecord("slices/b_000.npz", "b", 0, "test", {12: 3, 1: 4}),
        SliceRecord("slices/b_001.npz", "b", 1, "test", {}),
        SliceRecord("slices/a_001.npz", "a", 1, "train", {1: 9}),
        SliceRecord("slices/a_000.npz", "a", 0, "train", {}),
    ]
    cases = {"b": case_record("b", "test"), "a": case_record("a", "train")}
    return Manifest(tmp_path, settings, cases, slices, ["z"])


def test_what_is_saved_is_loaded_sorted(manifest, tmp_path):
    manifest.save()
    loaded = load_manifest(tmp_path)
    assert loaded.settings == manifest.settings
    assert loaded.cases == manifest.cases
    assert list(loaded.cases) == ["a", "b"]
    assert [(record.case, record.index) for record in loaded.slices] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("b", 1),
    ]
    assert set(map(str, loaded.slices)) == set(map(str, manifest.slices))
    assert loaded.failed == ["z"]
    assert loaded.root == tmp_path
    assert load_manifest(tmp_path / "manifest.json") == loaded
    before = (tmp_path / "manifest.json").read_bytes()
    loaded.save()
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_select_gives_the_slices_of_a_split_or_case(manifest, tmp_path):
    manifest.save()
    loaded = load_manifest(tmp_path)
    assert [record.file for record in loaded.select("train")] == [
        "slices/a_000.npz",
        "slices/a_001.npz",
    ]
    assert loaded.select(split="val") == []
    assert len(loaded.select()) == 4
    assert [record.index for record in loaded.select(case="b")] == [0, 1]
    assert loaded.case_labels() == [1, 12]
    assert loaded.path(loaded.slices[0]) == tmp_path / "slices/a_000.npz"
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'training'"):
        loaded.select("training")
    with pytest.raises(ValueError, match="no case 'c'"):
        loaded.select(case="c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=2), "format_version is 2; this version .* reads 1"),
        (lambda m: m.pop("format_version"), "format_version is None"),
        (lambda m: m.pop("slices"), "top level: 'slices' is a required property"),
        (lambda m: m.update(extra=1), "top level: .*'extra' was unexpected"),
        (lambda m: m["settings"].update(modality="xray"), "settings/modality: 'xray' is not one"),
        (lambda m: m["settings"].pop("layout"), "settings: 'layout' is a required property"),
        (lambda m: m["cases"]["a"]["geometry"].update(axis=3), "cases/a/geometry/axis: 3 is not"),
        (
            lambda m: m["cases"]["b"].update(source_sha256="x"),
            "cases/b/source_sha256: 'x' does not",
        ),
        (lambda m: m["slices"][1].update(split="dev"), "slices/1/split: 'dev' is not one of"),
        (lambda m: m["slices"][1].update(file="/a.npz"), "slices/1/file: '/a.npz' does not match"),
        (lambda m: m["slices"][1].update(file="../a.npz"), "slices/1/file: '../a.npz' does not"),
        (lambda m: m["slices"][1].update(file="a/../b.npz"), "slices/1/file"),
        (lambda m: m["slices"][1].update(labels={"0": 3}), "slices/1/labels"),
        (lambda m: m["slices"].pop(), "cases/b: 1 slices listed, num_slices is 2"),
        (lambda m: m["slices"][0].update(case="c"), "case 'c' of slices/a_000.npz is not listed"),
        (lambda m: m["slices"][0].update(split="val"), "a_000.npz is in another split than"),
    ],
)
def test_a_wrong_key_is_named_with_the_file(manifest, tmp_path, change, message):
    manifest.save()
    path = tmp_path / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as error:
        load_manifest(tmp_path)
    assert str(path) in str(error.value)


def test_a_missing_or_broken_manifest_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json: no such file; expected a folder"):
        load_manifest(tmp_path)
    for text, message in [("{", "not valid JSON"), ("[]", "expected a JSON object, found list")]:
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_manifest(tmp_path)
