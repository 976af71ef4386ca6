"""The benchmark of training and the table of memory, small: they run, and paths agree."""

import json

from samtune.benchmarks import bench_training, table_memory


def test_all_figures_are_there_and_without_a_gpu_its_own_are_not(tmp_path, capsys):
    out = tmp_path / "training.json"
    assert bench_training.main(["--quick", "--json", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    for name, parts in (("trainer", ("trainer", "bare")), ("predict", ("predict", "bare"))):
        assert all(results[name][part] > 0 for part in parts)
        assert results[name]["overhead"] > -1
    (ways,) = results["steps"].values()
    assert list(ways) == list(bench_training.WAYS)
    assert all(row["peak MiB"] == "not measured" for row in ways.values())
    saved = {way: row["saved MiB"] for way, row in ways.items()}
    assert saved["full"] > saved["LoRA, all blocks"] > saved["LoRA, last:2"] > 0
    assert saved["LoRA, last:2"] > saved["decoder only"] > 0
    assert "not measured" in capsys.readouterr().out
