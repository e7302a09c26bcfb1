"""Runs whose widths are multiples of several channels: recorded, verified, repeated, refused."""

import copy
import dataclasses

import pytest
from support.plugins import known
from support.records import line, seal
from support.requested import request_of

from bench.conformance import tiny_networks
from bench.errors import RunFailed, UsageError, WordsError
from bench.records import store
from bench.runs import rerun
from bench.runs.execute import execute
from bench.runs.planned_budgets import require_reachable
from bench.runs.resolve import resolve
from bench.runs.verify import verify_file
from bench.spec.request import RunRequest
from bench.spec.spec import Budget, Spec


@pytest.fixture(autouse=True)
def _tiny_networks(plugins):
    with known(tiny_networks.__file__):
        yield


@pytest.fixture
def ran(finished):
    """A finished run on the network with blocks, in steps of two channels."""
    return lambda method="random", keep=0.6, step=2, **more: finished(
        method, "check_depth", "check_images", keep=Budget(keep_macs=keep, round_to=step), **more
    )


def checks(spec, options):
    return {
        c.name: (c.outcome, c.detail) for c in verify_file(store.path_of(options.out, spec), options.out, options.out)
    }


@pytest.mark.parametrize(
    ("method", "units"),
    [
        pytest.param("random", "width", marks=pytest.mark.slow),
        ("dropnet", "width"),  # shrinks while it trains
        pytest.param("edropout", "width", marks=pytest.mark.slow),  # repairs states
        pytest.param("uniform_thin", "width", marks=pytest.mark.slow),
        ("l1_norm+block_l1", "both"),
    ],
)
def test_run_is_recorded_verified_and_run_again(ran, method, units, tmp_path):
    spec, done, options = ran(method, units=units)
    widths = {n: w for n, w in done.structure.widths.items() if n not in (done.structure.blocks or {})}
    assert all(after % 2 == 0 or after == before for before, after in widths.values())
    assert any(after < before for before, after in widths.values())
    assert done.cost.final.macs <= 0.6 * done.cost.dense.macs
    assert store.as_table(done)["spec"]["budget"]["round_to"] == 2
    found = checks(spec, options)
    assert {outcome for outcome, _ in found.values()} == {"ok"}
    assert found["widths in whole steps"][1] == "multiples of 2 channels, or full"
    request, _ = rerun.request_of(done)
    assert resolve(request)[0] == [spec]
    words = request.to_words()
    assert words[words.index("--round-to") + 1] == "2"
    again = execute(spec, dataclasses.replace(options, out=tmp_path / "again"))
    assert rerun.parts_that_differ(done, again) == []


def test_widths_that_are_no_steps_fail(finished, make_run):
    """In a run the method is named; in a record the check of level 1 finds them."""
    budget = Budget(keep_macs=0.95, round_to=4)
    with pytest.raises(
        RunFailed, match=r"mask for site 0 keeps 7 of 8 units; --round-to 4 asks for a multiple of 4"
    ) as failed:
        execute(*make_run("odd_widths", keep=budget))
    assert failed.value.blame == "method"
    spec, done, options = finished("odd_widths", keep=0.95)
    forged = dataclasses.replace(spec, budget=budget)
    table = copy.deepcopy(store.as_table(done)) | {"id": forged.id, "spec_sha256": forged.sha256}
    del table["record_sha256"]
    path = store.path_of(options.out, forged)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(line(seal(table | {"spec": forged.as_dict()})))
    outcome, detail = checks(forged, options)["widths in whole steps"]
    assert outcome == "FAILED" and detail.startswith("site 0 keeps 7 of 8 units")


def test_step_of_one_is_in_no_specification(make_run):
    plain, _ = make_run(keep=Budget(keep_macs=0.5))
    one, _ = make_run(keep=Budget(keep_macs=0.5, round_to=1))
    eight, _ = make_run(keep=Budget(keep_macs=0.5, round_to=8))
    assert one == plain and one.id == plain.id != eight.id
    assert "round_to" not in one.as_dict()["budget"]
    assert [Spec.from_dict(spec.as_dict()) for spec in (one, eight)] == [one, eight]
    assert (plain.prunable, eight.prunable) == ("inner", "inner step 8")
    assert eight.name == plain.name
    (swept, *more) = RunRequest.from_table({"method": "m", "arch": "a", "round_to": [1, 8]}, "here")
    assert (swept.round_to, [other.round_to for other in more]) == (1, [8])


def test_control_of_a_run_in_steps_has_its_widths(ran):
    """Other units, as many in each site; it is verified without a step."""
    spec, done, options = ran()
    file = store.path_of(options.out, spec)
    asked = {"method": "l1_norm", "like": str(file), "round_to": 1, "keep_macs": None}
    [control], _ = resolve(dataclasses.replace(rerun.request_of(done)[0], **asked))
    assert control.budget.widths == tuple(after for _, after in done.structure.widths.values())
    assert control.budget.step == 1 and all(width % 2 == 0 for width in control.budget.widths)
    again = execute(control, options)
    assert again.structure.widths == done.structure.widths
    assert {outcome for outcome, _ in checks(control, options).values()} == {"ok"}


def test_words_that_do_not_go_together():
    for words, why in (
        (("--native", "--round-to", "8"), "--native: the method chooses by itself, without .* and --round-to"),
        (("--like", "x", "--round-to", "8"), "--like: the record says how many units stay, without --round-to"),
        (("--units", "depth", "--round-to", "8"), "--round-to: with --units depth no widths are pruned"),
        (("--round-to", "0"), "--round-to 0: at least 1 channel"),
    ):
        with pytest.raises((WordsError, UsageError), match=why):
            resolve(request_of("-m", "dropnet", "-a", "resnet20", *words))


def test_a_step_that_costs_too_much_is_refused_before_any_training(make_run, tmp_path):
    """The widths of 4 stay whole, those of 8 too: the floor is the dense network."""
    runs = [make_run("random", "check_depth", "check_images", keep=Budget(keep_macs=0.6, round_to=n)) for n in (8, 4)]
    why = r"0\.6 of the MACs in steps of {} channels cannot be met: 1 unit\(s\), rounded up to \d channels, in each"
    way = r"of the 6 sites already cost 1\.0000, the least of such steps; .* --round-to 1, which goes down to 0\.2583"
    with pytest.raises(UsageError, match=f"{why.format(8)} {way}"):
        execute(*runs[0])
    with pytest.raises(UsageError, match=why.format(4)):
        require_reachable([runs[1][0]], tmp_path, None)
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("bases/*"))
    fits, _ = make_run("random", "check_depth", "check_images", keep=Budget(keep_macs=0.95, round_to=4))
    require_reachable([fits], tmp_path, None)
