"""What a sweep of many runs costs on a login node: seconds of CPU of ``sweep`` and ``status``, and files.

SLURM is pretended: programs of its names, which hand out numbers of jobs and print a queue. Records are copies of one
real record, each with the specification of its run. The commands are real ones, each in a process of its own.

    python -m tools.timing.submission --runs 10000 --per-job 1
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.records import store
from bench.records.schema import Job, Record
from slurm.batch import Batch, batches

METHODS = ("l1_norm", "l2_norm", "random", "fpgm", "act_mean", "taylor", "ddrop", "apoz", "uniform_thin", "edropout")
SHARES = (0.75, 0.5, 0.25, 0.1, 0.05)
AT_WORK = 256
"""Jobs that are running while some runs are finished."""
PROGRAMS = {
    "sbatch": 'n=$(cat "$PRETENDED/number"); echo $((n + 1)) > "$PRETENDED/number"; echo "Submitted batch job $n"',
    "squeue": 'cat "$PRETENDED/queue"',
    "scontrol": 'if [ "$2" = config ]; then echo "MaxArraySize = 1001"; fi',
    "srun": "",
    "sacct": "",
    "scancel": "",
}


def pretend_slurm(folder: Path) -> dict[str, str]:
    """Programs with the names of SLURM's; returns the environment in which they are found."""
    (folder / "bin").mkdir(parents=True)
    for name, text in PROGRAMS.items():
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    (folder / "number").write_text("1\n")
    (folder / "queue").write_text("")
    return {**os.environ, "PRETENDED": str(folder), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def measured(what: str, env: dict[str, str], *words: object) -> str:
    """Run a command of the suite, print its seconds of CPU, its children included; returns what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "bench", *map(str, words)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{what:52} {seconds:6.1f} s of CPU", flush=True)
    return done.stdout


def elements(out: Path) -> Iterator[tuple[Batch, int]]:
    """All jobs that were submitted: batch and number in it."""
    for batch in batches(out):
        yield from ((batch, number) for number in range(batch.count))


def finish(out: Path, like: Record, folder: Path, done: int) -> None:
    """Leave what the first ``done`` of the jobs, and those at work, would have left; the others stay in the queue."""
    jobs = list(elements(out))
    at_work = AT_WORK if done < len(jobs) else 0
    queue = []
    for index, (batch, number) in enumerate(jobs):
        job = batch.jobs[number]
        if index >= done:
            queue.append(f"{job}|RUNNING|None" if index < done + at_work else f"{job}|PENDING|Resources")
        if index >= done + at_work or batch.log(job).exists():
            continue
        batch.log(job).write_text("what the job wrote\n")
        notes = batch.journal()
        for key in batch.keys_of(number):
            notes.start(key, job, after_s=0.0, worker=0)
            notes.saved(key, 1, 8)
            notes.saved(key, 2, 8)
    for batch, number in jobs[:done]:
        for key in batch.keys_of(number):
            task = batch.task(key)
            if not task.base and not (path := store.path_of(out, task.spec)).exists():
                of_job = Job(cluster="slurm", id=batch.jobs[number], differs=[])
                mine = {"id": key, "spec": task.spec, "spec_sha256": task.spec.sha256, "job": of_job}
                store.write(path, msgspec.structs.replace(like, **mine))
    (folder / "queue").write_text("".join(f"{line}\n" for line in queue))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000, help="of the sweep (10000)")
    parser.add_argument("--per-job", type=int, default=1, help="runs of a job (1)")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="submission-"))
    sweep, profile, out = folder / "sweep.toml", folder / "profile.toml", folder / "out"
    seeds = max(1, chosen.runs // (len(METHODS) * len(SHARES)))
    methods = ", ".join(f'"{name}"' for name in METHODS)
    text = f'[[runs]]\nmethod = [{methods}]\narch = "resnet20"\nkeep_macs = {list(SHARES)}\nseeds = "0-{seeds - 1}"\n'
    sweep.write_text(text)
    profile.write_text(f"cpus = 1\nruns_per_job = {chosen.per_job}\n")
    env = pretend_slurm(folder / "slurm")
    words: tuple[object, ...] = ("run", "-m", "l1_norm", "-a", "mlp_40_40", "--epochs", 1, "--finetune-epochs", 1, "-q")
    measured("one run, for its record", env, *words, "--out", folder / "one")
    like = store.load(next(store.find(folder / "one" / "records")))
    words = ("sweep", sweep, "--cluster", "slurm", "--profile", profile, "--out", out)
    measured("sweep --dry-run", env, *words, "--dry-run")
    printed = measured("sweep", env, *words)
    print("\n".join(line for line in printed.splitlines() if not line.startswith("follow")))
    count = len(list(elements(out)))
    for share in (0, 50, 100):
        finish(out, like, folder / "slurm", count * share // 100)
        measured(f"status, {share} % of the jobs finished", env, "status", sweep, "--out", out)
        measured(f"status of all under --out, {share} %", env, "status", "--out", out)
        files = sum(path.is_file() for path in out.rglob("*"))
        print(f"{files} files below --out but networks and masks, {files / count:.2f} a job")
    measured("the same sweep again, nothing to submit", env, *words)
    print(f"in {folder}, which may be deleted")


if __name__ == "__main__":
    main()
