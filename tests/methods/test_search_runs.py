"""Whole runs of the methods that search (DropNet, EDropout): both tracks, verified, stopped and resumed, refused."""

import pytest
from support.records import entries
from support.whole_runs import stopped_everywhere, verified, without_budget

from bench.records import store
from bench.runs.execute import execute

GLOBAL_80 = [80, 64, 52, 42, 34, 28, 23, 19, 16, 13, 11, 9, 8]
LAYER_40 = [40, 32, 26, 21, 17, 14, 12, 10, 8, 7, 6, 5, 4]


def kept(done):
    """Units that the network of a record keeps, by site."""
    return [after for _, after in done.structure.widths.values()]


def phases(done):
    """What the curve of a record says at the end of each phase."""
    return {entry["phase"]: entry for entry in entries(done)}


def macs(first, second):
    """MACs of a perceptron on 64 inputs with these hidden widths."""
    return 64 * first + first * second + second * 10


@pytest.mark.parametrize(("metric", "schedule"), [("minimum", GLOBAL_80), ("minimum_layer", [2 * w for w in LAYER_40])])
def test_2g01_the_schedule_is_what_is_trained(make_run, metric, schedule):
    done = verified(without_budget(make_run("dropnet", "mlp_40_40", "tiny8", options={"metric": metric})))
    left = [round(80 * entry["units_left"]) for entry in phases(done).values()]
    assert left == [*schedule, schedule[-1]]  # the last is fine-tuned
    assert sum(kept(done)) == schedule[-1] <= 0.1 * 80


@pytest.mark.parametrize(
    ("method", "options", "keep"),
    [
        *(("dropnet", {"metric": m}, 0.5) for m in ("minimum", "minimum_layer", "random_layer", "maximum", "apoz")),
        *(("dropnet", {"metric": m}, 0.2) for m in ("minimum", "minimum_layer")),
        *(("edropout", {}, keep) for keep in (0.5, 0.2)),
        ("edropout", {"op": "code", "stale_costs": "true"}, 0.5),
    ],
)
def test_budgets_are_met(make_run, method, options, keep):
    done = verified(make_run(method, "mlp_40_40", "tiny8", keep=keep, options=options))
    share = done.cost.final.macs / done.cost.dense.macs
    assert keep - 0.03 < share <= keep
    assert done.training.starts_from == "init"
    left = [entry["units_left"] for entry in phases(done).values()]
    assert left == sorted(left, reverse=True) and left[0] == (1 if method == "dropnet" else left[-1])


@pytest.mark.parametrize(
    ("metric", "stop"),
    [
        *(("random_layer", "fraction"), ("apoz", "fraction"), ("minimum", "kappa"), ("maximum", "kappa")),
        *(
            pytest.param(*both, marks=pytest.mark.slow)
            for both in (("maximum", "fraction"), ("random_layer", "kappa"), ("apoz", "kappa"))
        ),
    ],
)
def test_dropnet_chooses_its_own_sparsity(make_run, metric, stop):
    options = {"metric": metric, "p": "0.5", stop: "0.3"}
    done = verified(without_budget(make_run("dropnet", "mlp_40_40", "tiny8", options=options)))
    left = [round(80 * entry["units_left"]) for entry in phases(done).values()]
    if stop == "fraction":
        assert left == [80, 40, 20, 20] and sum(kept(done)) == 20 <= 0.3 * 80
    else:
        search = done.training.plan.index("prune")
        top1 = [entry["val_top1"] for phase, entry in phases(done).items() if phase < search]
        good = [k for k, accuracy in enumerate(top1) if accuracy > 0.3 * top1[0]]
        assert good == list(range(len(good))) and len(top1) - len(good) <= 1  # ends after the first that is not
        assert sum(kept(done)) == left[good[-1]]


@pytest.mark.parametrize(
    ("track", "units"), [("matched", 4), pytest.param("fraction", 4, marks=pytest.mark.slow), ("kappa", 1)]
)
def test_the_oracle_drops_one_unit_at_a_time(make_run, track, units):
    options = {"metric": "oracle", "p": "0"}
    options |= {"fraction": {"fraction": "0.5"}, "kappa": {"kappa": "0.01"}}.get(track, {})
    made = make_run("dropnet", "two_layers", options=options)
    done = verified(made if track == "matched" else without_budget(made))
    left = [round(8 * entry["units_left"]) for entry in phases(done).values()]
    assert left == [*range(8, units - 1, -1), *[units] * (2 if track == "kappa" else 1)]
    assert kept(done) == [units]


@pytest.mark.parametrize("arch", ["mlp_40_40", "two_layers"])
def test_3h10_edropout_chooses_its_own_sparsity(make_run, arch):
    dataset = "tiny8" if arch == "mlp_40_40" else "tiny"
    done = verified(without_budget(make_run("edropout", arch, dataset, options={"p0": "0.0", "op": "code"})))
    assert min(kept(done)) >= 1  # all that a first state has
    assert sum(kept(done)) < 0.5 * done.structure.units_before


def test_3h01_a_share_of_units_is_no_size(make_run):
    done = execute(*make_run("edropout", "mlp_40_40", "tiny8", keep=0.5))
    structure, cost = done.structure, done.cost
    first, second = kept(done)
    assert structure.units_after / structure.units_before == (first + second) / 80 > 0.55
    params = 64 * first + first + first * second + second + second * 10 + 10
    assert (cost.final.macs, cost.final.params) == (macs(first, second), params)
    assert cost.final.params / cost.dense.params < 0.51


def test_kappa_keeps_the_last_network_that_was_good_enough(make_run, tmp_path):
    def run(kappa, name):
        options = {"kappa": str(kappa), "p": "0.4"}
        made = make_run("dropnet", "mlp_40_40", "tiny8", options=options, out=tmp_path / name, train__epochs=2)
        return verified(without_budget(made))

    never = phases(run(1e-9, "never"))
    left = [round(80 * entry["units_left"]) for entry in never.values()]
    assert left == [80, 48, 30, 18, 12, 8, 6, 4, 2, 2, 2]  # down to one unit a site, judged, trained, fine-tuned
    top1 = [entry["val_top1"] for entry in never.values()][:9]
    worse = next(k for k in range(2, 9) if top1[k] < min(top1[:k]))
    kappa = (top1[worse] + 1e-9) / top1[0]
    done = run(kappa, "stops")
    searched = [entry for phase, entry in phases(done).items() if phase < 9]
    assert [entry["val_top1"] for entry in searched] == top1[: worse + 1]
    assert sum(kept(done)) == left[worse - 1]


@pytest.mark.parametrize("metric", ["random_layer", "minimum_layer"])
def test_training_costs_what_the_smaller_networks_cost(make_run, metric):
    done = execute(*make_run("dropnet", "mlp_40_40", "tiny8", options={"metric": metric}))
    cycles = [macs(w, w) for w in LAYER_40[:3]]
    final = macs(*kept(done))
    assert done.cost.final.macs == final
    measured = 180 * sum(cycles) if metric == "minimum_layer" else 0  # one forward of every training image
    assert done.training.macs == 3 * 160 * (sum(cycles) + 2 * final) + measured


@pytest.mark.parametrize(
    ("method", "track", "options"),
    [
        pytest.param("dropnet", "matched", {}, marks=pytest.mark.slow),
        pytest.param("dropnet", "native", {"fraction": "0.5", "metric": "random"}, marks=pytest.mark.slow),
        ("dropnet", "native", {"kappa": "0.3", "p": "0.7"}),
        ("edropout", "matched", {}),
        pytest.param("edropout", "native", {"stale_costs": "true"}, marks=pytest.mark.slow),
    ],
)
def test_stopped_after_every_epoch_and_resumed_equals_uninterrupted(
    make_run, monkeypatch, tmp_path, method, track, options
):
    def made(name):
        both = make_run(method, "mlp_40_40", "tiny8", options=options, out=tmp_path / name, train__epochs=2)
        return both if track == "matched" else without_budget(both)

    whole = verified(made("whole"))
    done, stops = stopped_everywhere(made("stopped"), monkeypatch)
    assert store.without_timing(done) == store.without_timing(whole)
    assert stops > len(whole.curve.epoch)
