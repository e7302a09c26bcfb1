"""What makes another network, base, checkpoint or run, and what does not."""

import dataclasses
import importlib
import importlib.metadata
import json
import shutil
import sys
import uuid

import msgspec
import pytest
import torch
from support.paths import ROOT
from torch import nn

from bench import RULES
from bench.cli import main
from bench.errors import UsageError
from bench.measure import environment, processor
from bench.models.build import build
from bench.records import store
from bench.runs import identity
from bench.runs.execute import execute
from bench.runs.resolve import make_spec
from bench.runs.verify import verify_file
from bench.spec import registry
from bench.spec.recipe import load_recipe
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
def plugged(tmp_path, monkeypatch, plugins):
    """Make a plugin of two files known that defines ``edited``, in place of the one before."""
    for name in ("path", "modules"):
        monkeypatch.setattr(sys, name, getattr(sys, name).copy())
    monkeypatch.setattr(registry, "PLUGINS", [])

    def plug(net=NET, helper=HELPER):
        ARCHS._plugins.pop("edited", None)
        ARCHS._objects.pop("edited", None)
        registry.PLUGINS.clear()
        folder = tmp_path / uuid.uuid4().hex  # a file is imported once
        folder.mkdir()
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


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edited_architecture_has_another_hash(plugged, edit):
    def hashes():
        network = build("edited", (1, 8, 8), 10)
        return identity.arch_sha256("edited", network), identity.arch_sha256("edited", network, "0.1")

    plugged()
    before = hashes()
    plugged(**edit)
    after = hashes()
    assert after[0] != before[0]
    assert after[1] == before[1]  # which rules 0.1 did not see
    plugged()
    assert hashes() == before


@pytest.mark.parametrize("edit", [EDITS["forward"], EDITS["imported module"]], ids=["forward", "module"])
def test_edited_file_architecture_has_another_name(plugged, edit):
    names = []
    for change in ({}, edit, {}):
        file = plugged(**change)
        names.append(registry.model_name(f"file:{file}:edited"))
        assert len(identity.arch_sha256(names[-1], nn.Linear(1, 1))) == 64
    assert names[0] == names[2] != names[1]


def test_version_of_an_imported_package_is_recorded_and_hashed(plugged, make_run, monkeypatch):
    plugged(NET.replace("import nn\n", "import nn\nimport tqdm, numpy\n"), "from tabulate import tabulate\n" + HELPER)
    versions = {name: importlib.metadata.version(name) for name in ("tqdm", "tabulate")}
    done = execute(*make_run("l1_norm", "edited", "tiny8"))
    assert versions.items() <= done.environment.packages.items()
    network = build("edited", (1, 8, 8), 10)
    hashes = [identity.arch_sha256("edited", network)]
    assert done.structure.arch_sha256 == hashes[0]
    version = importlib.metadata.version
    for package in ("tqdm", "tabulate", "numpy", "torch"):
        monkeypatch.setattr(
            environment.metadata, "version", lambda name, p=package: "9" if name == p else version(name)
        )
        hashes.append(identity.arch_sha256("edited", network))
    assert len(set(hashes[:3])) == 3
    assert set(hashes[3:]) == {hashes[0]}  # another torch is another base, not another architecture


def test_verify_of_a_network_of_another_package_version_is_not_run(make_run, monkeypatch, tmp_path):
    spec, options = make_run("l1_norm", "torchvision:squeezenet1_1", "tiny")
    execute(spec, options)
    path = store.path_of(options.out, spec)

    def outcome():
        checks = {c.name: c for c in verify_file(path, options.out, options.data_dir)}
        return checks["MACs and params from widths"]

    assert outcome().outcome == "ok"
    version = importlib.metadata.version
    monkeypatch.setattr(environment.metadata, "version", lambda name: "9.9" if name == "torchvision" else version(name))
    found = outcome()
    assert (found.outcome, found.detail.split(" was made with ")[1]) == (
        "not run",
        f"torchvision {version('torchvision')}, here is 9.9",
    )


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
    from bench.models import layers

    plugged(SUITES)
    before = identity.arch_sha256("edited", build("edited", (1, 8, 8), 10))
    source = identity.source_hash.inspect.getsource

    def edited(thing):
        text = source(thing)
        return text.replace("F.pad(x", "F.pad(-x") if thing is layers.ChannelPad else text

    monkeypatch.setattr(identity.source_hash.inspect, "getsource", edited)
    assert identity.arch_sha256("edited", build("edited", (1, 8, 8), 10)) != before
    assert identity.arch_sha256("resnet20", build("resnet20", (1, 8, 8), 10)) == identity.arch_sha256(
        "resnet20", build("resnet20", (1, 8, 8), 10, seed=1)
    )


def test_edited_architecture_trains_its_own_base(plugged, make_run, capsys):
    plugged()
    first = execute(*make_run("l1_norm", "edited", "tiny8"))
    again = execute(*make_run("l2_norm", "edited", "tiny8"))
    assert again.training.base == first.training.base
    plugged(**EDITS["forward"])
    other = execute(*make_run("random", "edited", "tiny8"))
    assert other.training.base.id != first.training.base.id
    assert other.training.base.sha256 != first.training.base.sha256
    assert other.structure.arch_sha256 != first.structure.arch_sha256
    capsys.readouterr()
    kept = execute(*make_run("l1_norm", "edited", "tiny8"))
    assert kept == first  # a finished run is read, and it is said that it is of another network
    assert "the source of edited has changed since this record; --retry runs it again" in capsys.readouterr().err


READS = NET.replace("SIGN = 1", "SIGN, BIAS = 1, float(Path(__file__).with_name('bias.txt').read_text())").replace(
    "bias, 0.0", "bias, BIAS"
)


def test_other_first_weights_of_one_source_need_another_base(plugged, make_run):
    made = []
    for method, bias in (("l1_norm", 0.0), ("l2_norm", 0.1), ("random", 0.0)):
        (plugged(READS).parent / "bias.txt").write_text(str(bias))
        made.append(execute(*make_run(method, "edited", "tiny8")))
    bases = [each.training.base for each in made]
    assert bases[0] == bases[2]
    assert bases[0].id != bases[1].id
    assert len({each.structure.arch_sha256 for each in made}) == 1


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


def test_record_names_what_its_base_was_made_with(make_run):
    spec, options = make_run()
    made = execute(spec, options).training.base.made
    assert (made.torch, made.threads, made.instructions) == (
        torch.__version__,
        1,
        environment.versions(CPU)["instructions"],
    )
    facts = json.loads(next((options.out / "bases").glob("*.json")).read_text())
    assert facts["made"] == msgspec.to_builtins(made)


class Stop(KeyboardInterrupt):
    """Ends a run at a checkpoint."""


def interrupt(monkeypatch, run, after):
    """Carry out a run until it has written ``after`` checkpoints."""
    with monkeypatch.context() as patch:
        save, count = PhaseTrainer.save, iter(range(1, 100))

        def stop(self, position):
            save(self, position)
            if next(count) == after:
                raise Stop

        patch.setattr(PhaseTrainer, "save", stop)
        with pytest.raises(Stop):
            execute(*run)


@pytest.mark.parametrize("couplings", [("inner", "full"), ("full", "inner")])
def test_base_cut_off_in_one_run_goes_on_in_any_other(make_run, tmp_path, monkeypatch, couplings):
    settings = {"arch": "resnet20", "dataset": "tiny8", "train__epochs": 3}
    first, options = make_run("dropnet", keep=0.4, out=tmp_path / "cut", **settings)
    second, _ = make_run("l1_norm", keep=0.7, **settings)
    first, second = (dataclasses.replace(s, coupling=c) for s, c in zip((first, second), couplings, strict=True))
    interrupt(monkeypatch, (first, options), after=2)
    (file,) = (tmp_path / "cut" / "bases").glob("*.pt")
    assert load_state(file, CPU).keys() == {
        *("form", "identity", "position", "network", "optimizer", "curve", "seconds"),
        *("examples", "epochs", "step_macs", "resumes"),
    }
    trained = []
    monkeypatch.setattr(PhaseTrainer, "_epoch", _counted(PhaseTrainer._epoch, trained))
    resumed = execute(second, options)
    assert trained.count(True) == 1
    whole = execute(second, dataclasses.replace(options, out=tmp_path / "whole"))
    assert store.without_timing(resumed) == store.without_timing(whole)


def _counted(epoch, trained):
    def count(self, *facts):
        trained.append(self.of_base)
        return epoch(self, *facts)

    return count


def test_base_that_could_not_be_saved_is_not_trained_again(make_run, monkeypatch):
    run = make_run(train__epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(dense_baseline, "save_tensors", lambda *_: 1 / 0)
        with pytest.raises(Exception, match="division by zero"):
            execute(*run)
    trained = []
    monkeypatch.setattr(PhaseTrainer, "_epoch", _counted(PhaseTrainer._epoch, trained))
    spec, options = run
    assert execute(spec, dataclasses.replace(options, retry=True)).status == "ok"
    assert trained.count(True) == 0


# --- checkpoints of runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "begins"),
    [("nothing", 2), ("network", 1), ("suite", 1), ("method", 1)],
)
def test_run_goes_on_only_where_it_is_the_same(plugged, make_run, monkeypatch, change, begins):
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


# --- precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("here", "becomes"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_is_resolved_before_the_id(monkeypatch, here, becomes):
    monkeypatch.setattr(environment, "has_bf16", lambda device: here)
    monkeypatch.setattr(processor, "cpu", lambda: ("some", frozenset(processor.BF16 if here else ())))

    def spec(precision):
        recipe = load_recipe("cifar", {"precision": precision})
        return make_spec("dense", "resnet20", "cifar10", recipe, None)

    assert spec("auto").recipe.precision == becomes
    assert spec("auto").id == spec(becomes).id
    assert spec("fp32").id != spec("bf16").id
    assert spec("auto").as_dict()["recipe"]["precision"] == becomes


def test_both_precisions_have_records_bases_and_boards_of_their_own(make_run):
    made = [execute(*make_run(precision=precision)) for precision in ("fp32", "bf16")]
    assert [each.training.precision for each in made] == ["fp32", "bf16"]
    for of in (
        lambda r: r.id,
        lambda r: r.spec.recipe.sha256,
        lambda r: r.training.base.id,
    ):
        assert of(made[0]) != of(made[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: dataclasses.replace(s, recipe=dataclasses.replace(s.recipe, precision="auto")), "precision auto"),
        (lambda s: dataclasses.replace(s, rules="0.1"), f"of rules 0.1, this is {RULES}"),
    ],
    ids=["auto", "rules"],
)
def test_unresolved_specification_does_not_run(make_run, change, said):
    spec, options = make_run()
    with pytest.raises(UsageError, match=said):
        execute(change(spec), options)
    assert not (options.out / "records").exists()


@pytest.mark.parametrize(("flags", "said"), [({"avx2"}, "no instructions for bf16"), ({"avx512_bf16"}, "")])
def test_emulated_bf16_is_said_before_training(make_run, monkeypatch, capsys, flags, said):
    monkeypatch.setattr(environment, "cpu", lambda: ("a CPU", frozenset(flags)))
    monkeypatch.setattr(PhaseTrainer, "train", lambda *_: 1 / 0)
    with pytest.raises(Exception, match="division"):
        execute(*make_run(precision="bf16"))
    err = capsys.readouterr().err
    assert (said in err) and bool(said) == ("a CPU" in err)


def test_jobs_on_slurm_need_a_pinned_precision(capsys, tmp_path):
    words = ["--method", "dense", "--arch", "resnet20", "--dataset", "cifar10", "--out", str(tmp_path), "--dry-run"]
    assert main(["run", *words, "--cluster", "slurm"]) == 2
    assert "precision auto depends on the machine" in capsys.readouterr().err
    sweep = tmp_path / "sweep.toml"
    sweep.write_text('[[runs]]\nmethod = "dense"\narch = "resnet20"\ndataset = "cifar10"\nseeds = "0"\n')
    assert main(["sweep", str(sweep), "--out", str(tmp_path), "--cluster", "slurm", "--dry-run"]) == 2
    assert "--set precision=fp32 or bf16" in capsys.readouterr().err
    sweep.write_text(sweep.read_text() + 'settings = {precision = "bf16"}\n')
    assert main(["sweep", str(sweep), "--out", str(tmp_path), "--cluster", "inline", "--dry-run"]) == 0


# --- a record that is there already -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 2}, "made with 1 threads, not 2"),
        ({"device": "cuda"}, "made on cpu, not cuda"),
        ({"threads": 1, "device": "cpu"}, ""),
        ({}, ""),
    ],
)
def test_finished_record_of_another_machine_is_named(make_run, capsys, options, said):
    spec, asked = make_run()
    done = execute(spec, asked)
    capsys.readouterr()
    assert execute(spec, dataclasses.replace(asked, **options)) == done
    err = capsys.readouterr().err
    assert said in err and bool(said) == bool(err)
