"""The benchmark of training and the table of memory, small: they run, and paths agree."""

import argparse
import json

import pytest
import torch

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


def test_table_of_memory_orders_the_methods_and_counts_what_a_forward_keeps(tmp_path, capsys):
    out = tmp_path / "memory.json"
    assert table_memory.main(["--quick", "--json", str(out)]) == 0
    table = json.loads(out.read_text())["computed"]
    assert list(table) == ["lite_medsam, 128 px", "vit_b, 256 px"]
    for row in table.values():
        kept = {way: cell["kept float32"] for way, cell in row.items()}
        assert kept["full"] > kept["LoRA, all blocks"] > kept["LoRA, checkpointed"]
        assert kept["LoRA, all blocks"] > kept["LoRA, last:2"] > kept["decoder only"] > 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    # on real tensors, where attention and loss are the processor's own
    args = argparse.Namespace(arch="lite_medsam", size=128)
    step = bench_training.make_step("decoder only", args, 1, torch.device("cpu"))
    real = step.saved() / 2**30
    assert table["lite_medsam, 128 px"]["decoder only"]["kept float32"] == pytest.approx(real, 0.1)
