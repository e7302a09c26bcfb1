"""SLURM's programs and the Debian packages that they come in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.errors import SetupError

PROGRAMS = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
}
DATABASE_PROGRAMS = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "mariadb-install-db": "mariadb-server-core",
    "my_print_defaults": "mariadb-client-core",  # mariadb-install-db calls it
}
POLICY = Path("/usr/sbin/policy-rc.d")


def path() -> str:
    """Where the programs are: PATH, and /usr/sbin, where the daemons lie and which not every user has on it."""
    return os.pathsep.join(dict.fromkeys([*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/sbin"]))


def missing(accounting: bool = True) -> list[str]:
    """The Debian packages whose programs are not here."""
    programs = PROGRAMS | (DATABASE_PROGRAMS if accounting else {})
    return sorted({package for program, package in programs.items() if shutil.which(program, path=path()) is None})


def check(accounting: bool = True) -> None:
    """Raise SetupError if programs are missing."""
    if packages := missing(accounting):
        raise SetupError(
            f"no SLURM here: install the Debian packages {' '.join(packages)} (python -m tools.devcluster install)"
        )


def install() -> None:
    """Install what is missing with apt-get. The packages' own services are kept from starting."""
    packages = missing()
    if not packages:
        print("nothing to install", file=sys.stderr)
        return
    update = ["apt-get", "-q", "update"]
    add = ["apt-get", "-q", "install", "-y", "--no-install-recommends", *packages]
    if shutil.which("apt-get") is None:
        raise SetupError(f"no apt-get here; on Debian or Ubuntu the packages are {' '.join(packages)}")
    if os.getuid() != 0:
        raise SetupError(f"only root can install; run: sudo {' '.join(update)} && sudo {' '.join(add)}")
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        for command in (update, add):
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode != 0:
                raise SetupError(f"{' '.join(command)} failed; what it said is above")
    finally:
        if ours:
            POLICY.unlink()
    check()
