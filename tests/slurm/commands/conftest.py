"""Fixtures: commands in this process and as processes of their own."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from support.command_tools import jobs_below
from support.paths import ROOT

from bench.cli import main
from bench.spec.registry import ARCHS, DATASETS, METHODS, PLUGINS


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    """No plugin is known, and nothing is found in the folder one is in."""
    for registry in (METHODS, ARCHS, DATASETS):
        registry._plugins = {}
    PLUGINS.clear()
    for name in [name for name in os.environ if name.startswith(("SLURM", "SUBMITIT"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)  # which Python's readline sets
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def bench(capsys):
    """One command in this process: exit code, stdout, stderr."""

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def start(tmp_path):
    """Starts commands as processes; what they have started is ended after the test, if it is still there."""
    started = []

    def run(*words, **how):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "bench", *map(str, words)]
        names = [tmp_path / f"{len(started)}.{name}" for name in ("out", "err")]
        with names[0].open("w") as out, names[1].open("w") as err:
            how = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, "env": env, "cwd": tmp_path} | how
            started.append(subprocess.Popen(command, **how))
        started[-1].files = names
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
    for number in jobs_below(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
