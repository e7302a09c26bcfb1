"""Spectral dropout, penalties, importances and controls through the harness: options, records, resuming, budgets."""

import pytest
from support.command_tools import answer
from support.whole_runs import stopped_everywhere, verified, without_budget

from bench.errors import UsageError
from bench.records import store
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from bench.spec.registry import METHODS

PENALTIES = ("l1l2", "group_lasso", "l1_penalty", "l2_penalty")
SPECTRAL = ("spectral", "spectral_energy")

MATCHED = [
    *(*SPECTRAL, *PENALTIES, "l1_norm", "l2_norm", "fpgm", "bn_scale", "taylor", "act_mean", "apoz"),
    *("random", "uniform_thin", "uniform_thin_long", "dropout", "slimming", "weight_decay"),
    *("ebn", "act_var", "hrank", "sfp", "prune_large", "prune_small", "ssl", "vip_pls", "dsd_filter"),
]
FROM_INIT = {"spectral", *PENALTIES, "uniform_thin", "uniform_thin_long", "dropout", "slimming", "weight_decay"}
FROM_INIT |= {"sfp", "prune_large", "prune_small", "ssl"}
WRONG = [
    *(
        (m, f"{option}={value}", f"{option} {value}: from 0 to 1")
        for m in SPECTRAL
        for option in ("p_keep", "weak", "warmup")
        for value in (-0.1, 1.5)
    ),
    *((m, "tau=-1", "tau -1.0: 0 or more") for m in SPECTRAL),
    ("spectral", "transform=fft", "not one of dct, dht, dft"),
    ("spectral", "axis=time", "not one of channel, spatial, flat"),
    ("spectral", "rule=xor", "not one of or, and, hard"),
    ("spectral", "inference=mean", "not one of expect, identity, hard"),
    ("spectral", "where=here", "not one of stages, all"),
    ("spectral", "p_keep=often", "not a number"),
    ("spectral", "keep=1", "has no option 'keep'"),
    *(
        (m, f"{option}=-0.5", f"{option} -0.5: 0 or more")
        for m in PENALTIES
        for option in ("strength", "share", "ramp")
    ),
    *((m, f"threshold={value}", "at least 0 and below 1") for m in PENALTIES for value in (-0.1, 1.0)),
    *((m, "target=bias", "not one of weights, bn_gamma") for m in PENALTIES),
    ("l1l2", "variant=v9", "not one of v3, v3_l1, v2, v1, v4"),
    ("l1l2", "proximal=maybe", "not true or false"),
    *((m, "proximal=true", "has no option 'proximal'") for m in PENALTIES[1:]),
    *(("dropout", f"p={value}", f"p {value}: at least 0 and below 1") for value in (-0.1, 1.0)),
    ("slimming", "strength=-0.1", "strength -0.1: 0 or more"),
    ("weight_decay", "strength=-0.1", "strength -0.1: 0 or more"),
    ("sfp", "every=0", "every 0: 1 or more"),
    ("hrank", "batches=0", "batches 0: 1 or more"),
    ("act_var", "batches=0", "batches 0: 1 or more"),
    *((m, f"end={e}", "above 0 and at most 1") for m in ("prune_large", "prune_small") for e in (0, 1.5)),
    ("prune_large", "score=size", "not one of l2, l1, ebn"),
    *(("dropneuron", f"{name}=-1", "0 or more") for name in ("makes", "reads", "l1", "threshold")),
    *(("ssl", f"{name}=-1", f"{name} -1.0: 0 or more") for name in ("filters", "channels")),
    ("ssl", "share=-1", "share -1.0: from 0 to 1"),
    ("ssl", "rate=-1", "rate -1.0: above 0 and at most 1"),
    *(("vip_pls", f"{name}=0", "1 or more") for name in ("components", "batches")),
    ("vip_pls", "pool=avg", "not one of max, mean"),
    ("dsd", "sparsity=1", "at least 0 and below 1"),
    *((m, "rate=0", "above 0 and at most 1") for m in ("dsd", "dsd_filter")),
    ("dense", "epochs=-1", "epochs -1: 0 or more"),
    ("dense", "epochs=1.5", "not a whole number"),
    ("random", "seed=1", "has no option 'seed'"),
    ("act_mean", "batches=some", "not a whole number or none"),
    *(("dropnet", f"p={p}", "at least 0 and below 1") for p in (1, -0.1)),
    *(("dropnet", f"fraction={f}", "above 0 and at most 1") for f in (0, 1.1)),
    *(("dropnet", f"kappa={k}", "above 0 and at most 1") for k in (0, 1.1)),
    ("dropnet", "cycle_epochs=-1", "0 or more"),
    ("dropnet", "metric=largest", "one of minimum, minimum_layer"),
    ("dropnet", "order=both", "one of paper, code"),
    ("dropnet", "rewind=base", "one of init, fresh"),
    *(("edropout", f"population={p}", "at least 4") for p in (3, -8)),
    *(("edropout", f"{name}=-0.1", "from 0 to 1") for name in ("factor", "crossover", "p0", "early")),
    *(("edropout", f"{name}=1.1", "from 0 to 1") for name in ("factor", "p0")),
    ("edropout", "crossover=nan", "not a number"),
    ("edropout", "patience=0", "1 or more"),
    *(("edropout", f"share={share}", "above 0 and at most 1") for share in (0, -0.1, 1.1)),
    ("edropout", "op=mutate", "one of bde, code"),
    ("edropout", "statistics=none", "one of batch, running"),
]


def run(capsys, out, *words):
    """Exit code and stderr of ``bench run`` with these words."""
    code, _, err = answer(capsys, "run", "--arch", "mlp_40_40", "--out", out, *words)
    return code, err


def test_wrong_option_error_names_valid_options(capsys, tmp_path):
    """In one line, for the last one of each method also on the command line."""
    for name, option, complaint in WRONG:
        with pytest.raises(UsageError) as caught:
            make_method(name, dict([option.split("=")]))
        assert complaint in str(caught.value), (name, option)
        assert option.partition("=")[0] in str(caught.value)
        assert "\n" not in str(caught.value)
    for name, option, complaint in {kind[0]: kind for kind in WRONG}.values():
        code, err = run(capsys, tmp_path, "-m", name, "-p", option)
        assert (code, complaint in err, err.count("\n")) == (2, True, 1), err
    assert not list(tmp_path.iterdir())


def test_5h03_the_proximal_step_belongs_to_one_variant():
    for other in (("variant", "v2"), ("variant", "v3_l1"), ("target", "bn_gamma")):
        with pytest.raises(UsageError, match="proximal: only with variant v3 on weights"):
            make_method("l1l2", {"proximal": "true", **dict([other])})


def test_method_that_does_not_choose_its_sparsity_is_not_native(capsys, tmp_path):
    for method in MATCHED:
        assert METHODS.get(method).native is (method in PENALTIES)
    code, err = run(capsys, tmp_path, "-m", "spectral", "--native")
    assert (code, "--keep-macs, not --native" in err, err.count("\n")) == (2, True, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", MATCHED)
def test_the_budget_is_met(make_run, method):
    made = make_run(method, "two_layers", "tiny8")
    done = verified(made) if method in ("spectral", "l1l2", "taylor", "slimming") else execute(*made)
    share = done.cost.final.macs / done.cost.dense.macs
    assert 0.3 < share <= 0.5
    assert done.structure.gate_slice_difference <= 1e-4
    assert done.training.starts_from == ("init" if method in FROM_INIT else "base")


def test_dense_is_the_dense_network(make_run):
    done = verified(make_run("dense", "two_layers", "tiny8"))
    assert done.cost.final == done.cost.dense


@pytest.mark.parametrize(
    ("method", "strength", "options"),
    [
        ("l1l2", 10, {}),
        ("l1l2", 10, {"proximal": "true"}),
        ("group_lasso", 1, {}),
        ("l1_penalty", 0.1, {"threshold": "0.5"}),
        ("l2_penalty", 10, {}),
    ],
)
def test_native_penalties_remove_units(make_run, method, strength, options):
    options = {"strength": str(strength), "ramp": "0"} | options
    made = without_budget(make_run(method, "mlp_40_40", "tiny8", options=options, train__epochs=6))
    done = verified(made) if method == "l1l2" else execute(*made)
    assert 2 <= done.structure.units_after < 80
    assert done.curve.logged["small"][5] == 80 - done.structure.units_after
    assert done.spec.budget is None


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("spectral", {"where": "all", "warmup": "1"}),
        pytest.param("l1l2", {"ramp": "1"}, marks=pytest.mark.slow),
        ("l1l2", {"proximal": "true", "strength": "1"}),
    ],
)
def test_run_stopped_after_every_epoch_is_the_uninterrupted_run(make_run, tmp_path, monkeypatch, method, options):
    def made(name):
        network = {"arch": "two_layers" if method == "spectral" else "mlp_40_40", "dataset": "tiny8"}
        return make_run(method, **network, options=options, out=tmp_path / name, train__epochs=2, finetune__epochs=0)

    whole = execute(*made("whole"))
    done, stops = stopped_everywhere(made("stopped"), monkeypatch)
    assert stops == 6  # after both epochs of the base and of the method, the prune, the end
    assert store.without_timing(done) == store.without_timing(whole)


@pytest.mark.usefixtures("make_run")  # its data set, and latency in a moment
def test_13_2_like_takes_the_widths_of_another_record(capsys, tmp_path):
    small = ["--dataset", "tiny8", "--recipe", "synthetic", "--epochs", "0", "--finetune-epochs", "0", "-q"]
    assert run(capsys, tmp_path, "-m", "fpgm", "--keep-macs", "0.3", "--ranking", "global", *small)[0] == 0
    (path,) = tmp_path.glob("records/**/*.json")
    profile = store.load(path).structure.widths
    assert run(capsys, tmp_path, "-m", "random", "--like", path, *small)[0] == 0
    (other,) = set(tmp_path.glob("records/**/random/*.json"))
    done = store.load(other)
    assert done.structure.widths == profile
    assert done.spec.budget.widths == tuple(after for _, after in profile.values())
    assert done.structure.masks != store.load(path).structure.masks
    assert answer(capsys, "verify", "--out", tmp_path)[0] == 0
