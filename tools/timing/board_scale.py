"""Seconds and memory that a board of very many records takes: reading them, reading the cache, all tables, the pages.

    python -m tools.timing.board_scale [RECORDS] [FOLDER]

The records are copies of one that a real run left, as the suite writes them, each with a specification, an accuracy, a
cost and hashes of its own: 40 methods at 4 budgets with 5 seeds, on so many networks as it takes. What is in FOLDER
already is used again.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.cli.board import FORMATS
from bench.records import store
from bench.spec.spec import Budget, Spec

ROOT = Path(__file__).parents[2]
KEEPS = (0.75, 0.5, 0.25, 0.1)
METHODS = ("dense", "random", "l1_norm", "uniform_thin", "uniform_thin_long", *(f"method{k}" for k in range(35)))
SEEDS = 5
MARKS = {
    **{"method": '"@method@"', "arch": '"@arch@"', "spec": '"' + "a" * 64 + '"', "id": '"aaaaaaaaaaaa-s0"'},
    **{"seed": "987654321", "keep": "0.123454321", "right": "0.11111", "dense": "0.22222"},
    **{"macs": "1111111", "conv": "1111112", "base": '"' + "b" * 64 + '"'},
}


def template():
    """The text of a real record with a mark for each value that is to vary, as it is hashed and as it is written."""
    path = next(p for p in store.find(ROOT / "leaderboard" / "records") if p.parent.name == "l1_norm")
    found = store.load(path)
    found["spec"] |= {"method": "@method@", "arch": "@arch@", "seed": 987654321}
    found["spec"]["budget"]["keep_macs"] = 0.123454321
    found |= {"id": "aaaaaaaaaaaa-s0", "spec_sha256": "a" * 64, "record_sha256": "c" * 64}
    found["metrics"]["final"] |= {"top1": 0.11111, "worst_class_top1": 0.0, "top5": 1.0}
    found["metrics"]["dense"] |= {"top1": 0.22222, "worst_class_top1": 0.0, "top5": 1.0}
    found["cost"]["final"]["macs"] = 1111111
    found["cost"]["final"]["macs_by_op"] = {"conv": 1111112}
    found["training"]["base"]["sha256"] = "b" * 64
    found["code"]["diff_sha256"] = None
    for timing in found["latency"]:  # as they are written now: to the nanosecond
        for key in ("dense_samples_ms", "sliced_samples_ms"):
            timing[key] = [round(sample, 6) for sample in timing[key]]
    body = {key: value for key, value in found.items() if key != "record_sha256"}
    hashed = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return found, hashed, store.to_text(found)


def generate(folder, count):
    """Write the records."""
    found, hashed, text = template()
    rng, images = np.random.default_rng(0), found["metrics"]["final"]["examples"]
    spec = {key: value for key, value in found["spec"].items() if key != "recipe_sha256"}
    recipe = Spec.from_dict(spec | {"method": "x", "arch": "x", "seed": 0}).recipe
    written = 0
    for net in range(-(-count // (len(METHODS) * len(KEEPS) * SEEDS))):
        for method in METHODS:
            skill = rng.normal(0, 3)
            for keep in KEEPS:
                asked = Spec(method, f"net{net}", found["spec"]["dataset"], recipe, Budget(keep_macs=keep))
                target = folder / f"net{net}" / method
                target.mkdir(parents=True, exist_ok=True)
                for seed in range(SEEDS):
                    if written == count:
                        return
                    wrong = int(np.clip(20 + 5 / keep + skill + rng.normal(0, 2), 0, images))
                    macs = int(found["cost"]["dense"]["macs"] * keep) - 10
                    base = hashlib.sha256(f"{net} {seed}".encode()).hexdigest()
                    values = {
                        **{"method": f'"{method}"', "arch": f'"net{net}"', "spec": f'"{asked.sha256}"'},
                        **{"id": f'"{asked.sha256[:12]}-s{seed}"', "seed": str(seed), "keep": repr(keep)},
                        **{"right": repr((images - wrong) / images), "dense": repr((images - 9) / images)},
                        **{"macs": str(macs), "conv": str(macs), "base": f'"{base}"'},
                    }
                    body, whole = hashed, text
                    for mark, value in values.items():
                        body, whole = body.replace(MARKS[mark], value), whole.replace(MARKS[mark], value)
                    own = hashlib.sha256(body.encode()).hexdigest()
                    (target / f"{asked.sha256[:12]}-s{seed}.json").write_text(whole.replace("c" * 64, own))
                    written += 1


MEASURED = """
import resource, sys, time
began = time.perf_counter()
from bench.cli import main
code = main(sys.argv[1:])
took = time.perf_counter() - began
print(f"{took:.1f} s, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB", file=sys.stderr)
raise SystemExit(code)
"""


def command(what, *words):
    """``bench WORDS`` in a process of its own, so that start and peak memory are those of a user."""
    print(f"{what}: ", end="", flush=True)
    code = [sys.executable, "-c", MEASURED, *map(str, words)]
    done = subprocess.run(code, check=True, cwd=ROOT, capture_output=True, text=True)
    print(f"{done.stderr.splitlines()[-1]}; {len(done.stdout) / 2**20:.1f} MB printed")


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="board-"))
    if not any(folder.iterdir() if folder.exists() else ()):
        began = time.perf_counter()
        generate(folder, count)
        print(f"wrote {count:,} records in {time.perf_counter() - began:.0f} s under {folder}")
    print(f"a record is {next(store.find(folder)).stat().st_size / 1024:.0f} KB, load {os.getloadavg()[0]:.1f}")
    cache = folder / ".board-cache.json"
    cache.unlink(missing_ok=True)
    command("first, all files read, the tables of one network", "board", folder, "--arch", "net0")
    print(f"the cache is {cache.stat().st_size / 2**20:.0f} MB")
    command("from the cache, the tables of one network", "board", folder, "--arch", "net0")
    for fmt in FORMATS:
        command(f"from the cache, all tables made, {fmt}", "board", folder, "--format", fmt)
    site = Path(tempfile.mkdtemp()) / "site"
    command("from the cache, the site of one network", "board", folder, "--arch", "net0", "--site", site)
    pages = sorted(site.rglob("*.html"), key=lambda page: -page.stat().st_size)
    print(f"{len(pages)} pages, the largest {pages[0].stat().st_size / 2**20:.2f} MB ({pages[0].name})")


if __name__ == "__main__":
    main()
