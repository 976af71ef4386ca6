"""Protocols of the zero-shot evaluation: which slices get a prompt, and what is recorded."""

import csv
import json

import pytest

from samtune.preprocessing.manifest import load_manifest
from samtune.training.oracle import PromptedSegmenter


@pytest.mark.parametrize("protocol", ["oracle_box", "centre_point", "full_box", "no_prompt"])
def test_protocol_is_recorded_and_label_free_ones_see_every_slice(
    tiny_slices, packaged_weights, run_bundle, tmp_path, monkeypatch, protocol
):
    seen = []
    forward = PromptedSegmenter.forward

    def count(self, image, boxes, points=None, point_labels=None):
        seen.append((len(image), boxes.isfinite().all(-1), point_labels))
        return forward(self, image, boxes, points, point_labels)

    monkeypatch.setattr(PromptedSegmenter, "forward", count)
    run_bundle(
        "zero_shot",
        dataset_dir=str(tiny_slices),
        output_dir=str(tmp_path),
        image_size=128,
        device="cpu",
        protocol=protocol,
    )
    records = load_manifest(tiny_slices).select("test")
    labelled = [record for record in records if record.labels]
    assert len(labelled) < len(records)
    from_label = protocol in ("oracle_box", "centre_point")
    assert sum(number for number, _, _ in seen) == len(labelled if from_label else records)
    for number, boxes, point_labels in seen:
        assert boxes.shape == (number, 3)
        assert bool(boxes.all()) is (protocol in ("oracle_box", "full_box"))
        points = 1 if protocol == "centre_point" else 0
        assert (point_labels == 1).sum() == number * 3 * points
    companion = json.loads((tmp_path / "metrics_test.json").read_text())["protocol"]
    assert companion["prompt"] == protocol
    assert companion["prompt_source"].startswith("the reference label") is from_label
    with (tmp_path / "metrics_test.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 6  # two cases, three regions


def test_unknown_protocol(tiny_slices, packaged_weights, run_bundle, tmp_path):
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run_bundle("zero_shot", dataset_dir=str(tiny_slices), protocol="box", device="cpu")
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert "unknown zero-shot protocol 'box', expected one of: oracle_box" in str(error)
