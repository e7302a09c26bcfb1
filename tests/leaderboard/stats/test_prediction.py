"""The interval of one more run."""

import dataclasses
import math

import pytest
from support.records import SPEC, changed, ended, finished, quality, record

from bench.records import store
from leaderboard.stats.prediction import other_seeds, predict
from leaderboard.stats.statistics import student_quantile


def run(top1, images=1000, seed=0):
    spec = dataclasses.replace(SPEC, seed=seed)
    found = changed(finished(spec), ("data", "test"), images)
    for which in ("dense", "pruned", "final"):
        found["metrics"][which] = quality(examples=images, top1=top1, top5=1.0, worst_class_top1=0.0)
    return record(found)


def test_the_prediction_from_other_runs():
    expected = predict(run(0.1), [run(top1) for top1 in (0.5, 0.6, 0.7)])
    half = student_quantile(2) * 0.1 * math.sqrt(4 / 3)
    assert (expected.low, expected.high) == (pytest.approx(0.6 - half), 1.0)
    assert expected.runs == 3
    assert expected.holds(0.6 - half + 1e-9)
    assert not expected.holds(0.6 - half - 1e-9)
    many = predict(run(0.1), [run(0.5), run(0.6)] * 40)
    assert many.high - many.low == pytest.approx(2 * student_quantile(79) * 0.05032 * math.sqrt(1 + 1 / 80), rel=1e-3)


def test_equal_runs_predict_no_closer_than_rounding():
    expected = predict(run(0.5), [run(0.5)] * 4)
    assert expected.high - 0.5 == pytest.approx(student_quantile(3) * math.sqrt(1 / 12) / 1000 * math.sqrt(1.25))


@pytest.mark.parametrize("others", [0, 2])
def test_the_prediction_from_the_record_alone(others):
    expected = predict(run(0.5), [run(0.9)] * others)
    assert expected.runs == 0
    assert (expected.low, expected.high) == (
        pytest.approx(0.5 - 1.96 * math.sqrt(0.5 / 1000), rel=1e-5),
        pytest.approx(0.5 + 1.96 * math.sqrt(0.5 / 1000), rel=1e-5),
    )
    assert "alone" in str(expected)
    sure = predict(run(1.0, images=40), [])
    assert sure.holds(39 / 40)
    assert not sure.holds(0.8)


def test_other_seeds_of_the_specification(tmp_path):
    def put(found, name=None):
        path = tmp_path / (name or f"{found.id}.json")
        path.write_bytes(store.encode(found))
        return path

    given = run(0.5)
    path = put(given)
    assert other_seeds(path, given) == []
    for seed in (1, 2, 3):
        put(run(0.6, seed=seed))
    put(run(0.7), f"{given.id[:12]}-s0-copy.json")  # the same run under another name
    put(record(changed(store.as_table(run(0.7, seed=4)), ("data", "test_sha256"), "f" * 64)))
    put(record(ended(spec=dataclasses.replace(SPEC, seed=5))))
    put(run(0.9, seed=6)).write_text("{")
    assert [found.spec.seed for found in other_seeds(path, given)] == [1, 2, 3]
