"""Whole runs at small size: the design's invariants on every method and several architectures."""

import signal
from pathlib import Path

import pytest
import torch

from bench.errors import Diverged, RunFailed, SetupError, Unsupported, UsageError
from bench.pruning.cost_model import Budget
from bench.records import store
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from bench.runs.pipeline import RunPipeline
from bench.runs.verify import verify_file
from bench.spec.registry import METHODS
from bench.spec.request import RunOptions
from leaderboard.render.record_summary import details, summary

OWN = ["dense", "random", "uniform_thin", "l1_norm", "taylor", "l1l2", "ddrop", "dropnet", "edropout", "spectral"]
"""One of each kind; `bench check --all` goes through all of them (test_check.py)."""
NETWORKS = [("two_layers", "tiny"), ("resnet20", "tiny8"), ("lenet", "tiny"), ("mlp_40_40", "tiny8")]
NETWORKS += [("all_kinds", "tiny8")]
SLOW_NETWORKS = [("resnet20b", "tiny"), ("resnet56", "tiny8"), ("vgg16_bn", "tiny")]


def hooks_on(network):
    return [m for m in network.modules() if m._forward_pre_hooks or m._forward_hooks or m._backward_hooks]


def check_run(make_run, method, arch, dataset, **settings):
    """Run and assert what holds for every run; returns the record."""
    spec, options = make_run(method, arch, dataset, **settings)
    done = execute(spec, options)
    path = store.path_of(options.out, spec)
    assert store.load(path) == done
    checks = {check.name: check for check in verify_file(path, options.out, options.data_dir)}
    assert {c.outcome for c in checks.values()} == {"ok"}, checks
    assert len(checks) == 7
    prunes = make_method(method, {}).prunes
    if prunes:
        assert done.structure.gate_slice_difference <= 1e-4
        key = "params" if spec.budget.keep_params else "macs"
        assert getattr(done.cost.final, key) <= spec.budget.keep * getattr(done.cost.dense, key)
    else:
        assert done.cost.final == done.cost.dense
        assert done.spec.budget is None
    assert summary(done)
    assert done.id in details(done)
    assert not list((options.out / "checkpoints").glob("*.pt"))
    return done


OTHERS = sorted(set(METHODS.entries()) - set(OWN))


@pytest.mark.parametrize("method", OTHERS)
def test_units_of_several_channels_are_pruned_or_declined_in_one_line(make_run, method):
    """Torch-pruning ranks single channels; what reads batch norms finds none behind an excitation's layers."""
    if method.startswith("tp_") or method in ("slimming", "bn_scale"):
        spec, options = make_run(method, "all_kinds", "tiny8")
        several, unscaled = "a unit of site 0 is several", f"{method} does not work on site 6.fc1: it has no batch norm"
        with pytest.raises((RunFailed, Unsupported), match=f"{several}|{unscaled}") as caught:
            execute(spec, options)
        assert "\n" not in str(caught.value)
    else:
        check_run(make_run, method, "all_kinds", "tiny8")


@pytest.mark.parametrize(("method", "arch", "dataset"), [
    pytest.param(method, *network, marks=[pytest.mark.slow] * (method != "l1_norm" and network[0] != "all_kinds"))
    for method in OWN for network in NETWORKS])  # fmt: skip
def test_every_method_on_every_kind_of_network(make_run, method, arch, dataset):
    """Fast: every method on the network with every kind of unit, and every network with one method."""
    check_run(make_run, method, arch, dataset)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "dataset"), SLOW_NETWORKS)
@pytest.mark.parametrize("method", OWN)
def test_every_method_on_larger_networks(make_run, method, arch, dataset):
    check_run(make_run, method, arch, dataset)


BUDGETS = [("keep_macs", 0.75), ("keep_params", 0.5), ("keep_params", 0.25), ("keep_macs", 0.1)]
SLOW_BUDGETS = [("keep_params", 0.75), ("keep_macs", 0.5), ("keep_macs", 0.25), ("keep_params", 0.1)]


@pytest.mark.parametrize(
    ("what", "keep"), [*BUDGETS, *(pytest.param(*other, marks=pytest.mark.slow) for other in SLOW_BUDGETS)]
)
def test_budgets(make_run, what, keep):
    check_run(make_run, "random", "resnet20", "tiny8", keep=Budget(**{what: keep}), finetune__epochs=0)


@pytest.mark.parametrize(
    ("arch", "dataset"), [("two_layers", "tiny8"), pytest.param("resnet20", "tiny8", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("method", OWN)
def test_same_specification_same_record(make_run, tmp_path, method, arch, dataset):
    records = []
    for folder in ("one", "two"):
        spec, options = make_run(method, arch, dataset, out=tmp_path / folder)
        records.append(store.without_timing(execute(spec, options)))
    assert records[0] == records[1]


def test_seeds_differ(make_run):
    one, two = (execute(*make_run("random", seed=seed)) for seed in (0, 1))
    assert one.structure.masks_sha256 != two.structure.masks_sha256
    assert one.training.base.sha256 != two.training.base.sha256
    assert one.data.split_sha256 != two.data.split_sha256


def test_finished_run_is_not_repeated(make_run, monkeypatch):
    spec, options = make_run()
    done = execute(spec, options)
    monkeypatch.setattr(RunPipeline, "__init__", lambda *a: pytest.fail("ran again"))
    assert execute(spec, options) == done


def test_base_is_trained_once_and_shared(make_run, tmp_path):
    one, two = (execute(*make_run(method)) for method in ("l1_norm", "ddrop"))
    assert one.training.base == two.training.base
    assert len(list((tmp_path / "bases").glob("*.safetensors"))) == 1
    assert one.metrics.dense == two.metrics.dense


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-4])])
def test_a_damaged_base_is_told_and_a_deleted_one_trained_again(make_run, tmp_path, damage):
    first = execute(*make_run("l1_norm"))
    (weights,) = (tmp_path / "bases").glob("*.safetensors")
    damage(weights)
    if weights.exists():
        with pytest.raises(RunFailed, match="delete it and run again"):
            execute(*make_run("random"))
        weights.unlink()
        (tmp_path / "records" / "tiny" / "two_layers" / "random").rename(tmp_path / "aside")
    assert execute(*make_run("random")).training.base == first.training.base


def test_equal_total_epochs(make_run):
    totals = {m: execute(*make_run(m, train__epochs=2)).training.epochs for m in OWN if m != "dropnet"}
    assert set(totals.values()) == {3}


def test_fine_tuning_settings_do_not_change_the_base(make_run):
    one, _ = make_run()
    two, _ = make_run(finetune__epochs=3, recalibrate=5)
    assert one.id != two.id
    assert one.base_id() == two.base_id() != make_run(precision="bf16")[0].base_id()


def test_another_network_or_other_images_of_the_same_name_need_another_base(make_run):
    spec, _ = make_run()
    known = ({"arch": "a", "train": "x"}, {"arch": "b", "train": "x"}, {"arch": "a", "train": "y"})
    assert len({spec.base_id(**each) for each in known}) == 3


def test_test_images_are_loaded_after_the_method_is_gone(make_run, monkeypatch):
    from bench.data import loading
    from bench.training.loop import PhaseTrainer

    moments = []
    finalize, load = PhaseTrainer.finalize, loading.load_test
    monkeypatch.setattr(PhaseTrainer, "finalize", lambda *a, **n: (moments.append("finalized"), finalize(*a, **n)))
    monkeypatch.setattr(loading, "load_test", lambda *a: (moments.append("test"), load(*a))[1])
    execute(*make_run("ddrop"))
    assert moments[-2:] == ["finalized", "test"]
    assert moments.count("test") == 1


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        ("nan_scores", "not finite"),
        ("wrong_shape", "have shape"),
        ("empty_masks", "keeps 0 units"),
        ("over_budget", "budget"),
        ("float_masks", "not torch.bool"),
        ("missing_site", "no scores for site"),
        ("wants_test", "'train' and 'val' only"),
    ],
)
def test_broken_methods_fail_with_one_line_and_a_record(make_run, method, complaint):
    spec, options = make_run(method, "resnet20", "tiny8")
    with pytest.raises(RunFailed, match=complaint) as raised:
        execute(spec, options)
    assert "\n" not in str(raised.value)
    failed = store.load(store.path_of(options.out, spec))
    assert failed.status == "failed"
    assert complaint in failed.error.message
    assert failed.error.traceback
    assert str(Path(__file__).parent) not in str(failed)
    with pytest.raises(RunFailed, match="--retry"):
        execute(spec, options)
    with pytest.raises(RunFailed, match=complaint):
        execute(spec, RunOptions(out=options.out, quiet=True, retry=True))
    path = store.path_of(options.out, spec)
    assert len(list((path.parent / "superseded").glob("*.json"))) == 1


def test_diverged_run(make_run):
    spec, options = make_run("l1_norm", train__lr=1e9, arch="mlp_40_40", dataset="tiny8")
    with pytest.raises(Diverged, match=r"lower its rate"):
        execute(spec, options)
    assert store.load(store.path_of(options.out, spec)).status == "diverged"


def test_numbers_that_are_not_finite_cost_no_record(make_run, monkeypatch):
    from bench.runs import pipeline

    honest = pipeline.quality
    monkeypatch.setattr(pipeline, "quality", lambda *a: honest(*a) | {"loss": float("nan")})
    spec, options = make_run()
    with pytest.raises(RunFailed, match="would not be valid"):
        execute(spec, options)
    failed = store.load(store.path_of(options.out, spec))
    assert failed.status == "failed"
    assert failed.metrics.final.loss is None


@pytest.mark.parametrize("said", ["x" * 20_000, "\x1b[31mred\x1b[0m", "half \ud800 a pair"])
def test_an_error_of_any_text_leaves_a_record_that_can_be_read(make_run, monkeypatch, said):
    from bench.runs import pipeline

    def fail(*_):
        raise ValueError(said)

    monkeypatch.setattr(pipeline, "quality", fail)
    spec, options = make_run()
    with pytest.raises(RunFailed):
        execute(spec, options)
    failed = store.load(store.path_of(options.out, spec))
    assert failed.error.type == "ValueError"
    assert failed.error.message[:4] in (said[:4], "?[31")


def test_parts_that_no_record_may_have_are_left_out(make_run, monkeypatch):
    from bench.runs import pipeline

    honest = pipeline.quality
    monkeypatch.setattr(pipeline, "quality", lambda *a: honest(*a) | {"top1": 2.0})
    spec, options = make_run()
    with pytest.raises(RunFailed, match=r"would not be valid: metrics: .*dense\.top1"):
        execute(spec, options)
    failed = store.load(store.path_of(options.out, spec))
    assert (failed.status, failed.metrics) == ("failed", None)


def test_a_network_of_no_numbers_is_not_sliced(make_run, monkeypatch):
    from bench.runs import prune

    monkeypatch.setattr(prune, "gate_slice_difference", lambda *a: float("nan"))
    spec, options = make_run()
    with pytest.raises(RunFailed, match="gated and sliced network differ by nan"):
        execute(spec, options)


def test_a_run_that_diverges_after_its_base(make_run):
    spec, options = make_run("diverges")
    with pytest.raises(Diverged, match=r"the method's strength"):
        execute(spec, options)
    failed = store.load(store.path_of(options.out, spec))
    assert failed.status == "diverged"
    assert failed.curve.train_loss[-1] is None


@pytest.mark.parametrize("hook", sorted(n for n in ("prepare", "plan", "on_phase_start", "on_batch_start", "penalty",
    "on_backward_end", "on_step_end", "on_epoch_end", "on_phase_end", "scores", "select", "finalize")))  # fmt: skip
def test_nothing_is_left_behind_by_an_exception_in_any_hook(make_run, hook):
    spec, options = make_run("raises", options={"where": hook})
    run = RunPipeline(spec, options)
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        run.go()
    run.cleanup()
    assert hooks_on(run.network) == []
    if run.training is not None:
        assert hooks_on(run.training.model.network) == []
    with pytest.raises(RunFailed, match="on purpose"):
        execute(spec, options)
    failed = store.load(store.path_of(options.out, spec))
    assert failed.status == "failed"
    assert failed.error.type == "ZeroDivisionError"


@pytest.mark.parametrize("method", OWN)
def test_nothing_is_left_behind_by_a_finished_run(make_run, method):
    spec, options = make_run(method)
    run = RunPipeline(spec, options)
    run.go()
    assert hooks_on(run.network) == hooks_on(run.training.model.network) == []


def test_run_refuses_a_network_that_takes_no_images(make_run):
    spec, options = make_run(arch="untraceable")
    with pytest.raises(UsageError, match="architecture 'untraceable': it fails in eval mode with TypeError") as raised:
        execute(spec, options)
    assert "\n" not in str(raised.value)
    assert not list(options.out.rglob("*.json"))


def test_a_budget_below_min_keep_is_refused_before_anything_is_written(make_run):
    spec, options = make_run(keep=Budget(keep_macs=0.2, min_keep=8))
    with pytest.raises(UsageError, match="cannot be met"):
        execute(spec, options)
    assert not list(options.out.rglob("*.json"))


@pytest.mark.parametrize("arch", ["all_kinds", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_interrupted_run_leaves_a_record_and_goes_on(make_run, tmp_path, monkeypatch, arch):
    spec, options = make_run("ddrop", arch, "tiny8", train__epochs=3, out=tmp_path / "a")
    whole = execute(spec, options)

    from bench.training.loop import PhaseTrainer

    spec, options = make_run("ddrop", arch, "tiny8", train__epochs=3, out=tmp_path / "b")
    save, saves = PhaseTrainer.save, []

    def stop_after_some(self, position):
        save(self, position)
        saves.append(position)
        if len(saves) in (2, 6):  # in the base, then in the method's training
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(PhaseTrainer, "save", stop_after_some)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            execute(spec, options)
        assert store.load(store.path_of(options.out, spec)).status == "interrupted"
    done = execute(spec, options)
    assert store.without_timing(done) == store.without_timing(whole)
    assert done.clock.resumes == 1


def test_two_processes_with_one_run_leave_one_record(make_run, tmp_path):
    """The second finds the lock taken, waits, and returns the first one's record."""
    from concurrent.futures import ThreadPoolExecutor

    spec, options = make_run()
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: execute(spec, options), range(2))
    assert one == two


def test_unwritable_folder_is_told_before_training(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    spec, _ = make_run()
    with pytest.raises(SetupError, match="--out"):
        execute(spec, RunOptions(out=tmp_path / "file" / "results", quiet=True))


def test_full_disk_at_the_end_loses_no_record(make_run, monkeypatch):
    spec, options = make_run()

    def full(path, sealed, replace):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write", full)
    with pytest.raises(SetupError, match="it is in") as raised:
        execute(spec, options)
    saved = str(raised.value).rpartition("it is in ")[2]
    assert store.load(saved).status == "ok"


def test_full_disk_in_between_costs_only_the_checkpoint(make_run, monkeypatch, capsys):
    from bench.training import run_checkpoint

    def full(path, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_checkpoint, "save_state", full)
    spec, options = make_run("ddrop")
    assert execute(spec, options).status == "ok"


def test_records_hold_no_path_host_or_user(make_run):
    import getpass
    import socket

    spec, options = make_run("ddrop")
    text = store.path_of(options.out, spec)
    execute(spec, options)
    content = text.read_text()
    assert str(options.out) not in content
    assert socket.gethostname() not in content
    assert f'"{getpass.getuser()}"' not in content
    assert "/home" not in content


def test_composition(make_run):
    done = check_run(make_run, "dropout+l1_norm", "resnet20", "tiny8", options={"dropout.p": "0.1"})
    assert done.spec.config == {"dropout.p": 0.1}
    assert done.training.starts_from == "init"
    with pytest.raises(UsageError, match="cannot be composed"):
        make_run("l1_norm+random")
    with pytest.raises(UsageError, match="say whose it is"):
        make_run("dropout+l1_norm", options={"p": "0.1"})


def test_uniform_thin_starts_from_fresh_weights(make_run):
    thin = execute(*make_run("uniform_thin"))
    assert [s if s == "prune" else s.rewind for s in thin.training.plan] == ["prune", "fresh"]


@pytest.mark.gpu
@pytest.mark.parametrize("arch", ["resnet20", "all_kinds"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: no CUDA device")
def test_on_cuda(make_run, arch):
    spec, options = make_run("ddrop", arch, "tiny8")
    done = execute(spec, RunOptions(out=options.out, quiet=True, device="cuda"))
    assert done.environment.device_type == "cuda"
    assert done.structure.gate_slice_difference <= 1e-4
