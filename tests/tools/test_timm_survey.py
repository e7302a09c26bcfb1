"""The survey of timm's networks: what it says still holds, and an interrupted one goes on."""

import csv
import importlib.util
import os
import signal
from types import SimpleNamespace

import pytest

from bench.conformance.architecture_check import Request, examine
from bench.models.timm_models import timm_names
from tools import timm_survey

ROWS = {row["model"]: row for row in timm_survey.read()}
CHEAP = (
    "starnet_s050",
    "ese_vovnet19b_slim_dw",
    "mobilenetv3_small_050",
    "convnext_zepto_rms",
    "resnet10t",
    "darknet17",
)
CHEAP += ("fasternet_t0", "edgenext_xx_small", "regnetx_002", "mobilevit_xxs", "convnextv2_atto", "nf_regnet_b0")
ASKED = ROWS if os.environ.get("BENCH_TIMM") == "all" else CHEAP


def test_rows_are_98_families_with_an_outcome_each():
    assert len(ROWS) == 98 == len({row["family"] for row in ROWS.values()})
    assert list(next(iter(ROWS.values()))) == list(timm_survey.COLUMNS)
    passed = [row for row in ROWS.values() if row["outcome"] == "pass"]
    assert len(passed) >= 92
    assert all(int(row["sites"]) > 0 and not row["why"] for row in passed if row["coupling"] == "inner")
    assert all(row["why"] for row in ROWS.values() if row["outcome"] != "pass")
    assert all(float(row["sites_s"]) <= 10 for row in passed)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra timm")
@pytest.mark.parametrize("name", ASKED)
def test_a_network_is_as_the_survey_says(name):
    """BENCH_TIMM=all asks all of them."""
    if name not in timm_names():
        pytest.skip(f"missing: this version of timm has no {name}")
    row, found = ROWS[name], examine(f"timm:{name}", Request())
    assert (found.outcome, found.shape and str(found.shape[-1])) == (row["outcome"], row["side"])
    assert (found.coupling, str(found.sites), str(found.units)) == (row["coupling"], row["sites"], row["units"])
    if found.outcome == "pass":
        assert found.difference <= 1e-12
        assert f"{found.least:.4f}" == (row["least"] or row["least_full"])
    else:
        assert found.why == row["why"]


@pytest.fixture
def rows_of_two(tmp_path):
    """A file of two networks, the first of which has an outcome."""
    file = tmp_path / "rows.csv"
    timm_survey.write(file, [{"family": "a", "model": "done", "outcome": "pass"}, {"family": "b", "model": "new"}])
    return file


def test_what_is_there_is_kept_and_the_rest_is_filled(rows_of_two, monkeypatch):
    asked = []

    def answer(name, step, cpu_s, gb):
        asked.append((name, step))
        assert (cpu_s, gb) == (timm_survey.CPU_S, timm_survey.GB)
        found = {"outcome": "skipped", "why": "none, at all", "shape": (3, 32, 32), "coupling": "inner", "sites": 0}
        return found | {"least": 0.25 if step == "full" else None, "seconds": None}

    monkeypatch.setattr(timm_survey, "_in_process", answer)
    assert timm_survey.main(["--file", str(rows_of_two)]) == 0
    new = ("new", "inner"), ("new", "full"), ("new", "torch-pruning")
    assert asked == [("done", "full"), ("done", "torch-pruning"), *new]
    with rows_of_two.open(newline="") as lines:
        done, row = csv.DictReader(lines)
    assert (done["outcome"], done["least_full"], done["sites"]) == ("pass", "0.2500", "")
    assert (row["outcome"], row["side"], row["why"], row["family"]) == ("skipped", "32", "none, at all", "b")
    asked.clear()
    assert timm_survey.main(["--file", str(rows_of_two), "--steps", "full", "done"]) == 0
    assert asked == [("done", "full")]


@pytest.mark.parametrize(
    ("code", "why"),
    [(-signal.SIGXCPU, "takes more than 60 s of CPU time"), (3, "its process ended with 3")],
)
def test_a_process_that_ends_is_an_answer(monkeypatch, code, why):
    def nothing(*_, **__):
        raise EOFError

    end = SimpleNamespace(recv=nothing, close=lambda: None)
    worker = SimpleNamespace(start=lambda: None, join=lambda: None, exitcode=code)
    context = SimpleNamespace(set_forkserver_preload=list, Pipe=lambda duplex: (end, end), Process=lambda **_: worker)
    monkeypatch.setattr(timm_survey.multiprocessing, "get_context", lambda kind: context)
    assert timm_survey._in_process("name", "inner", 60, 8) == {"outcome": "FAILED", "why": why}
