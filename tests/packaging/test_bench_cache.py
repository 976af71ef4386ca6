"""The cache's benchmark, small: it runs, and its compared paths agree."""

import json

from samtune.benchmarks.bench_cache import main


def test_both_ratios_are_measured(tmp_path, capsys):
    out = tmp_path / "cache.json"
    arguments = ["--size", "64", "--depth", "5", "--rounds", "1", "--json", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    results = json.loads(out.read_text())["results"]
    assert list(results) == ["decoder only", "last 4"]
    for name, found in results.items():
        assert found["ratio"] == found["without"] / found["with"] > 0
        assert name in printed
