"""How well budgets of milliseconds are met, and what they gain: real runtimes on a quiet machine.

    python -m tools.timing.latency_budgets --out FOLDER [--minutes 8] [--networks resnet56] [--runtimes onnxruntime]
        [--shape 3,32,32] [--vectors 100] [--only PART] [--prepare] [--anyway] [--report]

Parts: the latency table; its prediction of random widths that it has not seen; asked against measured at five shares by
two methods, untrained networks; MACs that a budget of milliseconds keeps at the time which a budget of MACs takes. Each
is kept in FOLDER, so the same command continues where it was stopped, after ``--minutes`` or by a busy machine (exit
code 3). ``--prepare`` converts the networks before, for which the machine may be busy. ``--anyway`` does not ask for
quiet. ``--report`` prints the figures of FOLDER and times nothing.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

import bench
from bench.deploy.apart import apart
from bench.deploy.given import given
from bench.deploy.known import known_of
from bench.deploy.latency import latency_choice
from bench.errors import BenchError, RunFailed, SetupError
from bench.measure import bursts, runtimes
from bench.measure.quiet import Load, Machine, say
from bench.models.build import build
from bench.pruning.latency_solver import best, choices_of
from bench.pruning.latency_terms import terms_of
from bench.runs import latency_tables
from bench.runs.network_timer import NetworkTimer
from bench.spec.digest import digest
from bench.spec.spec import LATENCY_TOLERANCE, WIDTH, Budget

NETWORKS = {"resnet56": "resnet56", "mobilenet_v2": "torchvision:mobilenet_v2"}
RUNTIMES = ("onnxruntime", "openvino")
SHARES, METHODS = (0.9, 0.8, 0.75, 0.7, 0.65), ("l1_norm", "random")
MACS = (0.8, 0.7, 0.6, 0.5)


class Quietish(Machine):
    """A machine on which nobody looks who else uses it."""

    def wait(self):
        """Nothing."""

    def undisturbed(self, measure):
        """The first result."""
        before = self.read()
        value = measure()
        return value, Load.between(before, self.read()), 0


class Timer(NetworkTimer):
    """Keeps converted networks in a folder: what is prepared there needs no quiet machine."""

    folder = Path()

    def call(self, vector, copies):
        """Calls of a network's copies."""
        name = digest([self.terms.sha256, self.shape, vector.tolist()])[:16]
        network, x = self.slice(vector), torch.rand(self.batch, *self.shape)
        device, layout = runtimes.place_of(self.runtime, runtimes.CPU, self.layout)
        load = partial(runtimes.load, self.runtime, network, self.shape, device, layout, self.folder / f"{name}.onnx")
        return [load(quick=True)(x) for _ in range(copies)]

    def _visits(self, vectors, copies):
        with bursts.threads_of(self.threads):
            calls = [call for vector in vectors for call in self.call(vector, copies)]
            return bursts.burst_ms(calls, self.machine)


class Subject:
    """One network in one runtime; what was timed is in files of the folder."""

    def __init__(self, name, runtime, shape, out):
        self.name, self.runtime, self.shape, self.out = name, runtime, shape, out
        self.network = build(NETWORKS[name], shape, 10, 0).eval()
        self.example = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
        self.where = {"runtime": runtime, "batch": 1, "threads": 1}

    def choice(self, share=0.9):
        """What meets a share of the milliseconds; makes the table where there is none."""
        budget = Budget(keep_latency=share, **self.where)
        with apart():
            had, work = given(self.network, self.example)
            known = self.known(had, work)
            return latency_choice(had, work, known, known.costs, budget, f"keep_latency={share}", WIDTH, self.out)

    def known(self, had, work):
        """What ``bench.prune`` knows of the network."""
        return known_of(work, had.shape, had.inputs, "inner", WIDTH)

    def timer(self, choice):
        """Times slices of the network."""
        with apart():
            had, work = given(self.network, self.example)
            sites = self.known(had, work).sites
        return latency_tables.TIMER(
            self.network, sites, self.shape, choice.terms, self.runtime, 1, 1, "channels_last", latency_tables.MACHINE
        )

    def prepare(self, vectors):
        """Convert the networks of the table and of its prediction."""
        with apart():
            had, work = given(self.network, self.example)
            known = self.known(had, work)
            terms = terms_of(self.network, known.sites.bind(self.network), known.costs)
            how = (self.shape, terms, self.runtime, 1, 1, "channels_last", latency_tables.MACHINE)
            timer = Timer(self.network, known.sites, *how)
            for vector in [*terms.networks(), *terms.drawn(vectors, seed=1)]:
                timer.call(vector, 1)

    def table(self):
        """Seconds for the table, and what it is."""
        began = time.perf_counter()
        choice = self.choice()
        rng, seconds = np.random.default_rng(0), []
        for share in np.linspace(0.95, 0.7, 5):
            units = zip(choice.terms.names, choice.terms.dense, strict=True)
            scores = {name: torch.from_numpy(rng.random(width)) for name, width in units}
            choices = choices_of(scores, choice.terms, choice.costs, choice.budget, "layer")
            before = time.process_time()
            best(choice.model, choices, share * choice.model.dense_ms)
            seconds.append(time.process_time() - before)
        return {
            "networks": len(choice.timed),
            "kinds": len(choice.terms.sizes),
            "seconds": time.perf_counter() - began,
            "dense_ms": choice.model.dense_ms,
            "constant_ms": choice.model.constant,
            "solver_cpu_s": max(seconds),
        }

    def prediction(self, vectors):
        """Relative errors of random widths of the table, next to the dense network."""
        choice = self.choice()
        drawn = choice.terms.drawn(vectors, seed=1)
        dense = [np.array(choice.terms.dense)] * 5
        ms = self.timer(choice).ms([*dense, *drawn])
        scale = choice.model.dense_ms / np.median(ms[:5])
        macs = [choice.costs.macs(vector) / choice.costs.macs(choice.costs.dense) for vector in drawn]
        shares = ms[5:] / np.median(ms[:5])
        slope = np.polyfit(macs, shares, 1)
        return {
            "errors": [choice.model.ms(v.tolist()) / (scale * t) - 1 for v, t in zip(drawn, ms[5:], strict=True)],
            "errors_of_macs": (np.polyval(slope, macs) / shares - 1).tolist(),
            "drift": float(scale - 1),
        }

    def asked(self, share, method):
        """Rounds of one prune."""
        try:
            budget = {"keep_latency": share, **self.where}
            pruned = bench.prune(self.network, self.example, method=method, tables=self.out, **budget)
        except RunFailed as error:
            return {"failed": str(error)}
        rounds = pruned.cost["latency"]["rounds"]
        shares = [each["ms"] / each["dense_ms"] for each in rounds]
        macs = pruned.cost["pruned"]["macs"] / pruned.cost["dense"]["macs"]
        return {"asked": share, "measured": shares, "macs": macs}

    def equal_ms(self, keep):
        """MACs of a budget of MACs, its milliseconds, and MACs of a budget of these milliseconds."""
        pruned = bench.prune(self.network, self.example, keep_macs=keep)
        choice = self.choice()
        vector = np.array([pruned.widths[name][1] for name in choice.terms.names])
        measured = self.timer(choice).measure(vector)
        share = measured.ms / measured.dense_ms
        return {"keep_macs": keep, "share_of_ms": share} | self.asked(min(share, 0.99), "l1_norm")


def parts(subjects, vectors):
    """Name -> what makes it, in the order in which figures matter."""
    for one in subjects:
        label = f"{one.name}-{one.runtime}"
        yield f"{label}-table", one.table
        yield f"{label}-prediction", lambda one=one: one.prediction(vectors)
        for share in SHARES:
            for method in METHODS:
                yield f"{label}-asked-{share}-{method}", lambda one=one, s=share, m=method: one.asked(s, m)
        if one.name == "resnet56":
            for keep in MACS:
                yield f"{label}-macs-{keep}", lambda one=one, keep=keep: one.equal_ms(keep)


def report(out):
    """Print the figures of a folder."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(out.glob("*.json"))}
    for name, part in found.items():
        if name.endswith("-table"):
            print(
                f"{name}: {part['networks']} networks, {part['kinds']} kinds, {part['seconds']:.0f} s; dense "
                f"{part['dense_ms']:.3f} ms, constant {part['constant_ms']:.3f}; solver {part['solver_cpu_s']:.2f} s"
            )
        if name.endswith("-prediction"):
            texts = []
            for key in ("errors", "errors_of_macs"):
                errors = 100 * np.abs(part[key])
                texts.append(f"{np.median(errors):.1f} / {np.quantile(errors, 0.95):.1f} / {errors.max():.1f}")
            print(f"{name}: {len(errors)} vectors, median / p95 / max {texts[0]} %; line of MACs {texts[1]} %")
        if "-macs-" in name and "failed" not in part:
            gain = 100 * (part["macs"] / part["keep_macs"] - 1)
            print(
                f"{name}: {part['share_of_ms']:.3f} of the ms; at {part['measured'][-1]:.3f} the budget of ms keeps "
                f"{part['macs']:.3f} of the MACs, {gain:+.0f} %"
            )
    prunes = {name: part for name, part in found.items() if "-asked-" in name}
    for name, part in prunes.items():
        if "failed" in part or abs(part["measured"][-1] / part["asked"] - 1) > LATENCY_TOLERANCE:
            print(f"{name}: {part.get('failed', part)}")
    done = [p for p in prunes.values() if "measured" in p]
    near = [p for p in done if abs(p["measured"][-1] / p["asked"] - 1) <= LATENCY_TOLERANCE]
    rounds = [len(part["measured"]) for part in near]
    loud = [name for name, part in found.items() if not part["quiet"]]
    if loud:
        print(f"nobody looked whether the machine was quiet: {', '.join(loud)}")
    if prunes:
        print(f"asked = measured within 3 %: {len(near)} of {len(prunes)} prunes, rounds {np.bincount(rounds)[1:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    parser.add_argument("--vectors", type=int, default=100)
    parser.add_argument("--shape", default="3,32,32")
    parser.add_argument("--only", default="", help="parts with this in their names")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--wait", type=float, default=60)
    parser.add_argument("--anyway", action="store_true")
    parser.add_argument("--report", action="store_true")
    chosen = parser.parse_args()
    if chosen.report:
        report(chosen.out)
        return 0
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    latency_tables.MACHINE = Quietish() if chosen.anyway else Machine(chosen.wait)
    latency_tables.TIMER, Timer.folder = Timer, chosen.out / "files"
    Timer.folder.mkdir(exist_ok=True)
    shape = tuple(map(int, chosen.shape.split(",")))
    began = time.monotonic()
    pairs = [(name, runtime) for name in chosen.networks.split(",") for runtime in chosen.runtimes.split(",")]
    subjects = [Subject(*pair, shape, chosen.out) for pair in pairs]
    if chosen.prepare:
        for one in subjects:
            one.prepare(chosen.vectors)
        return 0
    for name, part in parts(subjects, chosen.vectors):
        file = chosen.out / f"{name}.json"
        if file.exists() or chosen.only not in name:
            continue
        if time.monotonic() - began > 60 * chosen.minutes:
            say(f"{chosen.minutes:g} minutes are over: the same command continues")
            return 0
        before = time.monotonic()
        try:
            found = part()
        except SetupError as error:
            say(str(error))
            return error.exit_code
        except BenchError as error:
            found = {"failed": str(error)}
        file.write_text(json.dumps(found | {"quiet": not chosen.anyway}))
        say(f"{name}: {time.monotonic() - before:.0f} s")
    report(chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
