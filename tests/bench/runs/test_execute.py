"""Whole runs at small size: the design's invariants on every method and several architectures."""

import getpass
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support.job_tools import stop_at

from bench.data import loading
from bench.errors import SUITE, Diverged, RunFailed, SetupError, Unsupported, UsageError
from bench.pruning.cost_model import Budget
from bench.records import store
from bench.runs import pipeline, prune
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from bench.runs.pipeline import RunPipeline
from bench.runs.verify import verify_file
from bench.spec.registry import METHODS
from bench.spec.request import RunOptions
from bench.training import run_checkpoint
from bench.training.loop import PhaseTrainer
from leaderboard.render.record_summary import details, summary

OWN = ["dense", "random", "uniform_thin", "l1_norm", "taylor", "l1l2", "ddrop", "dropnet", "edropout", "spectral"]
"""One of each kind; `bench check --all` goes through all of them (test_check.py)."""
NETWORKS = [("resnet20", "tiny8"), ("lenet", "tiny"), ("mlp_40_40", "tiny8")]
LARGE = [(method, "vgg16_bn", "tiny") for method in ("l1_norm", "taylor", "ddrop")]  # 7 s each
OTHERS = sorted(set(METHODS.entries()) - set(OWN))
QUICK = ("act_mean", "group_lasso", "bn_scale", "tp_taylor")
"""Of the others one of each kind: scores from activations, penalty, batch norms, torch-pruning."""


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def hooks_on(run):
    networks = [run.network, *([run.training.model.network] if run.training else [])]
    modules = [module for network in networks for module in network.modules()]
    return [m for m in modules if m._forward_pre_hooks or m._forward_hooks or m._backward_hooks]


def load(run):
    spec, options = run
    return store.load(store.path_of(options.out, spec))


def check_run(make_run, method, arch, dataset, **settings):
    """Run and assert what holds for every run; returns the record."""
    spec, options = make_run(method, arch, dataset, **settings)
    done = execute(spec, options)
    path = store.path_of(options.out, spec)
    assert store.load(path) == done
    checks = verify_file(path, options.out, options.data_dir)
    assert [check.outcome for check in checks] == ["ok"] * 10, checks
    if done.spec.budget:
        assert done.structure.gate_slice_difference <= 1e-4
        key = "params" if spec.budget.keep_params else "macs"
        assert getattr(done.cost.final, key) <= spec.budget.keep * getattr(done.cost.dense, key)
    else:
        assert done.cost.final == done.cost.dense
    assert bool(done.spec.budget) == make_method(method, {}).prunes
    assert summary(done)
    assert done.id in details(done)
    assert not list((options.out / "checkpoints").glob("*.pt"))
    return done


@pytest.mark.parametrize("method", [name if name in QUICK else slow(name) for name in OTHERS])
def test_grouped_units_are_pruned_or_declined_in_one_line(make_run, method):
    """Torch-pruning ranks single channels; an excitation's layers have no batch norm, and end in a sigmoid."""
    declined = {
        **dict.fromkeys(("slimming", "bn_scale", "ebn"), f"{method} does not work on site 6.fc1: it has no batch norm"),
        "nisp": "nisp does not work on site 0: the network has Sigmoid",
        "dropneuron": "all of the exempt 0, 6.fc1 already cost",
    }
    if method.startswith("tp_") or method in declined:
        several = "site 0: .*, and a unit of it is several|does not work on site 6.fc1: it has no batch norm"
        with pytest.raises((RunFailed, Unsupported), match=declined.get(method, several)) as caught:
            execute(*make_run(method, "all_kinds", "tiny8"))
        assert "\n" not in str(caught.value)
    elif make_method(method, {}).kinds == ("block",):
        with pytest.raises(Unsupported, match=f"^{method} does not work on site 0: it is of kind conv, not block$"):
            execute(*make_run(method, "all_kinds", "tiny8"))
    else:
        check_run(make_run, method, "all_kinds", "tiny8")


@pytest.mark.parametrize("method", OWN)
def test_run_is_verified_repeatable_and_leaves_no_hook(make_run, tmp_path, method):
    """On the network with every kind of unit."""
    done = check_run(make_run, method, "all_kinds", "tiny8", train__epochs=2)
    assert done.training.epochs == 3 or method == "dropnet"
    again = RunPipeline(*make_run(method, "all_kinds", "tiny8", train__epochs=2, out=tmp_path / "again"))
    again.go()
    assert hooks_on(again) == []
    assert store.without_timing(store.seal(again.record(None, "ok", SUITE))) == store.without_timing(done)


QUICK_PAIRS = [("l1_norm", *network) for network in NETWORKS]
SLOW_PAIRS = [(method, *network) for method in OWN for network in [*NETWORKS, ("resnet20b", "tiny")]] + LARGE
SLOW_PAIRS += [(method, "resnet56", "tiny8") for method in ("l1_norm", "dropnet")]  # of resnet20's blocks, many


@pytest.mark.parametrize(
    ("method", "arch", "dataset"), [*QUICK_PAIRS, *(slow(*pair) for pair in SLOW_PAIRS if pair not in QUICK_PAIRS)]
)
def test_every_method_on_other_networks(make_run, method, arch, dataset):
    check_run(make_run, method, arch, dataset)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ddrop", "dropnet", "edropout"])  # those that draw or train most; all: bench check
def test_resnet_run_is_repeatable(make_run, tmp_path, method):
    runs = [make_run(method, "resnet20", "tiny8", out=tmp_path / folder) for folder in ("one", "two")]
    one, two = (store.without_timing(execute(*run)) for run in runs)
    assert one == two


BUDGETS = [("keep_params", 0.25), ("keep_macs", 0.1)]
OTHER_BUDGETS = {(what, keep) for what in ("keep_macs", "keep_params") for keep in (0.75, 0.5, 0.25, 0.1)} - {*BUDGETS}


@pytest.mark.parametrize(("what", "keep"), [*BUDGETS, *(slow(*other) for other in sorted(OTHER_BUDGETS))])
def test_budgets(make_run, what, keep):
    check_run(make_run, "random", "resnet20", "tiny8", keep=Budget(**{what: keep}), finetune__epochs=0)


def test_seeds_differ(make_run):
    one, two = (execute(*make_run("random", seed=seed)) for seed in (0, 1))
    assert one.structure.masks != two.structure.masks
    assert one.training.base.sha256 != two.training.base.sha256
    assert one.data.split_sha256 != two.data.split_sha256


def test_finished_run_is_not_repeated(finished, monkeypatch):
    spec, done, options = finished()
    monkeypatch.setattr(RunPipeline, "__init__", lambda *a: pytest.fail("ran again"))
    assert execute(spec, options) == done


def test_base_is_shared_checked_and_trained_again(finished, make_run, tmp_path):
    _, first, _ = finished("l1_norm")
    other = execute(*make_run("ddrop"))
    assert (other.training.base, other.metrics.dense) == (first.training.base, first.metrics.dense)
    (weights,) = (tmp_path / "bases").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(RunFailed, match="delete it and run again"):
        execute(*make_run("random"))
    weights.unlink()
    spec, options = make_run("random")
    again = execute(spec, RunOptions(out=options.out, quiet=True, retry=True))
    assert again.training.base == first.training.base


def test_base_id_covers_what_trains_the_base_only(make_run):
    one, _ = make_run()
    two, _ = make_run(finetune__epochs=3, recalibrate=5)
    assert one.id != two.id
    assert one.base_id() == two.base_id() != make_run(precision="bf16")[0].base_id()
    known = ({"arch": "a", "train": "x"}, {"arch": "b", "train": "x"}, {"arch": "a", "train": "y"})
    assert len({one.base_id(**each) for each in known}) == 3


def test_test_images_are_loaded_after_the_method_is_gone(make_run, monkeypatch):
    moments = []
    finalize, load_test = PhaseTrainer.finalize, loading.load_test
    monkeypatch.setattr(PhaseTrainer, "finalize", lambda *a, **n: (moments.append("finalized"), finalize(*a, **n)))
    monkeypatch.setattr(loading, "load_test", lambda *a: (moments.append("test"), load_test(*a))[1])
    execute(*make_run("ddrop"))
    assert moments[-2:] == ["finalized", "test"]
    assert moments.count("test") == 1


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        ("nan_scores", "not finite"),
        ("wrong_shape", "have shape"),
        ("empty_masks", "keeps 0 units"),
        ("over_budget", "the budget of 0.5"),
        ("float_masks", "not torch.bool"),
        ("missing_site", "no scores for site"),
        ("wants_test", "'train' and 'val' only"),
    ],
)
def test_broken_method_fails_in_one_line_with_a_record(make_run, method, complaint):
    spec, options = make_run(method, dataset="tiny8")
    with pytest.raises(RunFailed, match=complaint) as raised:
        execute(spec, options)
    assert "\n" not in str(raised.value)
    failed = load((spec, options))
    assert (failed.status, failed.error.blame) == ("failed", "method")
    assert complaint in failed.error.message
    assert failed.error.traceback
    assert str(Path(__file__).parent) not in str(failed)


def test_failed_run_is_repeated_with_retry_only(make_run):
    spec, options = make_run("raises", options={"where": "prepare"})
    for retry, said in ((False, "on purpose"), (False, "--retry"), (True, "on purpose")):
        with pytest.raises(RunFailed, match=said):
            execute(spec, RunOptions(out=options.out, quiet=True, retry=retry))
    path = store.path_of(options.out, spec)
    assert len(list((path.parent / "superseded").glob("*.json"))) == 1


def test_diverged_run_says_what_to_lower(make_run):
    run = make_run("l1_norm", train__lr=1e9, arch="mlp_40_40", dataset="tiny8")
    with pytest.raises(Diverged, match=r"lower its rate"):
        execute(*run)
    assert (load(run).status, load(run).error.blame) == ("diverged", "recipe")
    run = make_run("diverges")
    with pytest.raises(Diverged, match=r"the method's strength"):
        execute(*run)
    assert (load(run).status, load(run).error.blame) == ("diverged", "method")
    assert load(run).curve.train_loss[-1] is None


def raises(text):
    def fail(*_):
        raise ValueError(text)

    return fail


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found | {"loss": float("nan")}, "would not be valid"),
        (lambda found: found | {"top1": 2.0}, r"would not be valid: metrics: .*dense\.top1"),
        (raises("x" * 20_000), "ValueError: xxxx"),
        (raises("\x1b[31mred\x1b[0m"), r"\[31mred"),
        (raises("half \ud800 a pair"), "half"),
    ],
)
def test_failed_record_can_be_read_whatever_is_in_it(make_run, monkeypatch, change, said):
    honest = pipeline.quality
    monkeypatch.setattr(pipeline, "quality", lambda *a: change(honest(*a)))
    run = make_run()
    with pytest.raises(RunFailed, match=said):
        execute(*run)
    failed = load(run)
    assert failed.status == "failed"
    assert failed.metrics is None or failed.metrics.final is None or failed.metrics.final.loss is None
    assert re.search(said.removeprefix("ValueError: "), failed.error.message)


def test_network_without_finite_outputs_is_not_sliced(make_run, monkeypatch):
    monkeypatch.setattr(prune, "gate_slice_difference", lambda *a: float("nan"))
    with pytest.raises(RunFailed, match="gated and sliced network differ by nan"):
        execute(*make_run())


HOOKS = "prepare plan on_phase_start on_batch_start penalty on_backward_end on_step_end on_epoch_end on_phase_end"


@pytest.mark.parametrize("hook", [*HOOKS.split(), "scores", "select", "finalize"])
def test_exception_in_a_hook_leaves_none_behind(make_run, hook):
    spec, options = make_run("raises", options={"where": hook})
    run = RunPipeline(spec, options)
    with pytest.raises(ZeroDivisionError, match="on purpose") as caught:
        run.go()
    run.cleanup()
    assert hooks_on(run) == []
    failed = run.record(caught.value, "failed", "method")
    assert (failed.status, failed.error.type) == ("failed", "ZeroDivisionError")


def test_impossible_run_is_refused_before_writing(make_run, tmp_path):
    for settings, said in (
        ({"arch": "untraceable"}, "architecture 'untraceable': it fails in eval mode with TypeError"),
        ({"keep": Budget(keep_macs=0.2, min_keep=8)}, "cannot be met"),
    ):
        with pytest.raises(UsageError, match=said) as raised:
            execute(*make_run(**settings))
        assert "\n" not in str(raised.value)
        assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("arch", ["all_kinds", slow("resnet20")])
def test_interrupted_run_leaves_a_record_and_resumes(make_run, tmp_path, monkeypatch, arch):
    run = make_run("ddrop", arch, "tiny8", train__epochs=3, out=tmp_path / "b")
    stop_at(monkeypatch, signal.SIGTERM, 2, 6)  # in the base, then in the method's training
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            execute(*run)
        assert (load(run).status, load(run).error.blame) == ("interrupted", "machine")
    done = execute(*run)
    uninterrupted = execute(*make_run("ddrop", arch, "tiny8", train__epochs=3, out=tmp_path / "a"))
    assert store.without_timing(done) == store.without_timing(uninterrupted)
    assert done.clock.resumes == 1


def test_two_processes_with_one_run_leave_one_record(make_run):
    """The second finds the lock taken, waits, and returns the first one's record."""
    spec, options = make_run()
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: execute(spec, options), range(2))
    assert one == two


def test_unwritable_folder_is_named_before_training(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="--out"):
        execute(make_run()[0], RunOptions(out=tmp_path / "file" / "results", quiet=True))


def test_full_disk_costs_a_checkpoint_and_no_record(make_run, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_checkpoint, "save_state", full)
    assert execute(*make_run("ddrop")).status == "ok"
    monkeypatch.setattr(store, "write", full)
    with pytest.raises(SetupError, match="it is in") as raised:
        execute(*make_run())
    assert store.load(str(raised.value).rpartition("it is in ")[2]).status == "ok"


def test_records_hold_no_path_host_or_user(finished):
    spec, _, options = finished("ddrop", "two_layers", "tiny8")
    content = store.path_of(options.out, spec).read_text()
    for private in (str(options.out), socket.gethostname(), f'"{getpass.getuser()}"', "/home", "/tmp"):
        assert private not in content


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
