"""Methods under DistributedDataParallel: every trained parameter takes part in every step."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from samtune.peft.adapt import adapt
from samtune.peft.registry import METHODS, build_method


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_two_steps(one_process, make_segmenter, name):
    net = make_segmenter("sam_vit").train()
    config = {"name": name}
    if "rank" in METHODS[name].__dataclass_fields__:
        config["rank"] = 2
    adapt(net, build_method(config), decoder="full")
    # a parameter without a gradient makes the second forward fail
    wrapped = DistributedDataParallel(net)
    image = torch.rand(2, 3, net.image_size, net.image_size)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        wrapped(image).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
