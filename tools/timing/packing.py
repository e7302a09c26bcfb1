"""CPU seconds of short runs: a process for each, and workers that import once, one or several at a time.

The modes take turns with equal shares of the runs, so a loaded machine slows all of them alike. What is counted is CPU
time, imports included; where each worker has a core to itself, runs an hour follow from it. The base is trained before.

    python -m tools.timing.packing [--runs 12] [--arch resnet20] [--epochs 0] [--workers 1,2]
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
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
ROUNDS = 2


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
    words.add_argument("--runs", type=int, default=12, help="of each mode")
    words.add_argument("--arch", default="resnet20")
    words.add_argument("--epochs", type=int, default=0, help="of fine-tuning")
    words.add_argument("--workers", default="1,2")
    chosen = words.parse_args()
    numbers = [int(number) for number in chosen.workers.split(",")]
    modes = [0, *numbers]
    out = Path(tempfile.mkdtemp(prefix="packing-"))
    all_runs, options = specs(out, out, chosen.arch, chosen.epochs, chosen.runs * len(modes))
    os.environ["OMP_NUM_THREADS"] = "1"
    train_base(all_runs[0], options)
    cpu = dict.fromkeys(modes, 0.0)
    wall = dict(cpu)
    share = chosen.runs // ROUNDS
    for number in range(ROUNDS * len(modes)):
        mode, runs = modes[number % len(modes)], all_runs[share * number : share * (number + 1)]
        began = time.perf_counter()
        cpu[mode] += cpu_seconds(together(runs, options, mode) if mode else alone(runs, options))
        wall[mode] += time.perf_counter() - began
        missing = [spec.id for spec in runs if store.load(store.path_of(out, spec)).status != "ok"]
        assert not missing, missing
    print(f"{ROUNDS * share} runs a mode of l1_norm on {chosen.arch}, digits, {chosen.epochs} epochs after the prune")
    for mode in modes:
        each, at_once = cpu[mode] / (ROUNDS * share), max(1, mode)
        name = f"{mode} worker{'s' * (mode > 1)}" if mode else "a process for each run"
        rate = 3600 * at_once / each
        print(f"  {name:22} {each:6.2f} CPU s a run: {rate:6.0f} runs an hour where {at_once} cores are free", end="")
        print(f", {cpu[0] / cpu[mode]:.2f} times the first; {wall[mode]:.0f} s passed")
    for mode in numbers[1:]:
        gain = mode * cpu[numbers[0]] / numbers[0] / cpu[mode]
        print(f"  {mode} workers do {gain:.2f} times the runs of {numbers[0]}")


if __name__ == "__main__":
    main()
