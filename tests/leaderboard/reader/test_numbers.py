"""Derived numbers are the same on every processor: rounded where they are made, compared within what that loses."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from support.boards import load, plan_for
from support.made_records import put, seeds
from support.paths import ROOT

from leaderboard.lint.check import check_text
from leaderboard.reader.numbers import agrees, derived
from leaderboard.render.fields import FIELDS
from leaderboard.render.tables import FORMATS, render
from leaderboard.stats import compare, contrasts, cross_table, statistics, verdicts
from leaderboard.stats.boards import build

RECORDS = (
    *seeds("dense", [5, 6, 4, 5, 6], keep=None),
    *(each for keep in (0.5, 0.3) for each in seeds("random", [30, 31, 33, 29, 30], keep=keep, cost=1.1)),
    *(each for keep in (0.5, 0.3) for each in seeds("fpgm", [22, 21, 24, 20, 27], keep=keep)),
    *(each for keep in (0.5, 0.3) for each in seeds("taylor", [19, 25, 23, 18, 22], keep=keep, cost=1.7)),
)
LAST_BITS = {
    **{f"statistics.{name}": (statistics, name) for name in ("polygamma", "stdtrit", "ndtri")},
    **{f"contrasts.{name}": (contrasts, name) for name in ("digamma", "polygamma", "stdtr", "stdtrit", "fdtri")},
    **{f"verdicts.{name}": (verdicts, name) for name in ("stdtr", "stdtrit", "nctdtrinc")},
    **{name: (math, name) for name in ("log", "exp", "sqrt")},
}
"""Functions whose last bits are the library's or the processor's own affair: name -> where they are looked up."""


def boards(folder):
    return build(load(folder), [plan_for(RECORDS)])[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return put(tmp_path_factory.mktemp("records"), *RECORDS)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param((*LAST_BITS,), id="all"),
        *(pytest.param((name,), id=name, marks=pytest.mark.slow) for name in LAST_BITS),
    ],
)
def test_last_bits_change_no_byte_and_no_finding(folder, monkeypatch, names):
    """The error of library functions moves by a few units in the last place: every format stays as it is."""
    made = boards(folder)
    before = {fmt: render(made, fmt) for fmt in FORMATS}
    statistics.student_quantile.cache_clear()
    with monkeypatch.context() as patch:
        for name in names:
            module, attribute = LAST_BITS[name]
            exact = getattr(module, attribute)
            patch.setattr(module, attribute, lambda *values, exact=exact: exact(*values) * (1 + 3e-16))
        assert {fmt: render(boards(folder), fmt) for fmt in FORMATS} == before
        assert [check_text(text, fmt, made) for fmt, text in before.items()] == [[]] * len(before)
    statistics.student_quantile.cache_clear()


def test_every_derived_number_has_twelve_digits(folder):
    found = boards(folder)
    rows = [row for board in json.loads(render(found, "json"))["boards"] for t in board["tables"] for row in t["rows"]]
    numbers = [row[key] for row in rows for key, field in FIELDS.items() if field.kind == "number"]
    numbers += [value for one in compare.compare(found, "fpgm", "random") for value in numbers_of(one)]
    ranking = cross_table.ranking(found)
    numbers += [*numbers_of(ranking), *(rank for _, rank in ranking.ranks)] if ranking else []
    known = [value for value in numbers if value is not None]
    assert len(known) > 100
    assert [value for value in known if value != derived(value)] == []


def numbers_of(instance):
    values = [getattr(instance, field.name) for field in dataclasses.fields(instance)]
    return [value for value in values if isinstance(value, float)]


def test_values_of_a_record_stay_exact(folder):
    losses = {run.loss for board in boards(folder) for t in board.tables for row in t.rows for run in row.runs}
    assert losses <= {found["metrics"]["final"]["loss"] for found in RECORDS}
    assert any(loss != derived(loss) for loss in losses)


@given(some.floats(1e-300, 1e300), some.floats(-4e-16, 4e-16))
def test_rounded_values_agree(value, error):
    assert agrees(derived(value * (1 + error)), value)
    assert derived(derived(value)) == derived(value)
    assert (derived(1 / 3), derived(2 / 3e9), derived(0.0)) == (0.333333333333, 6.66666666667e-10, 0.0)
    assert not agrees(0.853076123456, 0.853076223456)


@pytest.mark.slow
def test_committed_tables_hold_without_vector_instructions():
    """In a process whose numpy uses the least that the processor has, and torch and glibc likewise."""
    features = np._core._multiarray_umath.__cpu_features__
    off = [name for name in np._core._multiarray_umath.__cpu_dispatch__ if features.get(name)]
    less = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(off),
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F,-AVX512VL",
    }
    script = (
        "import sys, pathlib, leaderboard\n"
        "from leaderboard.lint.check import check\n"
        "from leaderboard.reader import latency_files\n"
        "from leaderboard.render import tables\n"
        "from leaderboard.stats import boards\n"
        "from bench.cli.board import read_plans\n"
        "plans = read_plans([pathlib.Path('leaderboard/plans/digits-resnet20.toml')])\n"
        "frame, latencies = leaderboard.load('leaderboard/records', cache=False), latency_files.load()\n"
        "made = boards.build(frame, plans, latencies)[0]\n"
        "for file in map(pathlib.Path, sys.argv[1:]):\n"
        "    same = file.read_text() == tables.render(made, tables.ENDINGS[file.suffix])\n"
        "    print(file.name, same, len(check(file, made)))\n"
    )
    files = ["leaderboard/tables/board.json", "leaderboard/tables/board.md"]
    done = subprocess.run(
        [sys.executable, "-c", script, *files],
        cwd=ROOT,
        env=os.environ | less,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["board.json True 0", "board.md True 0"]
