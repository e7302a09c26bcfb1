"""CPU seconds of short runs: a process for each, and workers that import once, one or several at a time.

Two sweeps of different length separate the start of a worker from its runs. What is counted is CPU time: runs an hour
follow from it where each worker has a core to itself. The base is trained before.

    python -m tools.timing.packing [--runs 12] [--arch resnet20] [--epochs 0] [--workers 1,2]
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.cli import parser
from bench.cli.sweep import specs_of
from bench.records import store
from bench.runs.execute import train_base
from bench.spec.request import RunOptions
from bench.spec.spec import Spec
from slurm.launch import Request, plan
from slurm.profile import Profile
from slurm.script import command
from slurm.states import query_states

SWEEP = """
[[runs]]
method = "l1_norm"
arch = "{arch}"
keep_macs = [{shares}]
settings = {{ "train.epochs" = 2, "finetune.epochs" = {epochs} }}
"""
SHORT = 4
"""The shorter sweep has so many times fewer runs."""


def specs(folder: Path, out: Path, arch: str, epochs: int, runs: int) -> tuple[list[Spec], RunOptions]:
    """Runs that differ in their budgets a little: one base, equal work, none another's repetition."""
    file = folder / "sweep.toml"
    shares = ", ".join(f"{0.5 + k / 1000:.3f}" for k in range(runs))
    file.write_text(SWEEP.format(arch=arch, shares=shares, epochs=epochs))
    return specs_of(
        file,
        parser().parse_args(["sweep", str(file), "--out", str(out), "--threads", "1", "-q", "--cluster", "inline"]),
    )


def alone(runs: list[Spec], options: RunOptions) -> list[subprocess.Popen[bytes]]:
    """A process for each run, one after the other; the last one is still to be waited for."""
    processes = []
    for spec in runs:
        file = options.out / f"{spec.id}.toml"
        assert spec.budget is not None
        file.write_text(SWEEP.format(arch=spec.arch, shares=spec.budget.keep_macs, epochs=spec.recipe.finetune.epochs))
        words = ["sweep", str(file), "--out", str(options.out), "--threads", "1", "-q", "--cluster", "inline"]
        processes.append(subprocess.Popen([sys.executable, "-m", "bench", *words], stdout=subprocess.DEVNULL))
        os.waitid(os.P_PID, processes[-1].pid, os.WEXITED | os.WNOWAIT)
    return processes


def together(runs: list[Spec], options: RunOptions, workers: int) -> list[subprocess.Popen[bytes]]:
    """The processes of ``bench sweep --cluster local``, which share the runs."""
    request = Request(runs, options, (), "local", Profile(), "packing", jobs=workers)
    before = query_states(runs, options.out)
    ((batch, _),) = plan(request, before, before.states, 1, [])
    batch = replace(batch, jobs=tuple(map(str, range(workers))))
    batch.write()
    where, null = {**os.environ, "SUBMITIT_LOCAL_JOB_ID": "0"}, subprocess.DEVNULL
    return [
        subprocess.Popen(shlex.split(command(batch, None, number)), env=where, stdout=null, stderr=null)
        for number in range(workers)
    ]


def cpu_seconds(processes: list[subprocess.Popen[bytes]]) -> float:
    """CPU time of processes and of what they waited for."""
    spent = 0.0
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"a process ended with status {status}")
        spent += usage.ru_utime + usage.ru_stime
    return spent


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--runs", type=int, default=12, help="of the longer sweep")
    words.add_argument("--arch", default="resnet20")
    words.add_argument("--epochs", type=int, default=0, help="of fine-tuning")
    words.add_argument("--workers", default="1,2")
    chosen = words.parse_args()
    modes = [int(number) for number in chosen.workers.split(",")]
    few, many = max(2, chosen.runs // SHORT), chosen.runs
    out = Path(tempfile.mkdtemp(prefix="packing-"))
    rest, options = specs(out, out, chosen.arch, chosen.epochs, few + (few + many) * len(modes))
    os.environ["OMP_NUM_THREADS"] = "1"
    train_base(rest[0], options)

    def measured(count: int, workers: int) -> float:
        """CPU seconds of the next runs, so many of them."""
        runs, rest[:count] = rest[:count], []
        spent = cpu_seconds(together(runs, options, workers) if workers else alone(runs, options))
        missing = [spec.id for spec in runs if store.load(store.path_of(out, spec)).status != "ok"]
        assert not missing, missing
        return spent

    short = {mode: measured(few, mode) for mode in modes}
    single = measured(few, 0) / few
    each = {mode: (measured(many, mode) - short[mode]) / (many - few) for mode in modes}
    print(f"l1_norm on {chosen.arch}, digits, {chosen.epochs} epochs after the prune; CPU seconds")
    print(f"  a process for each run: {single:.2f} a run, {3600 / single:.0f} runs an hour on a core")
    for mode in modes:
        start, rate = (short[mode] - each[mode] * few) / mode, 3600 * mode / each[mode]
        alike, gain = rate * single / 3600, mode * each[modes[0]] / modes[0] / each[mode]
        print(f"  {mode} at a time: {each[mode]:.2f} a run, {start:.1f} to start a worker; on as many cores "
              f"{rate:.0f} runs an hour, {alike:.1f} times one process for each, "
              f"{gain:.2f} times {modes[0]} at a time")  # fmt: skip


if __name__ == "__main__":
    main()
