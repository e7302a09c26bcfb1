"""Seconds and memory that a board of very many records takes: reading them, reading the cache, all tables, the pages.

    python benchmarks/board_scale.py [RECORDS] [FOLDER]

The records are copies of one that a real run left, as the suite writes them, each with a specification, an accuracy, a
cost and hashes of its own: 40 methods at 4 budgets with 5 seeds, on so many networks as it takes. What is in FOLDER
already is used again.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench import record
from bench.spec import Budget, Spec

ROOT = Path(__file__).parent.parent
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
    path = next(p for p in record.find(ROOT / "leaderboard" / "records") if p.parent.name == "l1_norm")
    found = record.load(path)
    found["spec"] |= {"method": "@method@", "arch": "@arch@", "seed": 987654321}
    found["spec"]["budget"]["keep_macs"] = 0.123454321
    found |= {"id": "aaaaaaaaaaaa-s0", "spec_sha256": "a" * 64, "record_sha256": "c" * 64}
    found["metrics"]["final"] |= {"top1": 0.11111, "worst_class_top1": 0.0, "top5": 1.0}
    found["metrics"]["dense"] |= {"top1": 0.22222, "worst_class_top1": 0.0, "top5": 1.0}
    found["cost"]["final"]["macs"] = 1111111
    found["cost"]["final"]["macs_by_op"] = {"conv": 1111112}
    found["training"]["base"]["sha256"] = "b" * 64
    found["code"]["diff_sha256"] = None
    body = {key: value for key, value in found.items() if key != "record_sha256"}
    hashed = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return found, hashed, record.to_text(found)


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


STEP = """
import resource, sys, time
began = time.perf_counter()
import leaderboard
from leaderboard.board import build
from leaderboard.tables import FORMATS, render
frame = leaderboard.load(sys.argv[1])
loaded = time.perf_counter()
boards, problems = build(frame)
built = time.perf_counter()
sizes = {fmt: len(render(boards, fmt)) for fmt in FORMATS} if sys.argv[2] == "tables" else {}
done = time.perf_counter()
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(f"  {len(frame):,} rows, {len(boards)} boards, {len(problems)} problems: load {loaded - began:.1f} s, "
      f"boards {built - loaded:.1f} s, tables in {len(sizes)} formats {done - built:.1f} s; "
      f"peak memory {own / 2**20:.2f} GB, of a reading process {children / 2**20:.2f} GB")
"""


def step(what, folder, tables):
    """Run in a process of its own, so that start and peak memory are those of a user."""
    print(what, flush=True)
    subprocess.run([sys.executable, "-c", STEP, str(folder), tables], check=True, cwd=ROOT)


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="board-"))
    if not any(folder.iterdir() if folder.exists() else ()):
        began = time.perf_counter()
        generate(folder, count)
        print(f"wrote {count:,} records in {time.perf_counter() - began:.0f} s under {folder}")
    sample = next(record.find(folder))
    print(f"a record is {sample.stat().st_size / 1024:.0f} KB")
    (folder / ".board-cache.json").unlink(missing_ok=True)
    step("first load", folder, "none")
    print(f"the cache is {(folder / '.board-cache.json').stat().st_size / 2**20:.0f} MB")
    step("from the cache", folder, "tables")
    site = Path(tempfile.mkdtemp()) / "site"
    began = time.perf_counter()
    words = ["board", str(folder), "--arch", "net0", "--site", str(site)]
    subprocess.run([sys.executable, "-m", "bench", *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    pages = sorted(site.rglob("*.html"), key=lambda page: -page.stat().st_size)
    largest = pages[0].stat().st_size / 2**20
    took = time.perf_counter() - began
    print(
        f"the site of one network: {len(pages)} pages in {took:.1f} s, the largest {largest:.2f} MB ({pages[0].name})"
    )


if __name__ == "__main__":
    main()
