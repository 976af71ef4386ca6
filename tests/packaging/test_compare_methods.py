"""The comparison's plan: what it refuses before hours are spent, and what it does again."""

import argparse
import json

import pytest

from samtune.benchmarks.compare_methods import Row, plan, run_row


def arguments(**changes):
    values = {
        "slices": ["one=a"],
        "out": None,
        "methods": "zero_shot,lora",
        "set": [],
        "batch_size": 8,
        "cache_dir": None,
    }
    return argparse.Namespace(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": "lora,slat"}, "unknown method slat; there are zero_shot, lora"),
        ({"slices": ["x/slices", "y/slices"]}, "datasets need different names"),
        ({"set": ["dora:rank=2"]}, "expected METHOD:KEY=VALUE"),
        ({"set": ["lora:rank"]}, "expected METHOD:KEY=VALUE"),
        ({"set": ["zero_shot:epochs=3"]}, "one that is trained here"),
    ],
    ids=str,
)
def test_refused_at_once(changes, said):
    with pytest.raises(ValueError, match=said):
        plan(arguments(**changes))


def test_a_finished_row_stands_for_its_settings_alone(tmp_path):
    row = Row("one", tmp_path, "lora", tmp_path, {"epochs": 3})
    (tmp_path / "row.json").write_text(json.dumps({"method": "lora", "settings": {"epochs": 3}}))
    assert run_row(row) == {"method": "lora"}
    other = Row("one", tmp_path, "lora", tmp_path, {"epochs": 4})
    with pytest.raises(RuntimeError, match=r"row\.json' is of a run with other settings"):
        run_row(other)
