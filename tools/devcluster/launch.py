"""How SLURM's daemons are started: what is run, in which environment, and where the log is."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from bench.errors import SetupError

COMMANDS = {
    "munged": (
        "munged",
        "--key-file={folder}/etc/munge.key",
        "--socket={folder}/run/munge.sock",
        "--pid-file={folder}/run/munged.pid",
        "--log-file={folder}/log/munged.log",
        "--seed-file={folder}/run/munged.seed",
        "--num-threads=10",
    ),
    "mariadbd": ("setsid", "--fork", "mariadbd", "--defaults-file={folder}/etc/my.cnf"),
    "slurmdbd": ("slurmdbd",),
    "slurmctld": ("slurmctld",),
    "slurmd": ("slurmd", "-N", "{node}"),
}
NEW_DATABASE = (
    "mariadb-install-db",
    "--defaults-file={folder}/etc/my.cnf",
    "--auth-root-authentication-method=normal",
    "--skip-test-db",
)
FOREIGN = ("SLURM", "SBATCH_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SCONTROL_")
"""Variables that SLURM's programs read as options; this process may be a job of another SLURM."""


def environment(variables: dict[str, str]) -> dict[str, str]:
    """This process's environment without what belongs to another SLURM, and with ``variables``."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)} | variables


def launch(folder: Path, variables: dict[str, str], name: str, node: str = "") -> None:
    """Start a daemon with these variables; it runs on in the background, and need not be ready yet."""
    commands = [COMMANDS[name]]
    if name == "mariadbd" and not (folder / "db" / "mysql").exists():
        commands.insert(0, NEW_DATABASE)
    output = log_file(folder, "start")
    for command in commands:
        words = [word.format(folder=folder, node=node) for word in command]
        with output.open("w") as stream:  # not a pipe: the daemon would hold it open for as long as it lives
            result = subprocess.run(
                words,
                env=environment(variables),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        if result.returncode != 0:
            raise SetupError(f"{words[0]} did not start: {last_line(output)}; see the files in {output.parent}")


def log_file(folder: Path, name: str, node: str = "") -> Path:
    """Where a daemon writes its log."""
    return folder / "log" / (f"{name}.{node}.log" if node else f"{name}.log")


def last_line(log: Path) -> str:
    """The end of a log, which most often says what is wrong."""
    with suppress(OSError, IndexError):
        return log.read_text(errors="replace").splitlines()[-1]
    return "it wrote nothing"
