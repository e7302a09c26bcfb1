"""Verify a record: recompute what it claims. Needs no GPU, and data only to evaluate a stored network again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.errors import BenchError, SetupError
from bench.measure import flops
from bench.measure.accuracy import correct, logits_of
from bench.records import bits, latency_files, store, training_checks
from bench.records.schema import Finished, Record, finished
from bench.runs.artifacts import RunArtifacts
from bench.spec.spec import Budget

LEVELS = ("form", "self", "cross", "weights", "replayed")
"""What is known of a record, level by level: its form; what it says of itself; it compared with all records and the
repository's history; its stored network evaluated again; the run done again by somebody else."""
TOLERANCE = 1e-3
"""Share of the test images on which another machine's arithmetic may decide otherwise; one image at least."""


@dataclass(frozen=True)
class Check:
    """One line of a verification: ``ok``, ``FAILED`` or ``not run`` (with the reason), and which level it is of."""

    name: str
    outcome: str
    detail: str = ""
    level: int = 0


def level_of(checks: Iterable[Check]) -> int | None:
    """The highest level that a record reaches: nothing at or below it failed, something of it holds; None for none."""
    failed = min((check.level for check in checks if check.outcome == "FAILED"), default=len(LEVELS))
    return max((check.level for check in checks if check.outcome == "ok" and check.level < failed), default=None)


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
    checks = [Check("form, bounds and own hash", "ok")]

    def check(level: int, name: str, test: Callable[[], str]) -> None:
        try:
            checks.append(Check(name, "ok", test(), level))
        except SetupError as why:
            checks.append(Check(name, "not run", str(why), level))
        except (BenchError, AssertionError, KeyError, TypeError, ValueError, RuntimeError) as error:
            checks.append(Check(name, "FAILED", str(error) or type(error).__name__, level))

    check(0, "file name", lambda: _identity(found, path))
    if not finished(found):
        message = found.error.message if found.error else ""
        checks.append(Check("numbers", "not run", f"the run {found.status}: {message}"))
        return checks
    subject = _Subject(found, out)
    check(1, "plan, epochs, work and accuracies", lambda: _believable(found))
    check(1, "MACs and params from widths", subject.costs)
    if found.spec.budget and found.spec.budget.step > 1:
        check(1, "widths in whole steps", subject.check_steps)
    check(1, "plan of the method", subject.check_plan)
    check(1, "data set and its split", lambda: subject.check_data(data_dir))
    check(1, "worst class from labels", lambda: subject.worst_class(data_dir))
    check(3, "masks", subject.check_masks)
    if found.latency is not None:
        check(3, "widths from scores, table and rounds", subject.check_latency)
    check(3, "stored network", subject.check_file)
    check(3, "accuracy of the stored network", lambda: subject.evaluate(data_dir))
    return checks


def verify_latency(file: Path) -> list[Check]:
    """The checks of a file of latencies: its lines, and their numbers computed again from the samples next to it."""
    lines, problems = latency_files.read(file)
    listed = [Check(f"line {problem.line}", "FAILED", problem.message) for problem in problems]
    checks = listed or [Check("form, bounds and own hash of each line", "ok", f"{len(lines)} lines")]
    try:
        wrong = list(latency_files.check_samples(lines.values(), latency_files.read_samples(file)))
    except store.RecordError as error:
        return [*checks, Check("numbers from the samples", "FAILED", str(error))]
    found = [Check(f"{key.runtime}, batch {key.batch}, {key.widths_sha256[:12]}", "FAILED", why) for key, why in wrong]
    return checks + (found or [Check("numbers from the samples", "ok")])


def _identity(found: Record, path: Path) -> str:
    assert found.id == store.id_of(path), f"the record's name is {found.id}"
    return ""


def _believable(found: Finished) -> str:
    problems = list(training_checks.of_record(found))
    assert not problems, "; ".join(problems)
    return ""


class _Subject:
    """The network a record speaks of, and what can be asked of it."""

    def __init__(self, found: Finished, out: Path) -> None:
        self.record, self.stored = found, RunArtifacts(found, out)

    def costs(self) -> str:
        """Recount the sliced network from the recorded widths, with the model and with fvcore."""
        sliced, model = self.stored.shaped("final"), self.stored.model()
        total = flops.count(sliced, self.stored.shape).total
        counted = {
            "dense": (*self.stored.dense_cost(), model.macs(model.dense)),
            "final": (total, flops.parameters(sliced), model.macs(model.array(self.stored.any_masks()))),
        }
        for which, claimed in (("dense", self.record.cost.dense), ("final", self.record.cost.final)):
            macs, params, modelled = counted[which]
            assert claimed.macs == macs == modelled, f"{which}: {claimed.macs:,} MACs claimed, {macs:,} counted"
            assert claimed.params == params, f"{which}: {claimed.params:,} params, not {params:,}"
        return f"{claimed.macs:,} MACs, {claimed.params:,} params"

    def check_steps(self) -> str:
        """Every width is a multiple of the step that was asked for, or full."""
        budget = self.record.spec.budget or Budget()
        assert not (why := self.stored.model().misfit(budget, self.stored.any_masks())), why
        return f"multiples of {budget.step} channels, or full"

    def check_plan(self) -> str:
        """The plan is that which the method makes of recipe, budget and options."""
        expected, starts_from = self.stored.plan()
        training = self.record.training
        claimed = [step if step == "prune" else (step.epochs, step.part, step.rewind) for step in training.plan]
        assert starts_from == training.starts_from, f"starts from {training.starts_from}, not {starts_from}"
        assert claimed == expected, f"training.plan is {_words(claimed)}, of the method {_words(expected)}"
        return _words(claimed)

    def check_data(self, data_dir: Path) -> str:
        """Sizes, classes, hashes and split are those of the data set, the worst class that of the bits."""
        facts = self.stored.data_facts(data_dir)
        claimed = self.record.data
        for key, value in facts.items():
            own = getattr(claimed, key)
            found = list(own) if isinstance(own, tuple) else own
            assert found in (None, value), f"data.{key} is {found}, of {self.record.spec.dataset} it is {value}"
        return f"{claimed.train} + {claimed.val} + {claimed.test} images"

    def check_masks(self) -> str:
        """Stored masks have the recorded hash and widths."""
        after = {name: w[1] for name, w in self.record.structure.widths.items()}
        assert {n: int(m.sum()) for n, m in self.stored.masks().items()} == after, "masks and widths differ"
        return ""

    def check_latency(self) -> str:
        """The recorded rounds, and the masks, follow from scores, latency table and what was measured."""
        return self.stored.check_latency()

    def worst_class(self, data_dir: Path) -> str:
        """The share of right images of the worst class is that of the recorded bits."""
        metrics = self.record.metrics.final
        labels = self.stored.test_labels(data_dir)
        right = torch.from_numpy(bits.unpack(metrics.correct, len(labels)))
        of_class = {int(label): float(right[labels == label].double().mean()) for label in labels.unique()}
        own, least = of_class.get(metrics.worst_class), min(of_class.values())
        said = f"class {metrics.worst_class} at {metrics.worst_class_top1:.4f}"
        assert own == least and math.isclose(own, metrics.worst_class_top1, rel_tol=1e-9, abs_tol=1e-12), (
            f"{said} claimed, by labels and bits the least is {least:.4f}"
        )
        return said

    def check_file(self) -> str:
        """The stored network has the recorded hash and fits the masks."""
        self.stored.final()
        return ""

    def evaluate(self, data_dir: Path) -> str:
        """Evaluate the stored network on the test images again."""
        network, test = self.stored.final(), self.stored.test_images(data_dir)
        right = correct(logits_of(network, test), test.labels)
        again, claimed = right.double().mean().item(), self.record.metrics.final
        tolerance = max(TOLERANCE, 1.5 / len(test))
        assert abs(again - claimed.top1) <= tolerance, f"top-1 {again:.4f}, claimed {claimed.top1:.4f}"
        other = int((right != torch.from_numpy(bits.unpack(claimed.correct, len(test)))).sum())
        assert other <= tolerance * len(test), f"{other} of {len(test):,} images are right here or there only"
        return f"top-1 {again:.4f}"


def _words(plan: Sequence[Any]) -> str:
    return " ".join(step if step == "prune" else f"{step[1]} {step[0]}" for step in plan)
