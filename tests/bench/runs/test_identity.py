"""What makes another network, base, checkpoint or run, and what does not."""

import dataclasses
import importlib.metadata
import json
import shutil
import signal
import sys

import msgspec
import pytest
import torch
from support.job_tools import stop_at
from support.paths import ROOT
from torch import nn

from bench.conformance import tiny_networks
from bench.measure import environment
from bench.models import layers
from bench.models.build import build
from bench.records import store
from bench.runs import identity
from bench.runs.execute import execute
from bench.runs.verify import verify_file
from bench.spec import registry, source_hash
from bench.spec.registry import ARCHS, add_plugin
from bench.training import dense_baseline
from bench.training.checkpoint import load_state
from bench.training.loop import PhaseTrainer

CPU = torch.device("cpu")
NET = """
from pathlib import Path
from torch import nn
from torch.nn import functional as F
from bench.models.build import architecture
from {helper} import slope

SIGN = 1


class Net(nn.Module):
    def __init__(self, channels, num_classes, act=F.relu):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(channels, 8, 3, padding=1), nn.Linear(8 * 4, num_classes)
        self.pool, self.act = nn.AdaptiveAvgPool2d(2), act
        nn.init.constant_(self.fc.bias, 0.0)

    def forward(self, x):
        return self.fc(self.pool(self.act(SIGN * slope * self.conv(x))).flatten(1))


@architecture("edited", own_weights=True)
def edited(*, shape, num_classes):
    # a remark
    return Net(shape[0], num_classes)
"""
HELPER = "slope = 1.0\n"


@pytest.fixture
def plugged(tmp_path_factory, monkeypatch, plugins):
    """Make a plugin of two files known that defines ``edited``, in place of the one before."""
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    monkeypatch.setattr(registry, "PLUGINS", [])

    def plug(net=NET, helper=HELPER):
        ARCHS._plugins.pop("edited", None)
        ARCHS._objects.pop("edited", None)
        registry.PLUGINS.clear()
        folder = tmp_path_factory.mktemp("net")  # a file is imported once
        (folder / "net.py").write_text(net.format(helper="helper_of_net"))
        (folder / "helper_of_net.py").write_text(helper)
        sys.path[:] = [str(folder), *sys.path]
        sys.modules.pop("helper_of_net", None)
        importlib.invalidate_caches()
        add_plugin(str(folder / "net.py"))
        return folder / "net.py"

    yield plug
    ARCHS._objects.pop("edited", None)


EDITS = {
    "forward": {"net": NET.replace("SIGN * slope * self", "-SIGN * slope * self")},
    "constant": {"net": NET.replace("SIGN = 1", "SIGN = -1")},
    "function passed": {"net": NET.replace("act=F.relu", "act=F.gelu")},
    "first weights": {"net": NET.replace("bias, 0.0", "bias, 0.1")},
    "imported module": {"helper": "slope = 0.5\n"},
}


def test_edited_architecture_has_another_hash(plugged):
    def made():
        network = build("edited", (1, 8, 8), 10)
        shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
        return identity.arch_sha256("edited", network), (str(network), shapes)

    plugged()
    before = made()
    for name, edit in EDITS.items():
        plugged(**edit)
        after = made()
        assert after[0] != before[0], name
        assert after[1] == before[1], name  # in which the edit does not show
    plugged()
    assert made() == before


def test_edited_file_architecture_has_another_name(plugged):
    names = []
    for edit in ("none", "forward", "imported module", "none"):
        file = plugged(**EDITS.get(edit, {}))
        names.append(registry.model_name(f"file:{file}:edited"))
        assert len(identity.arch_sha256(names[-1], nn.Linear(1, 1))) == 64
    assert names[0] == names[3]
    assert len(set(names)) == 3


def test_version_of_an_imported_package_is_recorded_and_hashed(plugged, make_run, monkeypatch):
    plugged(NET.replace("import nn\n", "import nn\nimport tqdm, numpy\n"), "from tabulate import tabulate\n" + HELPER)
    version = importlib.metadata.version
    spec, options = make_run("l1_norm", "edited", "tiny8")
    done = execute(spec, options)
    assert {name: version(name) for name in ("tqdm", "tabulate")}.items() <= done.environment.packages.items()

    def verified():
        checks = verify_file(store.path_of(options.out, spec), options.out, options.data_dir)
        return next((c.outcome, c.detail) for c in checks if c.name == "MACs and params from widths")

    network = build("edited", (1, 8, 8), 10)
    hashes = [identity.arch_sha256("edited", network)]
    assert done.structure.arch_sha256 == hashes[0]
    assert verified()[0] == "ok"
    for package in ("tqdm", "tabulate", "numpy", "torch"):
        monkeypatch.setattr(environment, "_version", lambda name, p=package: "9.9" if name == p else version(name))
        hashes.append(identity.arch_sha256("edited", network))
        if package == "tqdm":
            outcome, detail = verified()
            assert outcome == "not run"
            assert detail.endswith(f" was made with tqdm {version('tqdm')}, here is 9.9")
    assert len(set(hashes[:3])) == 3
    assert set(hashes[3:]) == {hashes[0]}  # another torch is another base, not another architecture


SUITES = """
from torch import nn
from bench.models.build import architecture
from bench.models.layers import ChannelPad
from {helper} import slope


@architecture("edited")
def edited(*, shape, num_classes):
    return nn.Sequential(ChannelPad(shape[0], 8, 1), nn.Flatten(), nn.Linear(8 * 64, num_classes))
"""


def test_arch_hash_covers_layers_of_the_suite_in_a_plugin(plugged, monkeypatch):
    plugged(SUITES)
    network = build("edited", (1, 8, 8), 10)
    before = identity.arch_sha256("edited", network)
    source = source_hash.inspect.getsource

    def edited(thing):
        text = source(thing)
        return text.replace("F.pad(x", "F.pad(-x") if thing is layers.ChannelPad else text

    monkeypatch.setattr(source_hash.inspect, "getsource", edited)
    monkeypatch.setattr(source_hash, "_definition", source_hash._definition.__wrapped__)
    assert identity.arch_sha256("edited", network) != before


READS = NET.replace("SIGN = 1", "SIGN, BIAS = 1, float(Path(__file__).with_name('bias.txt').read_text())").replace(
    "bias, 0.0", "bias, BIAS"
)


def test_base_covers_source_and_first_weights(plugged, make_run, capsys):
    def trained(method, net, bias="0.0", **more):
        (plugged(net, **more).parent / "bias.txt").write_text(bias)
        return execute(*make_run(method, "edited", "tiny8"))

    first, again = trained("l1_norm", READS), trained("l2_norm", READS)
    assert again.training.base == first.training.base
    shifted = trained("random", READS, "0.1")
    assert shifted.training.base.id != first.training.base.id
    assert shifted.structure.arch_sha256 == first.structure.arch_sha256
    other = trained("act_mean", READS, helper="slope = -1.0\n")
    assert other.training.base.id != first.training.base.id
    assert other.training.base.sha256 != first.training.base.sha256
    assert other.structure.arch_sha256 != first.structure.arch_sha256
    capsys.readouterr()
    assert execute(*make_run("l1_norm", "edited", "tiny8")) == first  # read, with a note that the network is another
    assert "the source of edited has changed since this record; --retry runs it again" in capsys.readouterr().err


def test_state_hash_covers_all_weights_and_buffers():
    def network():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        made.register_buffer("kept", torch.zeros(2), persistent=False)
        return made

    def changed(name, value):
        made = network()
        (dict(made.named_buffers()) | made.state_dict())[name].data.flatten()[0] = value
        return identity.state_sha256(made)

    names = [*network().state_dict(), "kept"]
    assert len({identity.state_sha256(network()), *(changed(name, 3) for name in names)}) == 1 + len(names)
    assert identity.state_sha256(network().to(torch.bfloat16)) != identity.state_sha256(network())


# --- bases ------------------------------------------------------------------------------------------------------


def known(device="cpu", threads=1, **changed):
    machine = {"device_type": device, "threads": threads, "device": "a chip", "instructions": "AVX2"}
    made = identity.Identity({"commit": None}, machine, "a" * 64, "b" * 64)
    return dataclasses.replace(made, **changed).of_base()


def test_base_name_covers_device_type_threads_and_torch(make_run, monkeypatch):
    spec, _ = make_run()
    names = [
        spec.base_id(**known(**change))
        for change in ({}, {"device": "cuda"}, {"threads": 2}, {"arch_sha256": "c" * 64}, {"init_sha256": "c" * 64})
    ]
    monkeypatch.setattr(torch, "__version__", "99.0")
    names.append(spec.base_id(**known()))
    assert len(set(names)) == len(names)
    assert known("cuda", 1) == known("cuda", 2)  # CPU threads compute nothing there


def test_record_names_what_its_base_was_made_with(finished):
    _, done, options = finished()
    made = done.training.base.made
    assert (made.torch, made.threads) == (torch.__version__, 1)
    assert made.instructions == environment.versions(CPU)["instructions"]
    facts = json.loads(next((options.out / "bases").glob("*.json")).read_text())
    assert facts["made"] == msgspec.to_builtins(made)


def interrupt(monkeypatch, run, after):
    """Carry out a run until it has written ``after`` checkpoints."""
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGTERM, after)
        with pytest.raises(KeyboardInterrupt):
            execute(*run)


def counted(monkeypatch):
    """Whether each epoch that is trained from now on is one of a base."""
    epoch, trained = PhaseTrainer._epoch, []

    def count(self, *facts):
        trained.append(self.of_base)
        return epoch(self, *facts)

    monkeypatch.setattr(PhaseTrainer, "_epoch", count)
    return trained


@pytest.mark.parametrize("couplings", [("inner", "full"), pytest.param(("full", "inner"), marks=pytest.mark.slow)])
def test_base_cut_off_in_one_run_resumes_in_any_other(make_run, tmp_path, monkeypatch, couplings):
    add_plugin(tiny_networks.__file__)
    first, options = make_run("dropnet", "check_residual", "tiny8", 0.4, out=tmp_path / "cut", train__epochs=2)
    second, _ = make_run("l1_norm", "check_residual", "tiny8", 0.7, train__epochs=2)
    first, second = (dataclasses.replace(s, coupling=c) for s, c in zip((first, second), couplings, strict=True))
    interrupt(monkeypatch, (first, options), after=1)
    (file,) = (tmp_path / "cut" / "bases").glob("*.pt")
    assert load_state(file, CPU).keys() == {
        *("form", "identity", "position", "network", "optimizer", "curve", "seconds"),
        *("examples", "epochs", "step_macs", "resumes"),
    }
    trained = counted(monkeypatch)
    resumed = execute(second, options)
    assert trained.count(True) == 1
    uninterrupted = execute(second, dataclasses.replace(options, out=tmp_path / "uninterrupted"))
    assert store.without_timing(resumed) == store.without_timing(uninterrupted)


def test_base_that_could_not_be_saved_is_not_trained_again(make_run, monkeypatch):
    spec, options = make_run(train__epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(dense_baseline, "save_tensors", lambda *_: 1 / 0)
        with pytest.raises(Exception, match="division by zero"):
            execute(spec, options)
    trained = counted(monkeypatch)
    assert execute(spec, dataclasses.replace(options, retry=True)).status == "ok"
    assert trained.count(True) == 0


# --- checkpoints of runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "begins"), [("nothing", 2), ("network", 1), ("suite", 1), ("method", 1)])
def test_run_resumes_only_where_it_is_the_same(plugged, make_run, monkeypatch, change, begins):
    plugged()
    settings = {"arch": "edited", "dataset": "tiny8", "finetune__epochs": 3}
    spec, options = make_run(**settings)
    of_base, of_prune, of_epoch = 1, 1, 1
    interrupt(monkeypatch, (spec, options), after=of_base + of_prune + of_epoch)
    if change == "network":
        plugged(**EDITS["constant"])
    elif change == "suite":
        monkeypatch.setattr("bench.runs.pipeline.suite_sha256", lambda: "another")
    elif change == "method":
        monkeypatch.setattr(identity, "method_source", lambda _: identity.Source("9" * 64, frozenset()))
    began = []
    phase = PhaseTrainer.train

    def note(self, step):
        began.append((step.part, self.position[1] + 1))
        phase(self, step)

    monkeypatch.setattr(PhaseTrainer, "train", note)
    assert execute(spec, options).status == "ok"
    assert ("finetune", begins) in began


def test_suite_hash_covers_what_runs_and_no_command(monkeypatch, tmp_path):
    shutil.copytree(ROOT / "bench", tmp_path / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "__file__", str(tmp_path / "bench" / "runs" / "identity.py"))
    plain = identity.suite_sha256.__wrapped__
    before = plain()
    runs = ("training/loop.py", "training/context.py", "models/layers.py", "data/image_set.py", "measure/flops.py")
    for name in (*runs, "cli/show.py"):
        file = tmp_path / "bench" / name
        text = file.read_text()
        file.write_text(text + "# an edit\n")
        assert (plain() != before) == (name != "cli/show.py"), name
        file.write_text(text)


# --- a record that is there already -----------------------------------------------------------------------------


def test_finished_record_of_another_machine_is_named(finished, capsys):
    spec, done, given = finished()
    for options, said in (
        ({"threads": 2}, "made with 1 thread, not 2"),
        ({"device": "cuda"}, "made on cpu, not cuda"),
        ({"threads": 1, "device": "cpu"}, ""),
        ({}, ""),
    ):
        assert execute(spec, dataclasses.replace(given, **options)) == done
        err = capsys.readouterr().err
        assert said in err and bool(said) == bool(err)
