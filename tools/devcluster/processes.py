"""The processes of one cluster, as the process table shows them now. Pid files are not trusted: they may be old."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from bench.errors import SetupError

DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
JOB, STEP = "job", "slurmstepd"
PROGRAMS = {*DAEMONS, STEP, "slurmscriptd"}
LISTEN = "0A"
KILLED_S = 20
"""Within which a killed process is gone."""


@dataclasses.dataclass(frozen=True)
class Process:
    """One process: a daemon, a ``slurmstepd``, or ``job``, anything that a job started."""

    pid: int
    program: str
    node: str = ""
    job: str = ""


def find(folder: Path) -> list[Process]:
    """All living processes of the cluster in ``folder``, but this one and those that it is a part of."""
    own = _ancestors()
    parents: dict[int, int] = {}
    found: dict[int, Process] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) not in own:
            with suppress(OSError):  # it has ended meanwhile, or is another user's
                stat = _read(entry.name, "stat")
                name, _, rest = stat.partition("(")[2].rpartition(")")
                state, parent = rest.split()[:2]
                parents[int(entry.name)] = int(parent)
                if state not in "ZX" and (process := _process(folder, int(entry.name), name)):
                    found[process.pid] = process
    _add_descendants(found, parents)
    return list(found.values())


def listening() -> set[int]:
    """The TCP ports that somebody on this machine listens on. Daemons take a connection just to see for an error."""
    ports = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):  # no IPv6
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                _, local, _, state = line.split()[:4]
                if state == LISTEN:
                    ports.add(int(local.rpartition(":")[2], 16))
    return ports


def send(processes: Iterable[Process], sig: int) -> None:
    """Send a signal to all of them that still live."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, sig)


def stop(find_them: Callable[[], list[Process]], grace_s: float) -> None:
    """Ask processes to end, and kill those that have not after ``grace_s`` seconds. Returns when none is left."""
    if grace_s:
        send(find_them(), signal.SIGTERM)
        send(find_them(), signal.SIGCONT)  # one that was stopped would never hear it
    end = time.monotonic() + grace_s
    while processes := find_them():
        if time.monotonic() >= end + KILLED_S:
            raise SetupError(f"{processes[0].program} with pid {processes[0].pid} does not end, not even when killed")
        if time.monotonic() >= end:
            send(processes, signal.SIGKILL)
        time.sleep(0.02)


def _process(folder: Path, pid: int, name: str) -> Process | None:
    environment = _read(pid, "environ")
    ours = f"SLURM_CONF={folder}/etc/slurm.conf\0" in environment
    if name not in PROGRAMS:
        job = re.search(r"(?:^|\0)SLURM_JOB_ID=(\d+)\0", environment)
        node = re.search(r"(?:^|\0)SLURMD_NODENAME=([^\0]+)\0", environment)
        return Process(pid, JOB, node[1] if node else "", job[1]) if ours and job else None
    # A daemon that gives itself a title may write it over its environment, but its log is open.
    files = [file for file in _open_files(pid) if file.startswith(f"{folder}/")]
    if not ours and not files:
        return None
    logs = [match[1] for file in files if (match := re.search(r"/log/slurmd\.(n\d+)\.log$", file))]
    step = re.search(r"\[(\d+)\.", _read(pid, "cmdline"))
    return Process(pid, name, logs[0] if logs else "", step[1] if step and name == STEP else "")


def _add_descendants(found: dict[int, Process], parents: dict[int, int]) -> None:
    """What a job started with another environment belongs to it too."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    todo = [process for process in found.values() if process.program in (JOB, STEP)]
    while todo:
        process = todo.pop()
        for pid in children.get(process.pid, ()):
            if pid not in found:
                found[pid] = Process(pid, JOB, process.node, process.job)
                todo.append(found[pid])


def _ancestors() -> set[int]:
    pids = {os.getpid()}
    parent = os.getppid()
    while parent > 1 and parent not in pids:
        pids.add(parent)
        try:
            parent = int(_read(parent, "stat").rpartition(")")[2].split()[1])
        except OSError:
            break
    return pids


def _open_files(pid: int) -> list[str]:
    files = []
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                files.append(os.readlink(entry.path))
    return files


def _read(pid: int | str, name: str) -> str:
    with open(f"/proc/{pid}/{name}", "rb") as stream:
        return stream.read().decode(errors="replace")
