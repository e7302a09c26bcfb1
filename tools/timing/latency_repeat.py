"""Whether latencies of this machine can be believed: equal networks in pairs, and the same shapes twice.

    python -m tools.timing.latency_repeat [RECORDS] [--pairs 50] [--again 12] [--runtimes ..] [--out FILE] ...

Both use the windows, restarts and the quiet machine of ``bench latency``. A pair is a network against its copy: at most
5 % may be called different. What is timed again must agree within 3 %; ``--before`` compares with the FILE that an
earlier call, on another day, wrote with ``--out``. About 18 minutes on an idle machine; exit code 1 when one does not
hold, 3 on a busy machine.
"""

import argparse
import json
import math
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.measure.quiet import Machine, say
from bench.measure.runtimes import require
from bench.records import store
from bench.records.latency import ALPHA, SAME, Samples, times_of
from bench.records.schema import finished
from bench.runs.latency_pass import How, LatencyPass, tasks_of, wanted

HOW = How(("eager", "onnxruntime"), (1, 64), 1, "cpu")


def chosen_keys(path, count, how=HOW):
    """Keys of so many different shapes and settings, from all networks alike; fewer where there are no more."""
    records = [record for file in store.find(path) if finished(record := store.load(file))]
    keys = wanted(records, how)
    by_network = {}
    for key in random.Random(0).sample(sorted(keys), len(keys)):
        by_network.setdefault(key.arch_sha256, []).append(key)
    taken = [of_one[k] for k in range(len(keys)) for of_one in by_network.values() if k < len(of_one)]
    return {key: keys[key] for key in taken[:count]}


def text(key):
    """What a key is, for people and as the name of a result."""
    return f"{key.arch_sha256[:8]} {key.widths_sha256[:8]} {key.runtime} {key.runtime_version} batch {key.batch}"


def timed(one, keys, pair, folder):
    """Key -> what five processes say of a pair of networks."""
    found = one.timed(tasks_of(keys, pair), folder)
    return {key: times_of(Samples(measured.samples)) for key, measured in found.items()}


def agree(first, second, what):
    """Print how far two results of each key are apart; returns whether all are within 3 %."""
    apart = {name: abs(math.log(second[name] / first[name])) for name in first if name in second}
    far = [name for name, value in apart.items() if value > math.log(1 + SAME)]
    largest = 100 * math.expm1(max(apart.values(), default=0))
    print(f"{what}: {len(apart)} speed-ups, largest difference {largest:.1f} %, {len(far)} above {100 * SAME:g} %")
    for name in far:
        print(f"  {name}: {first[name]:.3f}, then {second[name]:.3f}")
    return not far


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="?", type=Path, default=Path("leaderboard/records"))
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--again", type=int, default=12, help="keys that are measured twice")
    parser.add_argument("--wait", type=float, default=600, help="longest wait for a quiet machine")
    parser.add_argument("--out", type=Path, help="writes the speed-ups there")
    parser.add_argument("--before", type=Path, help="what --out wrote on another day")
    parser.add_argument("--runtimes", type=lambda text: tuple(text.split(",")), default=("eager", "onnxruntime"))
    chosen = parser.parse_args()
    how = replace(HOW, runtimes=chosen.runtimes)
    require(how.runtimes)
    began, machine = time.monotonic(), Machine(chosen.wait)
    one = LatencyPass(how, None, machine, say=say)
    machine.wait()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        pairs = timed(one, chosen_keys(chosen.records, chosen.pairs, how), ("final", "final"), Path(folder))
        apart = {key: times for key, times in pairs.items() if not times.speedup_ci95[0] <= 1 <= times.speedup_ci95[1]}
        faster = [key for key, times in pairs.items() if times.faster or times.speedup_ci95[1] < 1 / (1 + SAME)]
        print(f"{len(pairs)} pairs of equal networks: {len(faster)} called different (limit {100 * ALPHA:g} %), of")
        print(f"  {len(apart)} the interval does not cover 1 ({100 * ALPHA:g} % are expected)")
        for key, times in apart.items():
            low, high = times.speedup_ci95
            print(f"  {text(key)}: {times.speedup:.3f} ({low:.3f} to {high:.3f})")
        again = chosen_keys(chosen.records, chosen.again, how)
        twice = [timed(one, again, ("dense", "final"), Path(folder)) for _ in range(2)]
    first, second = ({text(key): times.speedup for key, times in each.items()} for each in twice)
    good = len(faster) <= ALPHA * len(pairs)
    good &= agree(first, second, "measured twice today")
    if chosen.before:
        good &= agree(json.loads(chosen.before.read_text()), first, "another day and today")
    if chosen.out:
        chosen.out.write_text(json.dumps(first, indent=1))
    for key, why in one.failures.items():
        print(f"cannot be timed: {text(key)}: {why}")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 0 if good and pairs and not one.failures else 1


if __name__ == "__main__":
    sys.exit(main())
