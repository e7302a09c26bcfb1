"""Whole runs for tests of methods: verified, without a budget, stopped after every checkpoint."""

import dataclasses
import signal

from bench.records import store
from bench.runs.execute import execute
from bench.runs.verify import verify_file
from bench.training.loop import PhaseTrainer


def without_budget(made):
    """Specification and options of a run in the native budget mode."""
    spec, options = made
    return dataclasses.replace(spec, budget=None), options


def verified(made):
    """The record of a run, after ``bench verify`` found nothing wrong with it."""
    spec, options = made
    done = execute(spec, options)
    checks = verify_file(store.path_of(options.out, spec), options.out, options.data_dir)
    assert [c.outcome for c in checks] == ["ok"] * 10, checks
    if "prune" in done.training.plan:
        assert done.structure.gate_slice_difference <= 1e-4
    return done


def stopped_everywhere(made, monkeypatch):
    """The record of a run that SIGTERM stops after every checkpoint it writes, and the number of stops."""
    save, stops = PhaseTrainer.save, 0

    def save_and_stop(self, position):
        save(self, position)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(PhaseTrainer, "save", save_and_stop)
        while True:
            try:
                return execute(*made), stops
            except KeyboardInterrupt:
                stops += 1
