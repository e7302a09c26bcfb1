"""The chaos test's runs without disturbance, and what must hold of the disturbed ones (see chaos.py)."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import bench
from bench.errors import BenchError
from bench.records import store
from bench.records.schema import Record
from bench.spec.digest import digest
from slurm import journal
from slurm.batch import Batch, jobs_folder
from tools.timing.chaos_events import EVENTS

EPOCHS = {"mlp_40_40": (60, 40), "resnet20": (6, 4)}
KINDS = list(itertools.product(("ddrop", "l1_norm", "l1l2", "random", "uniform_thin"), (0.5, 0.25)))


class Log:
    """Lines on stdout and in a file."""

    def __init__(self, file: Path | None) -> None:
        self.began = time.monotonic()
        self.streams = [sys.stdout, *([file.open("w", encoding="utf-8")] if file else [])]

    def say(self, text: str) -> None:
        """One line, with the seconds since the beginning."""
        for stream in self.streams:
            print(f"{time.monotonic() - self.began:7.1f}  {text}", file=stream, flush=True)


def bench_sweep(folder: Path, log: Path, words: list[str], more: dict[str, str]) -> subprocess.Popen:
    """Start ``bench sweep``. What it cannot save goes to the folder, as does what its jobs cannot."""
    command = [sys.executable, "-m", "bench", "sweep", str(folder / "sweep.toml"), "--threads", "1", *words]
    env = os.environ | more | {"TMPDIR": str(folder / "tmp")}
    source = Path(bench.__file__).parents[1]
    with log.open("w") as out:
        return subprocess.Popen(command, cwd=source, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def sweep_file(runs: int) -> str:
    """So many runs, about ten to a base."""
    bases = [(list(EPOCHS)[k % len(EPOCHS)], k // len(EPOCHS)) for k in range(max(2, -(-runs // len(KINDS))))]
    text = 'description = "many short runs"\n\n[defaults]\ndataset = "digits"\n'
    for k in range(runs):
        (arch, seed), (method, keep) = bases[k % len(bases)], KINDS[k // len(bases)]
        text += f'\n[[runs]]\nmethod = "{method}"\narch = "{arch}"\nkeep_macs = {keep}\nseeds = "{seed}"\n'
        text += "epochs = {}\nfinetune_epochs = {}\n".format(*EPOCHS[arch])
    return text


def undisturbed(folder: Path, log: Log) -> dict[Path, Record]:
    """The same runs one after the other in two processes; those that are there from before stay."""
    name = "undisturbed-" + digest((folder / "sweep.toml").read_text())[:8]
    out, began, shards = folder / name, time.monotonic(), []
    try:
        for part in ("1/2", "2/2"):
            words = ["--cluster", "inline", "--quiet", "--out", str(out), "--shard", part]
            shards.append(bench_sweep(folder, folder / f"{name}-{part[0]}.log", words, {}))
        if any(shard.wait() for shard in shards):
            raise SystemExit(f"the undisturbed runs failed, see {out}-1.log and -2.log")
    finally:
        for shard in shards:
            shard.kill()
    found = {path.relative_to(out / "records"): store.load(path) for path in store.find(out / "records")}
    log.say(f"{len(found)} runs undisturbed in {time.monotonic() - began:.0f} s, in {out}")
    return found


def damaged(out: Path, found: dict[Path, Record]) -> list[str]:
    """Files that are not whole; the records that are go to ``found``."""
    bad = []

    def is_hash(value: str, file: Path) -> None:
        if value != hashlib.sha256(file.read_bytes()).hexdigest():
            bad.append(f"{file}: not what its record or facts say")

    for path in sorted([*out.glob("records/**/*.json"), *out.glob("bases/*.json"), *out.glob("jobs/*/batch.json")]):
        try:
            if path.parent.name == "bases":
                is_hash(json.loads(path.read_text())["sha256"], path.with_suffix(".safetensors"))
            elif path.name == "batch.json":
                Batch.load(path)
            else:
                found[path] = entry = store.load(path)
                artifacts = store.as_table(entry).get("artifacts", {})
                for artifact in artifacts.values() if path.parent.name != "superseded" else ():
                    is_hash(artifact["sha256"], out / "artifacts" / entry.id / artifact["file"])
        except (BenchError, OSError, ValueError, KeyError) as error:
            bad.append(f"{path.name}: {error}")
    return bad


def repeated(attempts_of: dict[str, list[journal.Attempt]], retried: set[str]) -> list[str]:
    """Attempts that began before what the attempt before them had saved; ``retried`` are runs that failed and may."""
    bad = []
    for key, attempts in attempts_of.items():
        for before, after in itertools.pairwise(attempt for attempt in attempts if attempt.saves):
            assert before.last is not None and after.first is not None  # both saved something
            left, first = (of - done for _, done, of in (before.last, after.first))
            if first > left and key not in retried:
                bad.append(f"{key}: {left} epochs were left, and {first} after the first of job {after.job}")
    return bad


def verdict(chaos, seconds: float) -> bool:
    """Print what holds and what does not; returns whether all does."""
    say, out = chaos.log.say, chaos.out
    broken: list[str] = []
    found: dict[Path, Record] = {}

    def check(what: str, bad: list[str]) -> None:
        broken.extend(bad)
        say("\n            ".join([f"{'BROKEN' if bad else 'holds '}  {what}: {len(bad)}", *bad]))

    say("verdict")
    for kind in EVENTS:
        say(f"{chaos.counts[kind]:5}  {kind}")
    say(f"{sum(chaos.counts[kind] for kind in EVENTS):5}  events")
    say(", ".join(f"{chaos.counts[what]} {what}" for what in ("calls of sweep", "nodes resumed", "jobs released")))
    check("torn or damaged files", damaged(out, found))
    mine = {path: found.get(out / "records" / path) for path in chaos.expected}
    ok = {path: entry for path, entry in mine.items() if entry and entry.status == "ok"}
    say(f"{len(ok)} of {len(mine)} runs have a finished record ({100 * len(ok) / len(mine):.0f} %)")
    check("lost runs, without a record", [path.stem for path, entry in mine.items() if not entry])
    check("unfinished runs", [f"{p.stem}: {e.status}" for p, e in mine.items() if e and e.status != "ok"])
    attempts_of = journal.attempts_of(jobs_folder(out))
    good = Counter(entry.id for entry in found.values() if entry.status == "ok")
    twice = [f"{key}: {n} finished records" for key, n in good.items() if n > 1]
    twice += [f"base {key}: its facts changed" for key in sorted(chaos.changed_bases)]
    for key, attempts in attempts_of.items():
        rest = list(itertools.dropwhile(lambda attempt: attempt.ended != journal.DONE, attempts))[1:]
        twice += [f"{key}: trained on after it was done" for attempt in rest if attempt.saves]
    check("made twice", twice)
    unequal = []
    for path, entry in ok.items():
        a, b = store.without_timing(entry), store.without_timing(chaos.expected[path])
        if a != b:
            unequal.append(f"{path.stem}: {', '.join(key for key in a if a[key] != b.get(key))}")
    check("results that differ from the undisturbed ones", unequal)
    aside = [entry for path, entry in found.items() if path.parent.name == "superseded"]
    check("saved epochs that were trained again", repeated(attempts_of, {entry.id for entry in aside}))
    check("submissions that ended with a traceback", chaos.tracebacks)
    ends = Counter(attempt.ended or journal.KILLED for attempts in attempts_of.values() for attempt in attempts)
    killed = ends[journal.KILLED] + chaos.counts["SIGKILL of the submitting process"]
    parts = [str(path.relative_to(out)) for path in out.rglob("*.part")]
    check(f"unfinished files (*.part) beyond {killed} killed processes", parts[killed:])
    sums: Counter[str] = Counter()
    for entry in ok.values():
        counts = ("attempts", "preemptions", "timeouts", "terminations", "kills")
        sums.update({key: getattr(entry.job, key) or 0 for key in counts})
    say("as the records have it: " + ", ".join(f"{n} {what}" for what, n in sums.items()))
    say("attempts, those of bases too: " + ", ".join(f"{n} {how}" for how, n in ends.most_common()))
    failed = [f"{entry.id}: {entry.error.message if entry.error else None}" for entry in aside]
    say("; ".join([f"{len(aside)} records were superseded", *failed]))
    left = len(list(out.glob("checkpoints/*.pt"))), len(list((chaos.folder / "tmp").glob("*.json")))
    say("{} unfinished files, {} checkpoints and {} rescued records are left".format(len(parts), *left))
    say(f"{seconds:.0f} s from the first submission to the end: {'NOT ' if broken else ''}all holds")
    return not broken
