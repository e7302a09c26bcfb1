"""Verify a record: recompute what it claims. Needs no GPU, and data only to evaluate a stored network again."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError, SetupError
from bench.measure import flops
from bench.measure.accuracy import logits_of, quality
from bench.records import store
from bench.runs.artifacts import Stored
from bench.spec.spec import Spec

TOP1_TOLERANCE = 1e-3
"""Difference in top-1 that another machine's arithmetic may make; one image at least."""


@dataclass(frozen=True)
class Check:
    """One line of a verification: ``ok``, ``FAILED`` or ``not run`` (with the reason)."""

    name: str
    outcome: str
    detail: str = ""


def verify_file(path: Path, out: Path, data_dir: Path) -> list[Check]:
    """All checks of one record, in rising cost.

    Args:
        path: the record.
        out: output folder with the record's artifacts.
        data_dir: data sets, to evaluate the stored network again.
    """
    try:
        found = store.load(path)
    except store.RecordError as error:
        return [Check("form", "FAILED", str(error))]
    checks = [Check("form and bounds", "ok")]

    def check(name: str, test: Callable[[], str]) -> None:
        try:
            checks.append(Check(name, "ok", test()))
        except SetupError as why:
            checks.append(Check(name, "not run", str(why)))
        except (BenchError, AssertionError, KeyError, TypeError, ValueError, RuntimeError) as error:
            checks.append(Check(name, "FAILED", str(error) or type(error).__name__))

    check("own hash", lambda: _own_hash(found))
    check("specification's hash and file name", lambda: _identity(found, path))
    if found["status"] != "ok":
        checks.append(Check("numbers", "not run", f"the run {found['status']}: {found['error']['message']}"))
        return checks
    subject = _Subject(found, out)
    check("latency from its samples", lambda: _latency(found))
    check("MACs and params from widths", subject.costs)
    check("masks", subject.check_masks)
    check("stored network", subject.check_file)
    check("accuracy of the stored network", lambda: subject.evaluate(data_dir))
    return checks


def _own_hash(found: Mapping[str, Any]) -> str:
    assert store.intact(found), "the content is not what was hashed"
    return ""


def _identity(found: Mapping[str, Any], path: Path) -> str:
    spec = Spec.from_dict(found["spec"])
    assert spec.sha256 == found["spec_sha256"], "spec_sha256 is not the hash of the specification"
    assert spec.recipe.sha256 == found["spec"]["recipe_sha256"], "recipe_sha256 is not the hash of the recipe"
    assert found["id"] == spec.id == path.stem, f"the specification's name is {spec.id}"
    return ""


def _latency(found: Mapping[str, Any]) -> str:
    for timing in found["latency"]:
        for key in ("dense", "sliced"):
            samples, claimed = timing[f"{key}_samples_ms"], timing[f"{key}_ms"]
            where = f"{timing['runtime']}, batch {timing['batch']}: {key}"
            assert min(samples) > 0, f"{where} took {min(samples)} ms once"
            assert math.isclose(statistics.median(samples), claimed, rel_tol=1e-9), (
                f"{where}_ms is {claimed}, the median of its samples {statistics.median(samples)}"
            )
    return ""


class _Subject:
    """The network a record speaks of, and what can be asked of it."""

    def __init__(self, found: Mapping[str, Any], out: Path) -> None:
        self.record, self.stored = found, Stored(found, out)

    def costs(self) -> str:
        """Recount the sliced network from the recorded widths, with the model and with fvcore."""
        sliced, model = self.stored.shaped("final"), self.stored.model()
        before, after = ({name: w[k] for name, w in self.record["structure"]["widths"].items()} for k in (0, 1))
        total = flops.count(sliced, self.stored.shape).total
        counted = {
            "dense": (*self.stored.dense_cost(), model.macs(model.array(before))),
            "final": (total, flops.parameters(sliced), model.macs(model.array(after))),
        }
        claimed = self.record["cost"]
        for which, (macs, params, modelled) in counted.items():
            assert claimed[which]["macs"] == macs == modelled, (
                f"{which}: {claimed[which]['macs']:,} MACs claimed, {macs:,} counted"
            )
            assert claimed[which]["params"] == params, f"{which}: {claimed[which]['params']:,} params, not {params:,}"
        return f"{claimed['final']['macs']:,} MACs, {claimed['final']['params']:,} params"

    def check_masks(self) -> str:
        """Stored masks have the recorded hash and widths."""
        after = {name: w[1] for name, w in self.record["structure"]["widths"].items()}
        assert {n: int(m.sum()) for n, m in self.stored.masks().items()} == after, "masks and widths differ"
        return ""

    def check_file(self) -> str:
        """The stored network has the recorded hash and fits the masks."""
        self.stored.final()
        return ""

    def evaluate(self, data_dir: Path) -> str:
        """Evaluate the stored network on the test images again."""
        network, test = self.stored.final(), self.stored.test_images(data_dir)
        again = quality(logits_of(network, test), test.labels)["top1"]
        claimed = self.record["metrics"]["final"]["top1"]
        tolerance = max(TOP1_TOLERANCE, 1.5 / len(test))
        assert abs(again - claimed) <= tolerance, f"top-1 {again:.4f}, claimed {claimed:.4f}"
        return f"top-1 {again:.4f}"
