"""A sweep on a one-machine SLURM under fire: killed jobs, nodes, daemons and submissions, a full disk.

Carries out the same runs once undisturbed and once as jobs while random events hit them, and then counts: every run has
one finished record, nothing is lost, torn or made twice, and every result is the undisturbed one to the last bit.
Takes about twenty minutes on two cores and SLURM's packages (``python -m tools.devcluster install``); exit code 1 when
something does not hold.

    python -m tools.timing.chaos --runs 50 --events 100 --folder /var/tmp/chaos --log /var/tmp/chaos.log
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.records import store
from slurm.batch import batches
from tools.devcluster import DevCluster
from tools.devcluster.processes import JOB, find
from tools.timing.chaos_events import EVENTS
from tools.timing.chaos_verdict import Log, bench_sweep, sweep_file, undisturbed, verdict

DISK_MB = 512
"""Of the small disk: some times what the runs need."""
BETWEEN_S, AWAY_S = (0.5, 6.0), (3.0, 8.0)
"""Pause between events; how long what was killed stays away, and the disk full."""
SUBMIT_EVERY, LOOK_EVERY_S = 5, 3
"""Events after which the sweep is submitted again in any case; seconds between looks at the cluster."""
DEADLINE_S, ROUNDS = 15 * 60, 6
"""For what is left after the last event."""
PROFILE = 'description = "one job a node, two runs a job"\ncpus = 4\nmem_gb = 2\ntime = 60\nruns_per_job = 2\n'


class _Chaos:
    """The sweep on the cluster, what is done to it, and what has to be repaired later.

    ``expected`` are the undisturbed records, by their path below the folder of records.
    """

    def __init__(self, cluster: DevCluster, folder: Path, out: Path, expected, seed: int, log: Log, small: bool):
        self.cluster, self.folder, self.out, self.expected, self.log, self.small = (
            cluster, folder, out, expected, log, small
        )  # fmt: skip
        self.rng = random.Random(seed)
        self.calls: list[Any] = []  # of bench sweep that still run: process, its log, what for
        self.repairs: list[Any] = []  # when, what, how
        self.counts: Counter[str] = Counter()
        self.tracebacks: list[Any] = []
        self.bases: dict[Any, Any] = {}
        self.changed_bases: set[Any] = set()
        self.finished: set[Any] = set()
        self.resubmit, self.retry, self.looked = True, False, 0.0

    # --- looking -----------------------------------------------------------------------------------------------

    def ask(self, *command: str) -> str | None:
        """What a client says; None where it cannot, which is no news while daemons are away."""
        if self.cluster.running("slurmctld"):
            with suppress(subprocess.TimeoutExpired):
                done = self.cluster.run(*command, timeout=15)
                return done.stdout if done.returncode == 0 else None
        return None

    def jobs(self, *only: str) -> dict[str, str] | None:
        """Job -> its state and reason; None if that cannot be known now."""
        lines = self.ask("squeue", "-h", "-r", "-o", "%i|%T %r", *only)
        return None if lines is None else dict(line.split("|", 1) for line in lines.splitlines())

    def at_work(self):
        """Processes of jobs."""
        return sorted((p for p in find(self.cluster.folder) if p.program == JOB), key=lambda p: p.pid)

    def unfinished(self) -> set[Path]:
        """Runs without an ``ok`` record; who has one keeps it."""
        for path in self.expected.keys() - self.finished:
            with suppress(store.RecordError):
                if store.load(self.out / "records" / path).status == "ok":
                    self.finished.add(path)
        return self.expected.keys() - self.finished

    def unclaimed(self) -> bool:
        """Whether a run is neither finished nor in a job."""
        live = self.jobs()
        claimed = set()
        for batch in batches(self.out):
            for number, job in enumerate(batch.jobs):
                claimed |= set(batch.keys_of(number)) if live and job in live else set()
        return live is not None and any(path.stem not in claimed for path in self.unfinished())

    # --- time passes -------------------------------------------------------------------------------------------

    def sweep(self, retry: bool, what: str) -> tuple[subprocess.Popen, Path]:
        """Submit the sweep, as a user does."""
        self.counts["calls of sweep"] += 1
        number = self.counts["calls of sweep"]
        log = self.folder / "submissions" / f"{number:03}.log"
        words = ["--cluster", "slurm", "--profile", str(self.folder / "profile.toml"), "--out", str(self.out)]
        words += ["--retry", "failed"] if retry else []
        process = bench_sweep(self.folder, log, words, self.cluster.env)
        self.calls.append((process, log, f"sweep {number}{' --retry failed' if retry else ''}, {what}"))
        return process, log

    def later(self, what: str, repair) -> str:
        seconds = self.rng.uniform(*AWAY_S)
        self.repairs.append((time.monotonic() + seconds, what, repair))
        return f"for {seconds:.1f} s"

    def pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            self._repair()
            self._read()
            if time.monotonic() > self.looked + LOOK_EVERY_S:
                self.looked = time.monotonic()
                self._administer()
                if self.resubmit and not self.calls and self.jobs() == {} and self.unfinished():
                    self.sweep(self.retry, "nothing was left to run")
                    self.retry = not self.retry
            if time.monotonic() >= end:
                break
            time.sleep(0.1)

    def _repair(self) -> None:
        for item in sorted(self.repairs, key=lambda item: item[0]):
            at, what, repair = item
            # A slurmd that starts before its controller hangs.
            if at > time.monotonic() or ("slurmd n" in what and not self.cluster.running("slurmctld")):
                continue
            self.repairs.remove(item)
            try:
                repair()
                self.log.say(f"repaired: {what}")
            except BenchError as error:
                self.log.say(f"not repaired, will be tried again: {what}: {error}")
                self.repairs.append((time.monotonic() + 5, what, repair))

    def _read(self) -> None:
        """What ``bench sweep`` said, and whether a base changed after it was there."""
        for call in [call for call in self.calls if call[0].poll() is not None]:
            self.calls.remove(call)
            process, log, what = call
            lines = log.read_text(errors="replace").splitlines()
            said = next((line for line in reversed(lines) if line.strip() and not line.startswith("follow:")), "")
            self.log.say(f"{what}: exit {process.returncode}: {said}")
            self.tracebacks += [f"{log.name}: {said}"] if any(line.startswith("Traceback") for line in lines) else []
        for file in (self.out / "bases").glob("*.json"):
            with suppress(OSError):
                now = (file.stat().st_mtime_ns, file.read_bytes())
                self.changed_bases |= {file.stem} if self.bases.setdefault(file, now) != now else set()

    def _administer(self) -> None:
        """Drained nodes are resumed, held jobs released."""
        for line in (self.ask("sinfo", "-h", "-N", "-o", "%N %T") or "").splitlines():
            node, state = line.split()
            if "drain" in state and self.ask("scontrol", "update", f"nodename={node}", "state=resume") is not None:
                self.log.say(f"administrator: {node} was {state}, resumed")
                self.counts["nodes resumed"] += 1
        for job, state in (self.jobs("-t", "PENDING") or {}).items():
            if "held" in state.lower() and self.ask("scontrol", "release", job) is not None:
                self.log.say(f"administrator: {job} was {state}, released")
                self.counts["jobs released"] += 1

    def disturb(self, number: int) -> None:
        """Events until there were so many, or all runs are finished."""
        kinds = [kind for kind in EVENTS if self.small or kind != "disk full"]
        todo = (kinds * max(1, number * 3 // 5 // len(kinds)))[:number]  # some of every kind, the others as it comes
        todo += self.rng.choices(kinds, k=number - len(todo))
        self.rng.shuffle(todo)
        while todo and self.unfinished():
            self.pause(self.rng.uniform(*BETWEEN_S))
            for kind in dict.fromkeys(todo):  # the next one that finds something to hit
                if effect := EVENTS[kind](self):
                    todo.remove(kind)
                    self.counts[kind] += 1
                    self.log.say(f"event {number - len(todo)}: {kind}: {effect}")
                    if len(todo) % SUBMIT_EVERY == 0 and not self.calls:
                        self.sweep(False, "once more")
                    break
        if todo:
            self.log.say(f"all runs were finished before the last {len(todo)} events")

    def settle(self) -> None:
        """Repair everything, and submit what failed or was lost until all is finished."""
        self.resubmit, end = False, time.monotonic() + DEADLINE_S

        def wait(over) -> None:
            while time.monotonic() < end and not over():
                self.pause(1)

        wait(lambda: not self.repairs and not self.calls)
        for number in range(1, ROUNDS + 1):
            self.sweep(True, f"round {number} of the end")
            wait(lambda: not self.calls)
            wait(lambda: self.jobs() == {})
            self.log.say(f"round {number} of the end: {len(self.unfinished())} runs unfinished")
            if not self.unfinished():
                break


def run(chosen: argparse.Namespace, folder: Path, log: Log) -> bool:
    """Everything; returns whether all holds."""
    for name in ("cluster", "submissions", "kept", "tmp"):
        shutil.rmtree(folder / name, ignore_errors=True)
    disk = folder / "disk"
    for path in (disk, folder / "submissions", folder / "tmp"):
        path.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.toml").write_text(sweep_file(chosen.runs))
    (folder / "profile.toml").write_text(PROFILE)
    expected = undisturbed(folder, log)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "bench-chaos", str(disk)]
    small = bool(shutil.which("mount")) and subprocess.run(mount, capture_output=True).returncode == 0
    if not small:
        log.say("cannot mount a tmpfs here: the results go to a plain folder, which is never full")
    cluster = DevCluster(folder / "cluster", nodes=4, port=chosen.port)
    chaos = _Chaos(cluster, folder, disk / "results", expected, chosen.seed, log, small)
    try:
        cluster.up()
        log.say(f"4 nodes are up, seed {chosen.seed}")
        began = time.monotonic()
        chaos.sweep(False, "the first")
        chaos.disturb(chosen.events)
        chaos.settle()
        return verdict(chaos, time.monotonic() - began)
    finally:
        for process, *_ in chaos.calls:
            process.kill()
            process.wait()
        if chosen.folder:  # to look at; the next call removes it
            for source in (chaos.out, cluster.folder / "log"):
                with suppress(OSError, shutil.Error):
                    shutil.copytree(source, folder / "kept" / source.name)
        cluster.down(wipe=True)
        if small and subprocess.run(["umount", str(disk)]).returncode:
            subprocess.run(["umount", "--lazy", str(disk)])
        shutil.rmtree(disk, ignore_errors=True)


def main() -> int:
    """Read the command line, and leave nothing behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50, help="of the sweep (50)")
    parser.add_argument("--events", type=int, default=100, help="that hit something (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of events (0)")
    parser.add_argument("--port", type=int, default=28400, help="first of the cluster's 200 ports (28400)")
    parser.add_argument("--folder", type=Path, help="for everything; undisturbed runs in it are used again")
    parser.add_argument("--log", type=Path, help="file for the lines that are printed")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is taken down then too
    log = Log(chosen.log)
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        return 0 if run(chosen, (chosen.folder or Path(temporary)).resolve(), log) else 1


if __name__ == "__main__":
    sys.exit(main())
