"""Spectral dropout, penalties, importances and controls through the harness: options, records, resuming, budgets."""

import dataclasses
import signal

import pytest

from bench.cli import main
from bench.errors import UsageError
from bench.records import store
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from bench.runs.verify import verify_file
from bench.spec.registry import METHODS
from bench.training.loop import PhaseTrainer

PENALTIES = ("l1l2", "group_lasso", "l1_penalty", "l2_penalty")
SPECTRAL = ("spectral", "spectral_energy")

WRONG = [
    *((m, f"{option}={value}", f"{option} {value}: from 0 to 1")
      for m in SPECTRAL for option in ("p_keep", "weak", "warmup") for value in (-0.1, 1.5)),
    *((m, "tau=-1", "tau -1.0: not negative") for m in SPECTRAL),
    ("spectral", "transform=fft", "not one of dct, dht, dft"),
    ("spectral", "axis=time", "not one of channel, spatial, flat"),
    ("spectral", "rule=xor", "not one of or, and, hard"),
    ("spectral", "inference=mean", "not one of expect, identity, hard"),
    ("spectral", "where=here", "not one of stages, all"),
    ("spectral", "p_keep=often", "not a number"),
    ("spectral", "keep=1", "has no option 'keep'"),
    *((m, f"{option}=-0.5", f"{option} -0.5: not negative")
      for m in PENALTIES for option in ("strength", "share", "ramp")),
    *((m, f"threshold={value}", "at least 0 and below 1") for m in PENALTIES for value in (-0.1, 1.0)),
    *((m, "target=bias", "not one of weights, bn_gamma") for m in PENALTIES),
    ("l1l2", "variant=v9", "not one of v3, v3_l1, v2, v1, v4"),
    ("l1l2", "proximal=maybe", "not true or false"),
    *((m, "proximal=true", "has no option 'proximal'") for m in PENALTIES[1:]),
    *(("dropout", f"p={value}", f"p {value}: at least 0 and below 1") for value in (-0.1, 1.0)),
    ("slimming", "strength=-0.1", "strength -0.1: not negative"),
    ("dense", "epochs=-1", "epochs -1: 0 or more"),
    ("dense", "epochs=1.5", "not a whole number"),
    ("random", "seed=1", "has no option 'seed'"),
    ("act_mean", "batches=some", "not a whole number or none"),
]  # fmt: skip


def said(capsys, out, *arguments):
    """Exit code and stderr of ``bench run`` with these arguments."""
    code = main(["run", "--arch", "mlp_40_40", "--out", str(out), *map(str, arguments)])
    return code, capsys.readouterr().err


def refused(capsys, out, *arguments):
    """The one line that ``bench run`` says; nothing is written."""
    code, err = said(capsys, out, *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert not list(out.iterdir())
    return err


@pytest.mark.parametrize(("method", "option", "complaint"), WRONG)
def test_wrong_option_error_names_valid_options(method, option, complaint):
    with pytest.raises(UsageError) as told:
        make_method(method, dict([option.split("=")]))
    assert complaint in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("method", "option", "complaint"), list({kind[0]: kind for kind in WRONG}.values()))
def test_the_last_wrong_option_of_each_method_on_the_command_line(capsys, tmp_path, method, option, complaint):
    assert complaint in refused(capsys, tmp_path, "-m", method, "-p", option)


@pytest.mark.parametrize("other", [("variant", "v2"), ("variant", "v3_l1"), ("target", "bn_gamma")])
def test_5h03_the_proximal_step_belongs_to_one_variant(other):
    with pytest.raises(UsageError, match="proximal: only with variant v3 on weights"):
        make_method("l1l2", {"proximal": "true", **dict([other])})


def test_what_does_not_choose_its_sparsity_has_no_native_track(capsys, tmp_path):
    for method in MATCHED:
        assert METHODS.get(method).native is (method in PENALTIES)
    assert "--keep-macs, not --native" in refused(capsys, tmp_path, "-m", "spectral", "--native")


def run(made, verify=False):
    """The record of a run, after ``bench verify`` if so wished."""
    spec, options = made
    done = execute(spec, options)
    if verify:
        checks = verify_file(store.path_of(options.out, spec), options.out, options.data_dir)
        assert [c.outcome for c in checks] == ["ok"] * 7, checks
    return done


MATCHED = [*SPECTRAL, *PENALTIES, "l1_norm", "l2_norm", "fpgm", "bn_scale", "taylor", "act_mean", "apoz",
           "random", "uniform_thin", "uniform_thin_long", "dropout", "slimming"]  # fmt: skip
FROM_INIT = {"spectral", *PENALTIES, "uniform_thin", "uniform_thin_long", "dropout", "slimming"}


@pytest.mark.parametrize("method", MATCHED)
def test_the_budget_is_met(make_run, method):
    done = run(make_run(method, "two_layers", "tiny8"), verify=method in ("spectral", "l1l2", "taylor", "slimming"))
    share = done.cost.final.macs / done.cost.dense.macs
    assert 0.3 < share <= 0.5
    assert done.structure.gate_slice_difference <= 1e-4
    assert done.training.starts_from == ("init" if method in FROM_INIT else "base")


def test_dense_is_the_dense_network(make_run):
    done = run(make_run("dense", "two_layers", "tiny8"), verify=True)
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
    spec, where = make_run(method, "mlp_40_40", "tiny8", options=options, train__epochs=6)
    done = run((dataclasses.replace(spec, budget=None), where), verify=method == "l1l2")
    assert 2 <= done.structure.units_after < 80
    assert done.curve.logged["small"][5] == 80 - done.structure.units_after
    assert done.spec.budget is None


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("spectral", {"where": "all", "warmup": "1"}),
        ("l1l2", {"ramp": "1"}),
        ("l1l2", {"proximal": "true", "strength": "1"}),
    ],
)
def test_a_run_interrupted_after_every_epoch_is_the_run_that_was_not(make_run, tmp_path, monkeypatch, method, options):
    arguments = {
        "method": method,
        "arch": "mlp_40_40",
        "dataset": "tiny8",
        "options": options,
        "train__epochs": 2,
        "finetune__epochs": 0,
    }
    whole = execute(*make_run(**arguments, out=tmp_path / "a"))
    save = PhaseTrainer.save

    def save_and_stop(self, position):
        save(self, position)
        signal.raise_signal(signal.SIGTERM)

    made, stops = make_run(**arguments, out=tmp_path / "b"), 0
    with monkeypatch.context() as patch:
        patch.setattr(PhaseTrainer, "save", save_and_stop)
        while True:
            try:
                done = execute(*made)
                break
            except KeyboardInterrupt:
                stops += 1
    assert stops == 6  # after both epochs of the base and of the method, the prune, the end
    assert store.without_timing(done) == store.without_timing(whole)


@pytest.mark.usefixtures("make_run")  # its data set, and latency in a moment
def test_13_2_like_takes_the_widths_of_another_record(capsys, tmp_path):
    small = ["--dataset", "tiny8", "--recipe", "synthetic", "--epochs", "0", "--finetune-epochs", "0", "-q"]
    assert said(capsys, tmp_path, "-m", "fpgm", "--keep-macs", "0.3", "--ranking", "global", *small)[0] == 0
    (path,) = tmp_path.glob("records/**/*.json")
    profile = store.load(path).structure.widths
    assert said(capsys, tmp_path, "-m", "random", "--like", path, *small)[0] == 0
    (other,) = set(tmp_path.glob("records/**/random/*.json"))
    done = store.load(other)
    assert done.structure.widths == profile
    assert done.spec.budget.widths == tuple(after for _, after in profile.values())
    assert done.structure.masks != store.load(path).structure.masks
    assert main(["verify", "--out", str(tmp_path)]) == 0
