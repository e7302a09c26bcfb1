"""``python -m tools.devcluster COMMAND``: a one-machine SLURM from the command line."""

from __future__ import annotations

import argparse
import sys
import time
from typing import NoReturn

from bench.errors import BenchError, SetupError
from tools.devcluster import DevCluster, packages
from tools.devcluster.processes import find

COMMANDS = {
    "install": "install SLURM's Debian packages (as root)",
    "up": "start a cluster in the folder",
    "down": "stop it",
    "status": "what of it runs",
    "env": "print the shell lines that a client needs",
}
FOLDER = "/tmp/bench-slurm"
"""Short, because the names of sockets must be."""


class Parser(argparse.ArgumentParser):
    """argparse with errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> Parser:
    """The command line."""
    top = Parser(prog="python -m tools.devcluster", description="A real SLURM on one machine, for tests.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    parts = {name: commands.add_parser(name, help=text, description=text) for name, text in COMMANDS.items()}
    for name in ("up", "down", "status", "env"):
        parts[name].add_argument("--folder", default=FOLDER, help=f"all of the cluster is in it (default {FOLDER})")
    up = parts["up"]
    up.add_argument("--nodes", type=int, default=4, help="number of nodes (default 4)")
    up.add_argument("--cpus", type=int, default=4, help="CPUs that each node claims to have (default 4)")
    up.add_argument("--gpus", type=int, default=4, help="GPUs that each node pretends to have (default 4)")
    up.add_argument("--port", type=int, default=26800, help="first of 200 TCP ports (default 26800)")
    up.add_argument("--no-accounting", action="store_true", help="no database: sacct knows nothing")
    parts["down"].add_argument("--wipe", action="store_true", help="remove the folder too")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 usage, 3 this machine cannot do it, or nothing is up."""
    chosen = parser().parse_args(arguments)
    try:
        return _run(chosen)
    except BenchError as error:
        print(f"tools.devcluster: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("tools.devcluster: interrupted", file=sys.stderr)
        return 130


def _run(chosen: argparse.Namespace) -> int:
    if chosen.command == "install":
        packages.install()
        return 0
    start = time.monotonic()
    if chosen.command == "up":
        accounting = not chosen.no_accounting
        cluster = DevCluster(
            chosen.folder, chosen.nodes, chosen.cpus, chosen.gpus, port=chosen.port, accounting=accounting
        )
        cluster.up()
        _say(f"{chosen.nodes} nodes after {time.monotonic() - start:.1f} s; now: source {cluster.folder}/env.sh")
        _require_undrained(cluster)
        return 0
    cluster = DevCluster(chosen.folder)
    if chosen.command == "down":
        cluster.down(wipe=chosen.wipe)
        _say(f"nothing runs {'or is left ' if chosen.wipe else ''}in {cluster.folder}")
    elif chosen.command == "status":
        _status(cluster)
    else:
        try:
            print((cluster.folder / "env.sh").read_text(), end="")
        except OSError:
            raise SetupError(f"no cluster in {cluster.folder}; start one (up)") from None
    return 0


def _status(cluster: DevCluster) -> None:
    found = find(cluster.folder)
    for process in sorted(found, key=lambda process: process.pid):
        print(process.pid, process.program, process.node, process.job and f"job {process.job}")
    states = cluster.node_states()
    for node, state in states.items():
        print(node, state)
    if not states:
        raise SetupError(f"no slurmctld answers in {cluster.folder}; start it (up)")
    _require_undrained(cluster)


def _require_undrained(cluster: DevCluster) -> None:
    if nodes := ",".join(cluster.drained()):
        raise SetupError(f"{nodes} drained: takes no jobs; run: scontrol update nodename={nodes} state=resume")


def _say(text: str) -> None:
    print(f"tools.devcluster: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
