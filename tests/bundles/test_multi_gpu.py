"""train.yaml and multi_gpu.yaml in two processes on the processor, by Gloo."""

import csv
import faulthandler
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ignite.engine import Events
from monai.bundle import ConfigParser, create_workflow
from torch.nn.parallel import DistributedDataParallel

from samtune.networks import build_sam
from samtune.peft.adapt import trained_state
from samtune.peft.adapter_file import read_adapter, save_adapter
from samtune.training.distributed import main_only
from samtune.training.errors import root_cause
from samtune.training.network import build_network
from samtune.training.stopping import EXIT_CODE

CONFIGS = Path(__file__).resolve().parents[2] / "bundles/sam_finetune/configs"
TRAIN, MULTI = str(CONFIGS / "train.yaml"), str(CONFIGS / "multi_gpu.yaml")
SECONDS = 240  # a hang is a failure
# plain steps of a loss that is the mean over the samples: then gradients of two halves average to
# that of the whole.
PLAIN = """
loss:
  _target_: monai.losses.DiceCELoss
  include_background: false
  to_onehot_y: true
  softmax: true
optimizer:
  _target_: torch.optim.SGD
  params: $[p for p in @network.parameters() if p.requires_grad]
  lr: '@learning_rate'
"""
SETTINGS = {
    "image_size": 32,
    "arch": "lite_medsam",
    "normalization": "medsam",
    "epochs": 2,
    "batch_size": 2,
    "views": 2,
    "rank": 2,
    "learning_rate": 0.002,  # higher ones soon predict background alone
    "clip_norm": 5.0,
    "device": "cpu",
}


def make(files, **settings):
    return create_workflow(
        config_file=[str(file) for file in files], run_id="training", logging_file=False, **settings
    )


def workflow(files, **settings):
    """A run."""
    made = make(files, **settings)
    made.run()
    return made


def disturb(made, copy_to=None, sigterm=None, poison=None):
    """What happens to a run.

    Args:
        made: the run.
        copy_to: where its folder goes as a kill after the first epoch would leave it.
        sigterm, poison: rank and iteration: in it the process gets SIGTERM, or the batch holds NaN.
    """
    trainer = made.parser.get_parsed_content("train::trainer")
    if copy_to is not None:
        copy = partial(shutil.copytree, made.parser.get_parsed_content("output_dir"), copy_to)
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), main_only(lambda: copy()))
    if sigterm is not None and sigterm[0] == dist.get_rank():
        event = Events.ITERATION_STARTED(once=sigterm[1])
        trainer.add_event_handler(event, lambda: os.kill(os.getpid(), signal.SIGTERM))
    if poison is not None and poison[0] == dist.get_rank():
        event = Events.ITERATION_STARTED(once=poison[1])
        trainer.add_event_handler(event, lambda engine: engine.state.batch["image"].fill_(math.nan))


def outcome(made):
    """How a run ends: ``None``, its exit code or what its error says."""
    try:
        made.run()
    except SystemExit as error:
        return error.code
    except RuntimeError as error:
        return str(root_cause(error))
    return None


def facts(made):
    """What has to be the same everywhere."""
    parser = made.parser
    dice = parser.get_parsed_content("validate::dice")
    trainer = parser.get_parsed_content("train::trainer")
    return {
        "trained": trained_state(parser.get_parsed_content("network")),
        "rows": dice.per_case,
        "metric": parser.get_parsed_content("validate::evaluator").state.metrics.get("val_dice"),
        "iteration": trainer.state.iteration,
        "wrapped": isinstance(trainer.network, DistributedDataParallel),
        "encoded": parser.get_parsed_content("train::dataset").disk.counts.missing,
        "seed": torch.initial_seed(),
    }


def work(rank, ports, folder, runs):
    """One of two processes: trains each of ``runs`` in turn."""
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(SECONDS, exit=True)  # where it hangs
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
    }
    for port, (name, settings) in zip(ports, runs.items(), strict=True):
        # a new one: within a process torch may hand out the last run's store, with its old keys
        os.environ["MASTER_PORT"] = str(port)
        settings = {"files": [f"{folder}/plain.yaml"], **settings}
        what = {key: settings.pop(key, None) for key in ("copy_to", "sigterm", "poison")}
        made = make([TRAIN, *settings.pop("files"), MULTI], **settings)
        disturb(made, **what)
        ended = outcome(made)
        torch.save({**facts(made), "ended": ended}, f"{folder}/{name}_{rank}.pt")
        made.finalize()
        assert not dist.is_initialized()


def two(folder, **runs):
    """Both processes' facts of each run, one after the other."""
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in runs]
        for one in free:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in free]
    processes = mp.spawn(work, (ports, str(folder), runs), nprocs=2, join=False)
    try:
        end = time.monotonic() + SECONDS + 40
        while not processes.join(1):
            assert time.monotonic() < end, "hangs"
    finally:
        for process in processes.processes:
            process.kill()
    return {
        name: [torch.load(folder / f"{name}_{rank}.pt", weights_only=False) for rank in range(2)]
        for name in runs
    }


def curve(path):
    """Rows of ``curve.csv``, but for the time they took."""
    with (path / "curve.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, odd_slices, loud):
    root = tmp_path_factory.mktemp("two")
    (root / "plain.yaml").write_text(PLAIN)
    torch.manual_seed(0)
    torch.save(build_sam("lite_medsam", "random", 32).state_dict(), root / "base.pth")
    network = build_network(
        checkpoint=root / "base.pth",
        arch="lite_medsam",
        image_size=32,
        normalization="medsam",
        num_classes=2,
        class_names=["front", "back"],
        peft={"name": "lora", "rank": 2, "alpha": 16, "blocks": "last:2"},
    )
    loud(network, odd_slices)
    save_adapter(root / "start.safetensors", network, peft=network.peft)
    return root


@pytest.fixture(scope="module")
def settings(folder, odd_slices):
    return {
        **SETTINGS,
        "checkpoint": str(folder / "base.pth"),
        "init_adapter": str(folder / "start.safetensors"),
        "dataset_dir": str(odd_slices),
        "runs_dir": str(folder / "runs"),
    }


@pytest.fixture(scope="module")
def pairs(folder, settings):
    """Facts of two processes: whole, with accumulation, stopped, gone on, with NaN in one."""
    own = {**settings, "run_name": "two", "cache_dir": str(folder / "cache")}
    halves = {**own, "batch_size": 1, "accumulation": 2}
    return two(
        folder,
        two=own,
        halves={**halves, "run_name": "halves"},
        # five iterations an epoch, steps after the second, the fourth and the fifth
        stopped={**halves, "run_name": "stopped", "sigterm": (1, 3)},
        again={**halves, "run_name": "stopped"},
        poisoned={**own, "run_name": "poisoned", "poison": (1, 2)},
    )


@pytest.fixture(scope="module")
def both(folder, settings, pairs):
    """Facts of two processes, and of one with the doubled batch."""
    results = pairs["two"]
    single = {**settings, "run_name": "one", "batch_size": 4, "cache_dir": str(folder / "cache_1")}
    return [*results, facts(workflow([TRAIN, folder / "plain.yaml"], **single))]


@pytest.mark.parametrize(("run", "iterations"), [("two", 6), ("halves", 10)])
def test_two_processes_train_as_one_with_the_doubled_batch(both, pairs, folder, run, iterations):
    """Also where each takes its half of the batch in two."""
    (first, second), one = pairs[run], both[2]
    assert first["wrapped"]
    assert not one["wrapped"]
    assert first["iteration"] == second["iteration"] == iterations
    assert one["iteration"] == 6
    start = read_adapter(folder / "start.safetensors").tensors
    assert set(start) == set(one["trained"])
    moved = {}
    for name, tensor in one["trained"].items():
        assert torch.equal(first["trained"][name], second["trained"][name]), name
        moved[name] = float((tensor - start[name]).abs().max())
        # 1e-5 of the value, where that is small 1e-3 of how far it went
        close = {"rtol": 1e-5, "atol": 1e-3 * moved[name] + 1e-9}
        torch.testing.assert_close(first["trained"][name], tensor, **close, msg=name)
    assert sum(way > 1e-5 for way in moved.values()) > len(moved) / 2


def test_rows_curve_and_metric_are_those_of_one_process(both, folder):
    first, second, one = both
    assert len(one["rows"]) == 3
    assert first["rows"] == second["rows"] == one["rows"]
    assert list(first["rows"]) == list(one["rows"])  # sums depend on the order
    assert len({str(row) for row in one["rows"].values()}) == 3, "cases should differ"
    assert first["metric"] == second["metric"] == one["metric"] > 0
    ours, theirs = curve(folder / "runs/two"), curve(folder / "runs/one")
    assert len(ours) == 2
    for row, other in zip(ours, theirs, strict=True):
        assert float(row.pop("train_loss")) == pytest.approx(float(other.pop("train_loss")), 1e-5)
        assert row == other


def test_each_process_encodes_its_part_of_the_cache(both):
    first, second, one = both
    assert first["encoded"] == second["encoded"] == 5 * 2
    assert one["encoded"] == 10 * 2


def test_chance_differs_between_processes(both):
    first, second, one = both
    assert first["seed"] == one["seed"] != second["seed"]


def test_sigterm_to_one_stops_all_and_they_go_on_within_the_step(pairs, folder):
    for whole, stopped, again in zip(
        *(pairs[k] for k in ("halves", "stopped", "again")), strict=True
    ):
        assert (stopped["ended"], stopped["iteration"]) == (EXIT_CODE, 3)
        assert (again["ended"], again["iteration"]) == (None, 10)
        for name, tensor in whole["trained"].items():
            assert torch.equal(again["trained"][name], tensor), name
    assert curve(folder / "runs/stopped") == curve(folder / "runs/halves")


def test_a_loss_of_one_that_is_not_finite_ends_all_with_its_slices(pairs, folder):
    first, second = (facts_of["ended"] for facts_of in pairs["poisoned"])
    assert first == second
    assert "the loss is nan (epoch 1, iteration 2): the image holds NaN" in first
    assert not (folder / "runs/poisoned/adapter_last.safetensors").exists()


def test_only_one_process_writes_and_names_are_the_networks_own(both, folder):
    run = folder / "runs/two"
    assert len(list(run.glob("tensorboard/*"))) == len(list(folder.glob("runs/one/tensorboard/*")))
    assert json.loads((run / "run.json").read_text())["processes"] == 2
    (entry,) = json.loads((run / "resources.json").read_text())["commands"]
    assert (entry["processes"], entry["last_iteration"]) == (2, 6)
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert set(state["trained"]) == set(both[2]["trained"])


def test_one_process_goes_on_from_the_checkpoint_of_two(both, folder, settings):
    shutil.copytree(folder / "runs/two", folder / "runs/continued")
    own = {**settings, "run_name": "continued", "epochs": 3}
    one = workflow([TRAIN, folder / "plain.yaml"], **own, cache_dir=str(folder / "cache"))
    assert one.parser.get_parsed_content("train::trainer").state.iteration == 3 * 5
    rows = curve(folder / "runs/continued")
    assert rows[:2] == curve(folder / "runs/two")
    optimizer = one.parser.get_parsed_content("optimizer")
    # the schedule has come to its end, as it would have in one process from the start
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    assert len(rows) == 3


def test_every_key_of_the_overlay_replaces_one_of_train_yaml_or_is_its_own():
    base, overlay = ConfigParser(), ConfigParser.load_config_file(MULTI)
    base.read_config(TRAIN)
    own = {"find_unused_parameters", "parallel_network", "finalize"}
    for key in overlay:
        assert key in own or key.removeprefix("+") in base, key


@pytest.mark.slow
def test_two_processes_go_on_after_a_kill_as_if_there_had_been_none(folder, settings):
    own = {**settings, "init_adapter": None, "dropout": 0.3, "cache_dir": str(folder / "cache")}
    copy = str(folder / "runs/killed")
    found = two(
        folder,
        whole={**own, "run_name": "whole", "copy_to": copy},
        killed={**own, "run_name": "killed"},
        sober={**own, "run_name": "sober", "dropout": 0.0},
        stopped={**own, "run_name": "stopped_twice", "sigterm": (0, 2)},
        again={**own, "run_name": "stopped_twice"},
    )
    assert curve(folder / "runs/killed") == curve(folder / "runs/whole")
    for whole, killed, sober, stopped, again in zip(*found.values(), strict=True):
        assert stopped["iteration"] == 2
        for name, tensor in whole["trained"].items():
            assert torch.equal(killed["trained"][name], tensor), name
            assert torch.equal(again["trained"][name], tensor), name
        lora = next(name for name in whole["trained"] if "lora_b" in name)
        assert not torch.equal(whole["trained"][lora], sober["trained"][lora])  # chance took part


@pytest.mark.slow
def test_prompts_of_each_kind(folder, settings):
    prompted = {"files": [str(CONFIGS / "prompted.yaml")], "init_adapter": None, "epochs": 1}
    own = {**settings, **prompted, "cache_dir": str(folder / "cache")}
    kinds = ("box", "hybrid", "clicks")
    runs = {kind: {**own, "run_name": kind, "prompts": kind, "clicks": 2} for kind in kinds}
    for (first, second), kind in zip(two(folder, **runs).values(), kinds, strict=True):
        assert first["ended"] is second["ended"] is None, kind
        assert first["rows"] == second["rows"]
        assert len(first["rows"]) == 3
        for name, tensor in first["trained"].items():
            assert torch.equal(second["trained"][name], tensor), name


@pytest.mark.slow
def test_torchrun_trains_and_says_one_thing_where_it_fails(folder, settings):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "training", "--config_file", f"['{TRAIN}', '{MULTI}']"]

    def run(**changes):
        options = [f"--{k}={v}" for k, v in {**settings, **changes}.items()]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command + options, capture_output=True, text=True, env=environment, timeout=300
        )

    done = run(run_name="command", epochs=1)
    assert done.returncode == 0, done.stderr
    assert (folder / "runs/command/adapter_last.safetensors").is_file()
    assert done.stderr.count("epoch 1 of 1: train_loss") == 1
    failed = run(run_name="command", device="cuda:1")
    assert failed.returncode != 0
    assert failed.stderr.count("error: several processes take device") == 1
    assert "error in process" not in failed.stderr
