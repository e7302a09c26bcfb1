"""Times of two networks in turns, each runtime and batch in several processes, with the dense one as its control."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.deploy.opened import Where, opened
from bench.errors import RunFailed
from bench.measure import environment, runtimes
from bench.measure.onnx_export import Bind
from bench.measure.quiet import Machine
from bench.records.latency import Key, Samples, refused, times_of
from bench.records.score import ScoredNetwork, Timed
from bench.runs.latency_pass import How, LatencyPass
from bench.runs.latency_restart import Pair, Window, Work
from bench.spec.digest import digest

Named = tuple[str, str]
"""A network as a user named it, and which one of a record."""


@dataclass(frozen=True)
class ScoredPair(Pair):
    """Two networks that are opened again in each process.

    Attributes:
        named: both.
        where: how to open them.
    """

    named: tuple[Named, Named]
    where: Where

    def bound(self, key: Key, device: torch.device, folder: Path) -> list[Bind]:
        """See :class:`bench.runs.latency_restart.Pair`."""
        found = []
        for text, which in self.named:
            file = folder / f"{digest([text, which])[:16]}.{key.runtime}"
            found.append(opened(text, which, self.where).bind(key.runtime, device, key.layout, file))
        return found


def timed(
    named: Sequence[Named],
    networks: Sequence[ScoredNetwork],
    where: Where,
    how: How,
    layout: str,
    machine: Machine,
    process: Callable[[Work], Iterable[Window]] | None,
    say: Callable[[str], object],
) -> list[Timed]:
    """Time the dense network and the other one.

    Args:
        named: dense network, other network.
        networks: what is known of them.
        where: how to open them.
        how: runtimes, batches, threads.
        layout: memory format that both take.
        machine: says when it is quiet.
        process: carries out the work; None: new processes.
        say: prints how far it is.

    Raises:
        Busy: the machine is not quiet.
        RunFailed: a runtime does not take a network, or the dense one differs from its copy.
    """
    if not how.runtimes:
        return []
    dense, other = named
    controls, keys = (
        tuple(_key(pair, where, how, layout, *which) for which in itertools.product(how.runtimes, how.batches))
        for pair in ((networks[0], networks[0]), networks)
    )
    say(f"timing both in {', '.join(how.runtimes)}, the dense one against its copy as a control")
    machine.wait()
    work = LatencyPass(how, lambda lines, samples: None, machine, process, say)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        pairs = [ScoredPair(controls, (dense, dense), where), ScoredPair(keys, (dense, other), where)]
        found = work.timed(pairs, Path(folder))
    lines = []
    for key, control in zip(keys, controls):
        for which in (control, key):
            if which in work.failures:
                raise RunFailed(f"{key.runtime}, batch {key.batch}: {work.failures[which]}")
        measured, same = found[key], times_of(Samples(found[control].samples))
        if why := refused(same, len(controls)):
            raise RunFailed(f"{key.runtime}, batch {key.batch}: {why}; try again on a machine without other work")
        facts = {
            name: getattr(key, name) for name in ("runtime", "runtime_version", "device", "threads", "batch", "timed")
        }
        times = times_of(Samples(measured.samples))
        lines.append(Timed(**facts, layout=key.layout, times=times, control=same, quiet=measured.quiet))
    return lines


def _key(pair: Sequence[ScoredNetwork], where: Where, how: How, layout: str, runtime: str, batch: int) -> Key:
    """What a pair is timed as; the hashes are those of the two networks, in place of an architecture and widths."""
    device, layout = runtimes.place_of(runtime, torch.device(how.device), layout)
    return Key(
        arch_sha256=pair[0].sha256,
        shape=where.shape,
        widths_sha256=digest([pair[1].sha256, pair[1] is pair[0]]),
        runtime=runtime,
        runtime_version=runtimes.version_of(runtime),
        device=environment.device_name(device),
        threads=how.threads,
        batch=batch,
        dtype="float32",
        layout="channels_last" if layout == "channels_last" else "channels_first",
        timed="bursts" if how.timed == "bursts" else "turns",
    )
