"""The order of a run: starting weights, prepare, phases and their hooks, the optimizer, the prune."""

from pathlib import Path

import pytest
import torch

from bench.check import examine, networks
from bench.check.subject import Subject
from bench.registry import ARCHS, DATASETS, METHODS, add_plugin

PLUGIN = Path(__file__).parent.parent / "plugins" / "lifecycle.py"


@pytest.fixture(autouse=True, scope="module")
def _own_plugins():
    registries = (METHODS, ARCHS, DATASETS)
    before = [dict(registry._plugins) for registry in registries]
    for file in (PLUGIN, networks.__file__):
        add_plugin(str(file))
    yield
    for registry, plugins in zip(registries, before, strict=True):
        registry._plugins = plugins


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in two)


def state_of(network):
    return {k: v.clone() for k, v in network.state_dict().items()}


def result(name, check):
    """Outcome and line of one check of the battery."""
    (found,) = examine(name, [check]).results
    return found.outcome, found.detail


# --- starting weights ----------------------------------------------------------------------------------------------

FROM_BASE = ["keeps_a_teacher", "sets_a_threshold", "remembers_the_start"]


@pytest.mark.parametrize("arch", ["check_residual", "check_mlp"])
@pytest.mark.parametrize("name", [*FROM_BASE, "ddrop"])
def test_prepare_sees_the_starting_weights(name, arch, tmp_path):
    seen = []

    def watch(hook, ctx, call):
        if hook == "prepare":
            seen.append((state_of(ctx.network), dict(ctx.snapshots)))
        return call()

    run = Subject(name, tmp_path).run(arch=arch, watch=watch)
    ((found, snapshots),) = seen
    assert not same(snapshots["init"], snapshots["base"])
    assert same(found, snapshots[run.method.starts_from])


def test_teacher_of_prepare_is_the_base_after_training(tmp_path):
    run = Subject("keeps_a_teacher", tmp_path).run()
    assert same(run.method.teacher.state_dict(), run.base.state)


def test_threshold_of_prepare_is_that_of_the_base(tmp_path):
    run = Subject("sets_a_threshold", tmp_path).run()
    rows = [run.base.state[f"{site}.weight"].flatten(1).norm(dim=1) for site in run.sites]
    assert run.done.curve[-2]["threshold"] == torch.cat(rows).median().item()


@pytest.mark.parametrize("name", FROM_BASE)
def test_resumed_prepare_sees_the_base_again(name):
    assert result(name, "resume") == ("ok", "4 stops")
