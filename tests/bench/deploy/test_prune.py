"""``bench.prune`` on networks of the user's: what it gives, and what it leaves alone."""

import copy
import json
import random

import numpy as np
import pytest
import torch
from support.networks import SHAPE, Encoder, hooks_of, residual, three_sites, two_sites
from torch import nn

import bench
from bench.data.loading import load_training
from bench.measure import flops
from bench.models.build import build
from bench.runs.artifacts import RunArtifacts
from bench.spec.digest import derive_seed
from bench.spec.registry import METHODS
from bench.training.method import Method

GREY = (1, 8, 8)
FROM_BASE = [
    name
    for name in sorted(METHODS.entries())
    if (cls := METHODS.get(name)).plan is Method.plan and (cls.starts_from, cls.active) == ("base", "before")
]
"""Of the registry: all that start from a trained network and have the default plan."""
OF_CHANNELS = [name for name in FROM_BASE if METHODS.get(name).kinds != ("block",)]
SOLVERS = ("l0_row", "net_trim_row")


def batches(shape=GREY, count=3, size=8, classes=10):
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(size, *shape, generator=generator), torch.randint(classes, (size,), generator=generator))
        for _ in range(count)
    ]


def example(shape=GREY):
    return batches(shape, 1, 4)[0][0]


def state_of(network):
    tensors = {name: (t.clone(), t.dtype, t.stride()) for name, t in network.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in network.modules()]
    return (
        tensors,
        grads,
        [m.training for m in network.modules()],
        hooks,
        [p.requires_grad for p in network.parameters()],
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and not isinstance(one, torch.Size):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def world():
    return (
        *(torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),
        *(torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()),
        *(torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")),
    )


def prepared():
    """A network in the middle of a script: some gradients, a frozen layer, mixed modes."""
    network = three_sites().train()
    network(example()).sum().backward()
    network[0].requires_grad_(False)
    network[1].eval()
    return network


@pytest.mark.parametrize("method", ["l1_norm", "taylor", "tp_random", "refit_ridge", "refit_bn"])
def test_nothing_that_is_given_changes(method):
    network = prepared()
    before, outside = state_of(network), world()
    made = bench.prune(network, example(), batches(), method=method, keep_macs=0.5)
    assert same(before, state_of(network))
    assert outside == world()
    assert not {t.data_ptr() for t in made.network.parameters()} & {t.data_ptr() for t in network.parameters()}


def test_nothing_changes_after_an_error(monkeypatch):
    def scores(self, ctx):
        torch.manual_seed(5)
        ctx.gate({name: torch.zeros(site.n_units) for name, site in ctx.sites.items()})
        raise ValueError("broken")

    monkeypatch.setattr(METHODS.get("taylor"), "scores", scores)
    network = prepared()
    before, outside = state_of(network), world()
    with pytest.raises(ValueError, match="broken"):
        bench.prune(network, example(), batches(), method="taylor", keep_macs=0.5)
    assert same(before, state_of(network))
    assert outside == world()


def test_shuffled_loader_gives_each_pass_the_same_and_leaves_the_generator():
    images = torch.utils.data.TensorDataset(torch.randn(40, *GREY), torch.randint(10, (40,)))
    loader = torch.utils.data.DataLoader(images, batch_size=8, shuffle=True)
    network = three_sites()
    outside = world()
    one, other = (bench.prune(network, example(), loader, method="act_var", keep_macs=0.5) for _ in range(2))
    assert outside == world()
    assert same(dict(one.masks), dict(other.masks))


def test_result_is_as_the_network_was():
    network = prepared().to(memory_format=torch.channels_last)
    seen = []
    network[2].register_forward_hook(lambda *_: seen.append(1))
    made = bench.prune(network, example(), keep_macs=0.5).network
    assert type(made) is nn.Sequential
    assert [m.training for m in made.modules()] == [m.training for m in network.modules()]
    assert [p.requires_grad for p in made.parameters()] == [p.requires_grad for p in network.parameters()]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in made.parameters() if p.dim() == 4)
    assert hooks_of(made) == [made[2]]  # their own
    assert all(p.grad is None for p in made.parameters())
    assert vars(made).keys() == vars(network).keys()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_stays(dtype):
    network = three_sites().to(dtype)
    made = bench.prune(network, example().to(dtype), [x.to(dtype) for x, _ in batches()], method="apoz", keep_macs=0.5)
    assert {t.dtype for t in made.network.parameters()} == {dtype}
    assert {t.dtype for t in made.network.buffers() if t.is_floating_point()} == {dtype}
    made.network.eval()(example().to(dtype))


def test_all_methods_from_a_trained_network_are_tried():
    assert len(OF_CHANNELS) >= 19
    assert {"l1_norm", "taylor", "tp_obdc", "refit_ridge", "hrank"} <= set(OF_CHANNELS)


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow) if m in SOLVERS else m for m in OF_CHANNELS]
)
def test_every_method_that_starts_from_a_trained_network_works(method):
    network = build("resnet20", (3, 8, 8), 10, seed=2)
    made = bench.prune(network, example((3, 8, 8)), batches((3, 8, 8)), method=method, keep_macs=0.5)
    assert made.difference <= 1e-4
    dense, pruned = made.cost["dense"]["macs"], made.cost["pruned"]["macs"]
    assert 0.49 < pruned / dense <= 0.5
    assert flops.count(made.network, (3, 8, 8)).total == pruned
    assert not hooks_of(made.network)
    assert sum(p.numel() for p in made.network.parameters()) == made.cost["pruned"]["params"]


READ_NONE = {
    *("bn_scale", "ebn", "fpgm", "l1_norm", "l2_norm", "random"),
    *("tp_bn_scale", "tp_fpgm", "tp_l1_first", "tp_lamp", "tp_magnitude", "tp_random"),
}


def test_methods_of_weights_read_no_batch():
    class Refusing:
        batch_size = 8

        def __iter__(self):
            raise AssertionError("a batch was read")

    network = build("resnet20", (3, 8, 8), 10)
    for method in READ_NONE:
        bench.prune(network, example((3, 8, 8)), Refusing(), method=method, keep_macs=0.5)


def test_no_more_batches_are_read_than_the_method_needs():
    read = []

    def endless():
        while True:
            read.append(1)
            yield batches(count=1)[0]

    bench.prune(three_sites(), example(), endless(), method="taylor", options={"batches": 2}, keep_macs=0.5)
    assert len(read) == 2


@pytest.mark.parametrize("method", ["l1_norm", "act_mean", "taylor", "random", "tp_random", "tp_taylor"])
def test_masks_are_those_of_a_run(method, finished):
    spec, done, options = finished(method, "two_layers", "tiny8", keep=0.3)
    stored = RunArtifacts(done, options.out)
    data = load_training(spec.dataset, options.data_dir, False, spec.seed, torch.device("cpu"))
    size, seed = spec.recipe.batch_size, derive_seed(spec.seed, "batches")
    given = list(data.train.mixed(size, seed))
    made = bench.prune(stored.dense(), given[0][0], given, method=method, keep_macs=0.3, seed=spec.seed)
    assert same(dict(made.masks), {name: mask.cpu() for name, mask in stored.masks().items()})
    assert made.cost["pruned"]["macs"] == done.cost.final.macs


@pytest.mark.parametrize(
    "make", [three_sites, two_sites, lambda: Encoder(1, 4, 10), lambda: build("resnet20", GREY, 10)]
)
@pytest.mark.parametrize("coupling", ["inner", "full"])
def test_several_prunes_cost_what_one_does(make, coupling):
    network, several = make(), None
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    for share in (0.8, 0.65, 0.5):
        before = several
        several = bench.prune(several or network, example(), coupling=coupling, keep_macs=share)
        assert several.cost["dense"]["macs"] == flops.count(network, GREY).total
        assert several.cost["pruned"]["macs"] == flops.count(several.network, GREY).total
        assert several.difference <= 1e-4
        for name, mask in several.masks.items() if before else ():
            assert not (mask & ~before.masks[name]).any()  # removed units stay removed
        assert all(after == int(several.masks[name].sum()) for name, (_, after) in several.widths.items())
        optimizer = several.optimizer(optimizer)
        for x, y in batches():
            optimizer.zero_grad()
            nn.functional.cross_entropy(several.network(x), y).backward()
            optimizer.step()
    once = bench.prune(network, example(), coupling=coupling, keep_macs=0.5)
    both = several.cost["pruned"]["macs"], once.cost["pruned"]["macs"]
    assert max(both) <= 0.5 * once.cost["dense"]["macs"]
    units = sum(before for before, _ in once.widths.values())
    assert abs(both[0] - both[1]) <= once.cost["dense"]["macs"] / units  # less than a unit more


def test_second_prune_of_a_structure_searches_no_sites(monkeypatch):
    from bench.deploy import known

    bench.prune(three_sites(), example(), keep_macs=0.5)
    monkeypatch.setattr(known, "find_sites", lambda *_: pytest.fail("searched again"))
    bench.prune(three_sites(), example(), keep_macs=0.4)


def test_parameters_can_be_the_budget():
    made = bench.prune(three_sites(), example(), keep_params=0.5)
    assert 0.4 < made.cost["pruned"]["params"] / made.cost["dense"]["params"] <= 0.5
    assert made.cost["asked"] == {"keep_params": 0.5}


def test_whole_layers_keep_their_width():
    made = bench.prune(three_sites(), example(), keep_macs=0.6, whole=["4"])
    assert set(made.widths) == {"0", "7"}
    assert not hasattr(made.network, "whole")


class Pair(nn.Module):
    """Gives a dictionary."""

    def __init__(self):
        super().__init__()
        self.body = three_sites()

    def forward(self, x):
        logits = self.body(x)
        return {"out": logits, "twice": 2 * logits}


def test_logits_are_picked_and_the_network_gives_its_own_output():
    network = Pair()
    made = bench.prune(network, example(), batches(), method="taylor", keep_macs=0.5, logits=lambda out: out["out"])
    assert type(made.network) is Pair
    assert set(made.network(example())) == {"out", "twice"}
    bench.prune(made, example(), batches(), method="taylor", keep_macs=0.4)


@pytest.mark.parametrize("method", ["taylor", "tp_taylor"])
def test_given_loss_decides_scores_of_gradients(method):
    def first_class(logits, y):
        return logits[:, 0].square().mean()

    network = three_sites()
    plain, of_loss, same_loss = (
        bench.prune(network, example(), batches(), method=method, keep_macs=0.5, loss=loss)
        for loss in (None, first_class, nn.functional.cross_entropy)
    )
    assert same(dict(plain.masks), dict(same_loss.masks))
    assert not same(dict(plain.masks), dict(of_loss.masks))


def test_wrappers_are_taken_off():
    network = three_sites()
    made = bench.prune(nn.DataParallel(network), example(), keep_macs=0.5)
    compiled = bench.prune(torch.compile(network), example(), keep_macs=0.5)
    assert type(made.network) is type(compiled.network) is nn.Sequential
    assert set(made.widths) == {"0", "4", "7"}


def test_networks_with_batch_norm_in_front_of_sums_work_in_both_couplings():
    for coupling in ("inner", "full"):
        network = residual("A").eval()
        made = bench.prune(network, example(SHAPE), coupling=coupling, keep_macs=0.6)
        assert made.difference <= 1e-4


class TrainsMore(nn.Module):
    """A second head that only training uses reads the last site."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.other = three_sites()[:-1], three_sites()[-1], nn.Linear(12, 3)

    def forward(self, x):
        x = self.body(x)
        return self.head(x) + (self.other(x).sum() if self.training else 0)


def test_sites_that_only_training_reads_are_left_alone():
    network = TrainsMore()
    made = bench.prune(network, example(), keep_macs=0.6)
    assert set(made.widths) == {"body.0", "body.4"}
    assert "only training uses" in made.rejected["body.7"]
    made.network.train()(example())


def test_summary_and_dictionary_say_all():
    made = bench.prune(three_sites(), example(), keep_macs=0.5)
    lines = made.summary().splitlines()
    assert lines[0] == "l1_norm, keep_macs=0.5"
    assert [line.split()[0] for line in lines[2:5]] == ["0", "4", "7"]
    assert "no row of a board" in lines[-1]
    assert json.loads(json.dumps(made.as_dict()))["widths"] == {n: list(pair) for n, pair in made.widths.items()}


def test_import_needs_no_torch_and_no_module_hides_a_function():
    import subprocess
    import sys

    code = "import bench, sys; assert 'torch' not in sys.modules; bench.UsageError"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(callable(getattr(bench, name)) for name in ("run", "load", "prune"))
    assert copy.copy(bench.LAZY)
