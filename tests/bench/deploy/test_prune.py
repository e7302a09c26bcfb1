"""``bench.prune`` on networks of the user's: what it gives, and what it leaves alone."""

import json

import pytest
import torch
from support.networks import GREY, SHAPE, Encoder, Pair, hooks_of, residual, three_sites, two_sites
from support.scripts_of_users import batches, example, prepared, same, world
from torch import nn

import bench
from bench.measure import flops


def test_shuffled_loader_gives_each_pass_the_same_and_leaves_the_generator():
    images = torch.utils.data.TensorDataset(torch.randn(40, *GREY), torch.randint(10, (40,)))
    loader = torch.utils.data.DataLoader(images, batch_size=8, shuffle=True)
    network = three_sites()
    outside = world()
    one, other = (bench.prune(network, example(), loader, method="act_var", keep_macs=0.5) for _ in range(2))
    assert outside == world()
    assert same(dict(one.masks), dict(other.masks))


@pytest.mark.parametrize("method", ["act_var", "taylor"])
def test_generator_of_a_loader_stays(method):
    images = torch.utils.data.TensorDataset(torch.randn(40, *GREY), torch.randint(10, (40,)))
    own = torch.Generator().manual_seed(3)
    loader = torch.utils.data.DataLoader(images, batch_size=8, shuffle=True, generator=own)
    before = own.get_state()
    network, options = three_sites(), {"batches": 2} if method == "taylor" else {}
    given = {"method": method, "keep_macs": 0.5, "options": options}
    one, other = (bench.prune(network, example(), loader, **given) for _ in range(2))
    assert torch.equal(before, own.get_state())
    assert same(dict(one.masks), dict(other.masks))


def test_settings_of_a_script_stay(tmp_path):
    network, x, data = three_sites(), example(), batches()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        outside = world()
        made = bench.prune(network, x, data, method="taylor", keep_macs=0.5)
        assert same(made.follow(network.state_dict()), made.network.state_dict())
        made.save(tmp_path / "small.safetensors")
        loaded, _ = bench.load(tmp_path / "small.safetensors", build=three_sites)
        assert outside == world()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(made.network.eval()(x), loaded(x))


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


def test_no_more_batches_are_read_than_the_method_needs():
    read = []

    def endless():
        while True:
            read.append(1)
            yield batches(count=1)[0]

    bench.prune(three_sites(), example(), endless(), method="taylor", options={"batches": 2}, keep_macs=0.5)
    assert len(read) == 2


@pytest.mark.parametrize(
    ("make", "shape", "coupling"),
    [
        (three_sites, GREY, "inner"),
        (lambda: residual("A"), SHAPE, "full"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (three_sites, GREY, "full"),
                (lambda: residual("A"), SHAPE, "inner"),
                *((two_sites, GREY, coupling) for coupling in ("inner", "full")),
                *((lambda: Encoder(1, 4, 10), GREY, coupling) for coupling in ("inner", "full")),
            ]
        ),
    ],
)
def test_several_prunes_cost_what_one_does(make, shape, coupling):
    network, several = make(), None
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    for share in (0.8, 0.65, 0.5):
        before = several
        several = bench.prune(several or network, example(shape), coupling=coupling, keep_macs=share)
        assert several.cost["dense"]["macs"] == flops.count(network, shape).total
        assert several.cost["pruned"]["macs"] == flops.count(several.network, shape).total
        assert several.difference <= 1e-4
        for name, mask in several.masks.items() if before else ():
            assert not (mask & ~before.masks[name]).any()  # removed units stay removed
        assert all(after == int(several.masks[name].sum()) for name, (_, after) in several.widths.items())
        optimizer = several.optimizer(optimizer)
        for x, y in batches(shape, classes=4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(several.network(x), y).backward()
            optimizer.step()
    once = bench.prune(network, example(shape), coupling=coupling, keep_macs=0.5)
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
    assert type(made.network) is nn.Sequential
    assert set(made.widths) == {"0", "4", "7"}


@pytest.mark.slow  # torch's compiler takes a second to import
def test_compiled_network_is_unwrapped():
    assert type(bench.prune(torch.compile(three_sites()), example(), keep_macs=0.5).network) is nn.Sequential
    with pytest.raises(bench.UsageError, match="compile the result"):
        bench.Pruner(torch.compile(three_sites()), example(), method="ddrop", keep_macs=0.5, steps=1)


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
    assert any("no multiples of 8 channels, which are often faster: see round_to" in line for line in lines)
    aligned = bench.prune(three_sites(), example(), keep_macs=0.6, round_to=8).summary()
    assert "round_to" not in aligned and "less than a tenth" not in aligned
    scores = bench.prune(
        nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 2)), torch.randn(1, 4), keep_macs=0.075
    )
    assert "0: less than a tenth stays; ranking='layer' or min_keep spreads the cut" in scores.summary()
    assert json.loads(json.dumps(made.as_dict()))["widths"] == {n: list(pair) for n, pair in made.widths.items()}
