"""Starting, stopping and breaking a one-machine SLURM."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from bench.errors import SetupError, UsageError
from tools.devcluster import config, packages, processes
from tools.devcluster.launch import environment, last_line, launch, log_file
from tools.devcluster.processes import DAEMONS, JOB, STEP, Process

START_S = 60
"""Within which a daemon must be ready."""
CANCEL_S = 12
"""Within which a cancelled job is gone, even if it ignores SIGTERM: KillWait and some more."""
GRACE_S = 20
"""Within which a daemon ends when it is asked to."""


class DevCluster:
    """A SLURM of this machine: ``nodes`` times slurmd with pretended CPUs, memory and GPUs, all in one folder.

    It uses the TCP ports from ``port`` to ``port + 199``. ``accounting`` is whether there is a database, and thus a
    ``sacct`` that knows something. ``extra`` is appended to slurm.conf. All partitions have all nodes: ``main`` is
    the default, and jobs in ``high`` preempt those in ``low``, which get their own ``--signal`` first if
    ``user_signal_on_preemption``.
    """

    def __init__(
        self,
        folder: Path | str,
        nodes: int = 4,
        cpus: int = 4,
        gpus: int = 4,
        mem_mb: int = 8000,
        port: int = 26800,
        accounting: bool = True,
        extra: str = "",
        user_signal_on_preemption: bool = True,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.settings = config.Settings(
            self.folder, nodes, cpus, gpus, mem_mb, port, accounting, extra, user_signal_on_preemption
        )

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that a client needs."""
        return {"SLURM_CONF": str(self.settings.conf), "PATH": packages.path()}

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes."""
        return self.settings.names

    @property
    def daemons(self) -> list[tuple[str, str]]:
        """Name and node (if it has one) of all daemons that should run, in the order in which they start."""
        database = ["mariadbd", "slurmdbd"] if self.settings.accounting else []
        # slurmd comes last: one that starts before its controller hangs, and then ignores SIGTERM.
        return [(name, "") for name in ("munged", *database, "slurmctld")] + [("slurmd", node) for node in self.nodes]

    def up(self) -> None:
        """Start what does not run, and wait until all nodes are ready. Nothing happens if they are."""
        packages.check(self.settings.accounting)
        found = [process for process in processes.find(self.folder) if process.program in DAEMONS]
        if not found:
            self._prepare()
        elif self._is_ours() and self.settings.conf.read_text() == config.slurm_conf(self.settings):
            processes.send(found, signal.SIGCONT)  # one that was stopped runs, but does nothing
        else:
            raise SetupError(f"a cluster with other settings runs in {self.folder}; stop it first (down)")
        try:
            for name, node in self.daemons:
                self.start(name, node)
            self._wait("the nodes", self._all_ready, "slurmctld")
        except BaseException:
            if not found:
                self.down()
            raise

    def down(self, wipe: bool = False) -> None:
        """Stop everything, in whatever state it is. With ``wipe`` at once, and then the folder is removed."""
        if wipe and self._is_foreign():
            raise UsageError(f"{self.folder} is not the folder of a cluster; nothing was stopped or removed")
        if not wipe:
            self._cancel_before_the_end()
        # Jobs outlive slurmd. A slurmd without controller ignores SIGTERM.
        for name in ("slurmd", STEP, JOB, "slurmctld", "slurmdbd", "mariadbd", "munged"):
            processes.stop(partial(self._find, name), 0 if wipe or name in (STEP, JOB) else GRACE_S)
        processes.stop(partial(processes.find, self.folder), 0)
        if wipe and self.folder.exists():
            shutil.rmtree(self.folder)

    def start(self, name: str, node: str = "") -> None:
        """Start one daemon, if it does not run, and wait until it is ready."""
        if not self.running(name, node):
            launch(self.folder, self.env, name, node)
        self._wait(f"{name} {node}".strip(), lambda: self._is_ready(name, node), name, node)

    def running(self, name: str, node: str = "") -> list[int]:
        """The pids of a daemon: none if it is dead."""
        if (name, node) not in self.daemons:
            raise UsageError(f"there is no {name} {node}".strip() + " in this cluster")
        return [process.pid for process in self._find(name, node)]

    def kill(self, name: str, node: str = "", sig: int = signal.SIGKILL) -> None:
        """Send a signal to one daemon, and wait for its end if the signal should end it."""
        if self.running(name, node):
            processes.send(self._find(name, node), sig)
        if sig in (signal.SIGKILL, signal.SIGTERM):
            _until(lambda: not self.running(name, node), GRACE_S)

    def kill_node(self, node: str) -> None:
        """Kill slurmd, its slurmstepds and all job processes of a node, as if its power had gone."""
        self.kill("slurmd", node)
        for name in (STEP, JOB):  # in this order no process is left that could notify the controller
            processes.stop(partial(self._find, name, node), 0)

    def job_processes(self) -> dict[int, str]:
        """Pid of every process that a job started -> the id of the job."""
        return {process.pid: process.job for process in self._find(JOB)}

    def run(self, *command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a client command, such as ``squeue``, and return what came of it, also of a failure."""
        return subprocess.run(
            command,
            env=environment(self.env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def cancel_all(self) -> None:
        """Cancel all jobs, and wait until they and their processes are gone."""

        def gone() -> bool:
            if jobs := self._jobs():
                self._ask("scancel", *jobs)
            return jobs == [] and not self._any_work()

        self._wait("the end of all jobs", gone, "slurmctld")

    def save(self, job: str) -> None:
        """Have slurmctld write down what it knows of a job. Killed before it has, it would not know it again."""
        state = self.folder / "state" / "job_state"
        asked = self.folder / "run" / "asked"
        asked.touch()
        self._ask("scontrol", "update", f"jobid={job}", "comment=saved")  # any change is written within seconds
        self._wait(
            f"job {job} in {state}",
            lambda: state.exists() and state.stat().st_mtime_ns > asked.stat().st_mtime_ns,
            "slurmctld",
        )

    def reset(self) -> None:
        """Restore it, whatever was done to it: all daemons run, no jobs, all nodes idle."""
        self.up()
        self.cancel_all()

        def idle() -> bool:
            states = self.node_states()
            for node, state in states.items():
                if any(word in state for word in ("drain", "down", "fail")):
                    self._ask("scontrol", "update", f"nodename={node}", "state=resume")
            return [states.get(node) for node in self.nodes] == ["idle"] * len(self.nodes)

        self._wait("the nodes", idle, "slurmctld")

    def node_states(self) -> dict[str, str]:
        """Node -> its state as sinfo shows it; empty if the controller does not answer."""
        lines = (self._ask("sinfo", "-h", "-N", "-o", "%N %T") or "").splitlines()
        return {node: state for node, _, state in (line.partition(" ") for line in lines)}

    def drained(self) -> list[str]:
        """Nodes that are there and take no jobs, until they are resumed."""
        return [node for node, state in self.node_states().items() if "drain" in state]

    def busy_ports(self) -> list[int]:
        """Those of the cluster's ports that somebody listens on, be it the cluster or not."""
        return sorted(processes.listening().intersection(self.settings.ports.values()))

    def _prepare(self) -> None:
        if self._is_foreign():
            raise UsageError(f"{self.folder} has something else in it; choose another folder")
        if busy := self.busy_ports():
            raise SetupError(f"port {busy[0]} is in use; choose another first port")
        host = config.host_name()
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            raise SetupError(f"this machine's name has no address; add '127.0.0.1 {host}' to /etc/hosts") from None
        try:
            config.write(self.settings)
        except OSError as error:
            raise SetupError(f"cannot write {error.filename}: {error.strerror}") from error

    def _is_ours(self) -> bool:
        with suppress(OSError):
            return (self.folder / "env.sh").read_text() == config.env_sh(self.settings.conf)
        return False

    def _is_foreign(self) -> bool:
        try:
            return not self._is_ours() and any(self.folder.iterdir())
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _cancel_before_the_end(self) -> None:
        """Let jobs end in order, if that is possible: what is left is killed afterwards."""
        processes.send(
            [process for process in processes.find(self.folder) if process.program in DAEMONS], signal.SIGCONT
        )
        if jobs := self._jobs():
            self._ask("scancel", *jobs)
            end = time.monotonic() + CANCEL_S
            while time.monotonic() < end and self._jobs():
                if not self._any_work():  # either their slurmd is dead, or it is just reporting
                    end = min(end, time.monotonic() + 2)
                time.sleep(0.1)

    def _jobs(self) -> list[str] | None:
        answer = self._ask("squeue", "-h", "-o", "%F")
        return None if answer is None else sorted(set(answer.split()), key=int)

    def _any_work(self) -> bool:
        return any(process.program in (JOB, STEP) for process in processes.find(self.folder))

    def _ask(self, *command: str) -> str | None:
        """What a command says, or None if it fails or takes long; clients hang when there is no controller."""
        if not self._find("slurmctld"):
            return None
        with suppress(subprocess.TimeoutExpired, OSError):
            answer = self.run(*command, timeout=5)
            return answer.stdout if answer.returncode == 0 else None
        return None

    def _is_ready(self, name: str, node: str) -> bool:
        port = self.settings.ports.get(node or name)
        if not self.running(name, node) or (port is not None and port not in processes.listening()):
            return False
        if name == "munged":
            return (self.folder / "run" / "munge.sock").exists()
        if name == "slurmctld":
            return "is UP" in (self._ask("scontrol", "ping") or "")
        return name != "slurmd" or not self.running("slurmctld") or _takes_jobs(self.node_states().get(node))

    def _all_ready(self) -> bool:
        states = self.node_states()
        return all(_takes_jobs(states.get(node)) for node in self.nodes)

    def _wait(self, what: str, condition: Callable[[], bool], name: str, node: str = "") -> None:
        """Wait for a condition that a daemon brings about; an error if it dies over it."""

        def died() -> bool:
            # A daemon's first process ends when the second, the one that stays, is there: look twice.
            return not self.running(name, node) and not _until(lambda: self.running(name, node), 0.5)

        if not _until(lambda: condition() or died(), START_S) or died():
            log = log_file(self.folder, name, node)
            raise SetupError(f"{what} did not come: {last_line(log)}; see {log}")

    def _find(self, program: str, node: str = "") -> list[Process]:
        found = processes.find(self.folder)
        return [process for process in found if process.program == program and node in ("", process.node)]


def _takes_jobs(state: str | None) -> bool:
    """Whether a node in this state is there, be it busy or drained; a star means that it does not answer."""
    return state is not None and "*" not in state and not state.startswith(("down", "unknown"))


def _until(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True
