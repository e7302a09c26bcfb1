"""What the chaos test does to a sweep: each event says what it hit, or gives None where nothing was there."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from slurm.batch import jobs_folder

RUNNING = ("-t", "RUNNING")


def kill_process(chaos) -> str | None:
    work = {p: Path(f"/proc/{p.pid}/comm") for p in chaos.at_work()}
    with suppress(OSError, IndexError):  # there is none, or it has ended meanwhile
        names = {p: comm.read_text().strip() for p, comm in work.items()}
        wanted = chaos.rng.choice(("python", "python", "slurm_script", "srun"))
        target = chaos.rng.choice([p for p, name in names.items() if name == wanted])
        os.kill(target.pid, signal.SIGKILL)
        return f"pid {target.pid} ({wanted}) of job {target.job} on {target.node}"
    return None


def kill_node(chaos) -> str | None:
    work = chaos.at_work()
    if not (nodes := sorted({p.node for p in work if p.node})):
        return None
    node = chaos.rng.choice(nodes)
    chaos.cluster.kill_node(node)
    away = chaos.later(f"slurmd {node} started", lambda: chaos.cluster.start("slurmd", node))
    return f"{node} with job {', '.join(sorted({p.job for p in work if p.node == node}))}, {away}"


def kill_submitter(chaos) -> str | None:
    if chaos.calls or not chaos.unclaimed():
        return None
    early, seconds = chaos.rng.random() < 0.3, chaos.rng.uniform(0, 4)
    files = set(jobs_folder(chaos.out).glob("*/batch.json"))
    process, log = chaos.sweep(True, "to be killed")
    end = time.monotonic() + (seconds if early else 60)
    while time.monotonic() < end and process.poll() is None:
        if not early and set(jobs_folder(chaos.out).glob("*/batch.json")) - files:  # it is about to call sbatch
            seconds /= 150
            time.sleep(seconds)
            break
        time.sleep(0.005)
    process.kill()
    if process.wait() != -signal.SIGKILL or "submitted now" in log.read_text():  # it was done before
        return None
    return f"pid {process.pid}, {seconds:.2f} s after {'its start' if early else 'it wrote a batch'}"


def command(chaos, *words: str, of: tuple[str, ...] = (), arrays: bool = False) -> str | None:
    """Apply a command to one of the jobs."""
    jobs = chaos.jobs(*of) or {}
    names = sorted({job.partition("_")[0] for job in jobs if "_" in job} if arrays else jobs)
    job = chaos.rng.choice(names) if names else ""
    return None if not job or chaos.ask(*words, job) is None else " ".join((*words, job, jobs.get(job, "")))


def kill_daemon(chaos, *names: str) -> str | None:
    """Kill one of them; those after it in the order of the start may go with it."""
    if not all(map(chaos.cluster.running, names)) or not chaos.jobs():
        return None
    name = chaos.rng.choice(names)
    chaos.cluster.kill(name)

    def start() -> None:
        for each in names:
            chaos.cluster.start(each)

    return f"{name} {chaos.later(f'{name} started', start)}"


def fill_disk(chaos) -> str | None:
    ballast = chaos.out.parent / "ballast"
    if ballast.exists() or not chaos.at_work():
        return None
    with ballast.open("wb", buffering=0) as file:
        for block in (bytes(2**20), bytes(4096)):
            with suppress(OSError):  # it is full
                while file.write(block) == len(block):
                    pass
    return chaos.later("room on the disk", ballast.unlink)


def two_sweeps(chaos) -> str | None:
    if chaos.calls or not chaos.unclaimed():
        return None
    return " and ".join(f"pid {chaos.sweep(True, 'one of two')[0].pid}" for _ in range(2))


EVENTS: dict[str, Callable[..., str | None]] = {
    "SIGKILL of a process of a job": kill_process,
    "death of a node": kill_node,
    "SIGKILL of the submitting process": kill_submitter,
    "scontrol requeue": lambda chaos: command(chaos, "scontrol", "requeue", of=RUNNING),
    "USR2 to a job": lambda chaos: command(chaos, "scancel", "--signal=USR2", of=RUNNING),
    "scancel of a job": lambda chaos: command(chaos, "scancel"),
    "scancel of an array": lambda chaos: command(chaos, "scancel", arrays=True),
    "slurmctld killed": lambda chaos: kill_daemon(chaos, "slurmctld"),
    "database killed": lambda chaos: kill_daemon(chaos, "mariadbd", "slurmdbd"),
    "disk full": fill_disk,
    "two sweeps at the same time": two_sweeps,
}
