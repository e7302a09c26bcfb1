"""What is pruned trains on: automatic mixed precision, compiled, in several processes."""

import pytest
import torch
from support.networks import GREY, three_sites
from torch import distributed, multiprocessing
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import bench


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, *GREY, generator=generator), torch.randint(10, (8,), generator=generator)


def step(network, optimizer, seed):
    x, y = batch(seed)
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(network(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_mixed_precision_continues():
    network = three_sites()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    step(network, optimizer, 0)
    with torch.autocast("cpu", torch.bfloat16):
        made = bench.prune(network, batch(0)[0], [batch(0)], method="taylor", keep_macs=0.5)
    outside = bench.prune(network, batch(0)[0], [batch(0)], method="taylor", keep_macs=0.5)
    assert all(torch.equal(mask, outside.masks[name]) for name, mask in made.masks.items())
    assert {p.dtype for p in made.network.parameters()} == {torch.float32}
    optimizer = made.optimizer(optimizer)
    losses = [float(step(made.network, optimizer, 1)) for _ in range(12)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_gradients_are_there_in_a_block_without(around):
    network = three_sites()
    with around():
        made = bench.prune(network, batch(0)[0], [batch(0)], method="taylor", keep_macs=0.5)
    assert all(not p.is_inference() and p.requires_grad for p in made.network.parameters())
    cross_entropy(made.network(batch(0)[0]), batch(0)[1]).backward()


@pytest.mark.slow  # torch's compiler
def test_result_can_be_compiled():
    made = bench.prune(torch.compile(three_sites(), backend="aot_eager"), batch(0)[0], keep_macs=0.5)
    compiled = torch.compile(made.network, backend="aot_eager")
    optimizer = torch.optim.SGD(made.network.parameters(), 0.1)
    losses = [float(step(compiled, optimizer, 1)) for _ in range(12)]
    assert losses[-1] < losses[0]


def one_of_two(rank, folder):
    """A process that sees other batches than the second one."""
    torch.manual_seed(0)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    network = DistributedDataParallel(three_sites())
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    step(network, optimizer, rank)
    made = bench.prune(network, batch(0)[0], [batch(rank)], method="taylor", keep_macs=0.5)
    optimizer = made.optimizer(optimizer)
    step(DistributedDataParallel(made.network), optimizer, 2 + rank)
    torch.save([dict(made.masks), made.network.state_dict()], f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_agree_on_masks_and_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    (masks, state), (others, other) = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert all(torch.equal(mask, others[name]) for name, mask in masks.items())
    statistics = ("running_mean", "running_var")
    assert all(torch.equal(t, other[name]) for name, t in state.items() if not name.endswith(statistics))
    alone = bench_alone(1)
    assert not all(torch.equal(mask, masks[name]) for name, mask in alone.items())  # the batches do matter


def bench_alone(seed):
    """What the second process alone would have chosen."""
    torch.manual_seed(0)
    network = three_sites()
    return bench.prune(network, batch(0)[0], [batch(seed)], method="taylor", keep_macs=0.5).masks


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: no CUDA device")
def test_network_on_a_gpu_stays_there():
    network = three_sites().cuda()
    x, y = batch(0)
    with pytest.raises(bench.UsageError, match="example is on cpu, the network on cuda:0"):
        bench.prune(network, x, keep_macs=0.5)
    made = bench.prune(network, x.cuda(), [(x, y)], method="taylor", keep_macs=0.5)
    assert {str(t.device) for t in made.network.state_dict().values()} == {"cuda:0"}
    assert made.difference <= 1e-4
