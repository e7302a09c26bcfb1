"""Failed records and messages name who is at fault: method, architecture, data, recipe, machine or suite."""

import re

import pytest
import torch
from torch import nn

from bench.errors import BenchError, RunFailed, SetupError
from bench.models import error_place
from bench.records import store
from bench.runs import pipeline, preflight, prune
from bench.runs.execute import execute, leave_failure
from bench.spec.registry import ARCHS, add_plugin

PLUGINS = ("tests/plugins/unusual.py", "tests/plugins/faulty.py")


@pytest.fixture(autouse=True)
def _plugins(plugins, request):
    preflight._known.clear()
    for file in PLUGINS:
        add_plugin(str(request.config.rootpath / file))


@pytest.fixture
def failing(make_run):
    """The message and the record of a run that fails."""

    def run(method="l1_norm", arch="two_layers", dataset="tiny8", kind=RunFailed, **settings):
        spec, options = make_run(method, arch, dataset, keep=0.8, **settings)
        with pytest.raises(kind) as caught:
            execute(spec, options)
        assert "\n" not in str(caught.value)
        return str(caught.value), store.load(store.path_of(options.out, spec))

    return run


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("divides", "divides failed (ZeroDivisionError: integer division or modulo by zero, faulty.py:"),
        ("feeds_nonsense", r"feeds_nonsense failed (RuntimeError: "),
        ("unknown_site", "unknown_site failed (KeyError: 'nowhere', faulty.py:"),
        ("gates_too_few", "gates_too_few failed (RuntimeError: The size of tensor a"),
        ("penalty_in_place", "penalty_in_place failed (RuntimeError: one of the variables needed for gradient"),
        ("inserts", "inserts failed (IndexError: nothing inserted, faulty.py:"),
        ("no_penalty", "the method's penalty returned NoneType, not a scalar"),
    ],
)
def test_error_of_a_method_is_blamed_on_the_method(failing, method, said):
    message, found = failing(method)
    assert said in message
    assert found.error.blame == "method"


def breaks_at(monkeypatch, arch, moment):
    """Let a network fail in the calls after ``moment`` (a function of the pipeline or a hook) began."""
    name = {"breaks_late": "BreaksLate", "own_network": "OwnNetwork"}[arch]
    kind = ARCHS.get(arch).factory.__globals__[name]
    monkeypatch.setattr(kind, "most", 10**6)
    owner, function = moment
    original = getattr(owner, function)

    def begin(*args, **named):
        monkeypatch.setattr(kind, "most", 0)
        return original(*args, **named)

    monkeypatch.setattr(owner, function, begin)


MOMENTS = {
    "base": (pipeline.bases, "ensure"),
    "prune": (pipeline.Context, "select"),
    "fine-tuning": (prune, "clone_state"),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("method", "arch"), [("l1_norm", "own_network"), ("taylor", "breaks_late")])
def test_error_of_a_network_is_blamed_on_it_with_its_line(failing, monkeypatch, method, arch, moment):
    breaks_at(monkeypatch, arch, MOMENTS[moment])
    message, found = failing(method, arch)
    file = "unusual" if arch == "breaks_late" else "faulty"
    assert re.match(rf"architecture '{arch}' failed \(RuntimeError: .*, {file}\.py:\d+\); the record has", message)
    assert found.error.blame == "architecture"


def test_error_of_a_data_set_is_blamed_on_the_data(failing):
    message, found = failing("l1_norm", dataset="breaks", kind=SetupError)
    assert "the file ends early" in message
    assert found.error.blame == "data"


def test_error_of_the_harness_is_blamed_on_the_suite(failing, monkeypatch):
    monkeypatch.setattr(pipeline, "quality", lambda *_: {}["none"])
    message, found = failing("taylor")
    assert message.startswith("a fault of the suite, not of taylor (KeyError: 'none'); the record has the traceback")
    assert found.error.blame == "suite"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 bytes")]
)
def test_lack_of_memory_is_blamed_on_the_machine(failing, monkeypatch, error):
    def lack(*_):
        raise error

    monkeypatch.setattr(pipeline, "quality", lack)
    message, found = failing()
    assert message.startswith("this machine failed (")
    assert found.error.blame == "machine"


def test_run_that_could_not_start_says_who_is_at_fault(make_run):
    spec, options = make_run("l1_norm", "several_outputs", "tiny8")
    with pytest.raises(BenchError) as caught:
        execute(spec, options)
    leave_failure(spec, options, caught.value)
    found = store.load(store.path_of(options.out, spec))
    assert (found.status, found.error.blame) == ("failed", "architecture")


# --- where -----------------------------------------------------------------------------------------------------------


def caught(function, *args):
    try:
        function(*args)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_first_line_is_the_first_that_says_anything():
    for error, line in (
        (RuntimeError("\n\n  the cause\nand more"), "RuntimeError: the cause"),
        (KeyError("key"), "KeyError: 'key'"),
        (ValueError(), "ValueError"),
        (RunFailed("what  it\nis"), "what it is"),
    ):
        assert error_place.first_line(error) == line


class Inner(nn.Module):
    def forward(self, x):
        return x[:, 5, 5, 5, 5]


def test_place_names_line_and_innermost_layer():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), Inner()))
    error = caught(network, torch.zeros(1, 1, 4, 4))
    where = error_place.place_in_network(error, network)
    assert re.fullmatch(r"test_blame\.py:\d+, layer 1\.1 \(Inner\), input 1x2x2x2", where)
    assert error_place.innermost_layer(error, network) == "1.1"
    error = caught(network, torch.zeros(1, 3, 4, 4))
    assert error_place.place_in_network(error, network) == "layer 0 (Conv2d), input 1x3x4x4"
    assert error_place.place_in_network(caught(lambda: 1 // 0), network) == ""
