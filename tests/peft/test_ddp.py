"""Methods under DistributedDataParallel: every trained parameter takes part in every step."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from samtune.networks import SamSegmenter
from samtune.networks.build import assemble_sam
from samtune.networks.sam_vit import SamViT
from samtune.peft.adapt import adapt
from samtune.peft.registry import METHODS, build_method

SIZE = 32


def network(name):
    """A tiny segmenter with the method, the same in every process."""
    torch.manual_seed(0)
    encoder = SamViT(image_size=SIZE, dim=24, depth=2, num_heads=3, global_blocks=(1,), window=2)
    sam = assemble_sam(encoder, arch="sam_vit", image_size=SIZE, normalization="medsam")
    net = SamSegmenter(sam, 1)
    config = {"name": name}
    if "rank" in METHODS[name].__dataclass_fields__:
        config["rank"] = 2
    adapt(net, build_method(config), decoder="full", generator=torch.Generator().manual_seed(0))
    return net.train()


def images():
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def train(model, net, image):
    """Two steps; the second one's forward fails if a parameter had no gradient."""
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(image).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None for p in trained)
    return {n: p.detach().clone() for n, p in net.named_parameters() if p.requires_grad}


def work(rank, folder):
    """One of two processes: half of the images each."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {}
    for name in [n for n in METHODS if n != "qlora"]:  # in the same order in both
        net = network(name)
        results[name] = train(DistributedDataParallel(net), net, images()[rank : rank + 1])
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Trained tensors by method, of both processes."""
    folder = tmp_path_factory.mktemp("ddp")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_train_as_one_does_on_all_images(results, name):
    first, second = (result[name] for result in results)
    net = network(name)
    start = {n: p.detach().clone() for n, p in net.named_parameters()}
    expected = train(net, net, images())
    assert first.keys() == second.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(first[key], second[key]), key
        moved = (tensor - start[key]).abs().max()
        assert (first[key] - tensor).abs().max() <= 1e-2 * moved + 1e-7, key
