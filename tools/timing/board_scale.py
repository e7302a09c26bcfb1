"""Seconds and memory that a board of very many records takes: reading them, reading the cache, all tables, the pages.

    python -m tools.timing.board_scale [RECORDS] [FOLDER]

The records are copies of those that real runs left, as the suite writes them, each with a specification, an accuracy, a
cost and hashes of its own: 40 rows at 4 budgets with 5 seeds, on so many networks as it takes. What is in FOLDER
already is used again.
"""

import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from bench.cli.board import FORMATS
from bench.records import bits, pack, store
from bench.spec.spec import Budget, Spec

ROOT = Path(__file__).parents[2]
KEEPS = (0.75, 0.5, 0.25, 0.1)
CONTROLS = ("dense", "random", "uniform_thin", "uniform_thin_long", "l1_norm")
ROWS = [*((name, {}) for name in CONTROLS), *(("l1_norm", {"row": k}) for k in range(35))]
"""Methods with their options, none of which needs to be known."""
SEEDS = 5


def templates():
    """Records that real runs left: (method, seed) -> one of them."""
    packs = ROOT / "leaderboard" / "records" / "suite" / "digits-resnet20.jsonl.gz"
    return {(found.spec.method, found.spec.seed): found for found in map(store.load, store.find(packs))}


def sha256(*facts):
    """A hash of its own for these facts."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def record(like, code, asked, seed, wrong, net):
    """A record as a run of that specification leaves it, made of one with the same data, by the code of its method."""
    images, dense, base = like.data.test, like.cost.dense, like.training.base
    right = np.ones(images, dtype=bool)
    own = np.random.default_rng([net, seed, int(asked.sha256[:8], 16)])
    right[own.permutation(images)[: wrong // 2]] = right[: wrong - wrong // 2] = False
    top1, macs = int(right.sum()) / images, int(dense.macs * asked.budget.keep_macs) - 10
    steps = 3 * (base.examples // base.epochs) * asked.recipe.finetune.epochs
    change = msgspec.structs.replace
    final = change(like.cost.final, macs=macs, macs_by_op={"conv": macs})
    of_dense = {"top1": (images - 9) / images, "top5": 1.0, "worst_class_top1": 0.0}
    named = change(base, id=f"base {sha256(net, seed)[:8]}", sha256=sha256(net, seed))
    macs_of_training = base.macs + steps * macs + (like.training.method_macs or 0)
    return change(
        like,
        id=f"{asked.sha256[:12]}-s{seed}",
        spec=dataclasses.replace(asked, seed=seed),
        spec_sha256=asked.sha256,
        code=code,
        cost=change(like.cost, final=final),
        training=change(like.training, base=named, macs=macs_of_training),
        metrics=change(
            like.metrics,
            dense=change(like.metrics.dense, **of_dense),
            final=change(like.metrics.final, correct=bits.pack(right), top1=top1, top5=1.0, worst_class_top1=0.0),
        ),
        artifacts=change(like.artifacts, network=change(like.artifacts.network, sha256=sha256(asked.sha256, seed))),
    )


def generate(folder, count):
    """Write the records, one pack a network."""
    known, rng = templates(), np.random.default_rng(0)
    like = [known["l1_norm", seed] for seed in range(SEEDS)]
    for net in range(-(-count // (len(ROWS) * len(KEEPS) * SEEDS))):
        made = []
        for method, config in ROWS:
            skill = rng.normal(0, 3)
            for keep in KEEPS:
                spec = like[0].spec
                asked = Spec(method, f"net{net}", spec.dataset, spec.recipe, Budget(keep_macs=keep), config=config)
                for seed in range(SEEDS):
                    wrong = int(np.clip(20 + 5 / keep + skill + rng.normal(0, 2), 0, like[seed].data.test))
                    one = record(like[seed], known[method, seed].code, asked, seed, wrong, net)
                    made.append((one.id, store.encode(one)))
        pack.write(folder / f"net{net}{pack.SUFFIX}", made[: max(0, count - net * len(made))])


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
    size = sum(file.stat().st_size for file in folder.glob("*.gz"))
    print(f"a record is {size / count:,.0f} bytes, load {os.getloadavg()[0]:.1f}")
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
