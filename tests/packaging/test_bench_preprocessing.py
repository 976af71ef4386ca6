"""The benchmark of preprocessing, small: it runs, and its compared paths agree."""

import json

from samtune.benchmarks.bench_preprocessing import main


def test_all_ratios_are_measured(tmp_path, capsys):
    out = tmp_path / "preprocessing.json"
    assert main(["--quick", "--json", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    for name in ("slicing", "model input", "workers"):
        assert results[name]["ratio"] > 0
    for speeds in results["loader"].values():
        assert list(speeds) == ["npz compressed", "npz plain", "npy", "memory map"]
    readers = {"nibabel get_fdata", "nibabel", "gzip", "SimpleITK", "samtune"}
    assert set(results["reading"]) - {"isal"} == readers
    assert len(capsys.readouterr().out.splitlines()) == 6
