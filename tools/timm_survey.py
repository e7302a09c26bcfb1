"""Survey of timm's networks: ``python -m tools.timm_survey [NAME ...]`` fills the rows of ``docs/timm.csv``.

Each network is tested as by ``bench list archs --check`` with either coupling, and torch-pruning alone prunes it: every
step in a process of its own, with limits on CPU time and memory. What a row has is kept, so that the survey
resumes; names on the command line are surveyed again.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import multiprocessing
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.cli.method_page import table
from bench.files import write_atomic
from bench.spec.class_scan import ROOT
from bench.spec.wording import percent

FILE = ROOT / "docs" / "timm.csv"
COLUMNS = (
    *("family", "model", "side", "outcome", "coupling", "sites", "units", "least", "least_full", "sites_s", "cost_s"),
    *("torch_pruning", "why"),
)
CPU_S, GB = 60, 8
"""Limits of each step, unless asked for others: CPU seconds, and 2 ** 30 bytes of memory."""
RATIO = 0.5
"""What torch-pruning is asked to remove of every width."""


def main(words: Sequence[str] | None = None) -> int:
    """Survey what is missing; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m tools.timm_survey", description="Survey timm's networks.")
    p.add_argument("names", nargs="*", metavar="NAME", help="models, surveyed again; without one, all that is missing")
    p.add_argument("--file", type=Path, default=FILE, help="the rows (docs/timm.csv)")
    p.add_argument("--steps", default=",".join(STEPS), help="which steps (all)")
    p.add_argument("--cpu-s", type=int, default=CPU_S, help=f"most CPU seconds of a step ({CPU_S})")
    p.add_argument("--gb", type=int, default=GB, help=f"most memory of a step, in 2 ** 30 bytes ({GB})")
    chosen = p.parse_args(words)
    for row in read(chosen.file):
        name = row["model"]
        for step in chosen.steps.split(","):
            if name in chosen.names or not (chosen.names or row[MARK[step]]):
                found = STEPS[step](_in_process(name, step, chosen.cpu_s, chosen.gb))
                print(json.dumps({"model": name} | found), flush=True)
                write(chosen.file, [old | found if old["model"] == name else old for old in read(chosen.file)])
    return 0


def read(file: Path = FILE) -> list[dict[str, str]]:
    """The rows, by column."""
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def page() -> str:
    """The survey as a table of the documentation."""
    found = []
    for row in sorted(read(), key=lambda row: row["model"]):
        least = [
            share and (share if share == "none" else percent(float(share)))
            for share in (row["least"], row["least_full"])
        ]
        outcome = row["outcome"] if row["outcome"] == "pass" else row["why"]
        figures = [row["side"], row["sites"], *least, row["sites_s"], row["cost_s"]]
        found.append([f"`{row['model']}`", *figures, row["torch_pruning"], outcome])
    header = [
        "network",
        "side",
        "sites",
        "least",
        "least, full",
        "sites, s",
        "costs, s",
        "torch-pruning alone",
        "outcome",
    ]
    return "\n".join(table(header, found))


def write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace the file."""

    def fill(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as lines:
            table = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)

    write_atomic(file, fill)


def _of_inner(found: dict[str, Any]) -> dict[str, Any]:
    """What a row says of the sites that ``list archs --check`` finds."""
    seconds = found.get("seconds") or (None, None)
    row = {key: found.get(key) for key in ("outcome", "coupling", "sites", "units", "why")}
    row["side"] = (found.get("shape") or [None])[-1]
    row["least"] = _rounded(found.get("least")) if found.get("coupling") == "inner" else None
    return row | {key: s and round(s, 1) for key, s in zip(("sites_s", "cost_s"), seconds, strict=True)}


def _rounded(share: float | None) -> str | None:
    return None if share is None else f"{share:.4f}"


def _in_process(name: str, step: str, cpu_s: int, gb: int) -> dict[str, Any]:
    """What one step of one network answers, or how its process ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.conformance.architecture_check", "timm", "torch_pruning"])
    mine, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=_answer, args=(name, step, cpu_s, gb, theirs))
    worker.start()
    theirs.close()
    try:
        return dict(mine.recv())
    except EOFError:
        worker.join()
        too_long = worker.exitcode == -signal.SIGXCPU
        ended = f"takes more than {cpu_s} s of CPU time" if too_long else f"its process ended with {worker.exitcode}"
        return {"outcome": "FAILED", "why": ended}
    finally:
        worker.join()
        mine.close()


def _answer(name: str, step: str, cpu_s: int, gb: int, answer: Connection) -> None:
    """One step, in a process of its own."""
    from bench.conformance.architecture_check import Request, examine

    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))  # a warning before the kill says which it was
    resource.setrlimit(resource.RLIMIT_DATA, (gb << 30, gb << 30))
    warnings.simplefilter("ignore")
    if step == "torch-pruning":
        answer.send({"why": torch_pruning(name)})
    else:
        answer.send(dataclasses.asdict(examine(f"timm:{name}", Request(step))))


def torch_pruning(name: str) -> str:
    """What torch-pruning alone makes of a network: its magnitude pruner at ``RATIO``, as its documents show it."""
    import torch
    import torch_pruning as tp
    from torch import nn

    from bench.conformance.architecture_check import Request, _built
    from bench.measure import flops

    network, shape = _built(f"timm:{name}", Request())
    network.eval()
    example = torch.randn(1, *shape)
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    heads = [layer for layer in layers if len(layer.weight) == Request().classes]
    try:
        before = flops.traced(network, shape).total
        pruner = tp.pruner.MagnitudePruner(
            network, example, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=RATIO,
            ignored_layers=heads,
        )  # fmt: skip
        pruner.step()
    except Exception as error:
        return f"fails: {_line(error)}"
    try:
        with torch.no_grad():
            network(example)
        after = flops.traced(network, shape).total
    except Exception as error:
        return f"its network fails: {_line(error)}"
    return f"{after / before:.2f} of the MACs" if after < before else "removes nothing"


def _line(error: Exception) -> str:
    if isinstance(error, MemoryError) or "allocate memory" in str(error):  # in the words of torch
        return f"takes more than {resource.getrlimit(resource.RLIMIT_DATA)[0] >> 30} GB"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:100]


STEPS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "inner": _of_inner,
    "full": lambda found: {"least_full": _rounded(found.get("least")) or "none"},
    "torch-pruning": lambda found: {"torch_pruning": found["why"]},
}
"""Step -> what its answer adds to a row."""
MARK = {"inner": "outcome", "full": "least_full", "torch-pruning": "torch_pruning"}
"""Step -> the column that is empty until it is done."""


if __name__ == "__main__":
    sys.exit(main())
