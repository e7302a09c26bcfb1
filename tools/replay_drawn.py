"""Run one run of each row that a merge adds again: ``python -m tools.replay_drawn [--since COMMIT] [--minutes 10]``.

Which run is decided by the hash of the commit that is checked out, which no submitter makes. ``--since ""`` draws of
all rows of submitters, as once a week. The suite's own rows are replayed at each release.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import cli
from bench.records import pack
from bench.records.cross_checks import SUITE
from leaderboard.reader.extract import as_record
from leaderboard.reader.frame import find
from leaderboard.stats.replays import drawn

RECORDS = Path("leaderboard") / "records"
OWN_HASH = re.compile(rb'"record_sha256":"([0-9a-f]{64})"')
OTHERWISE = "NOT AS BEFORE"
OUTCOMES = {0: "as before", 3: "not replayed, this machine cannot"}
"""Exit code of ``bench reproduce`` -> what is said of the run."""


def main(words: Sequence[str] | None = None) -> int:
    """Carry out the command; returns 1 where a replay is outside, fails, or cannot be asked for here."""
    p = argparse.ArgumentParser(prog="python -m tools.replay_drawn", description="Run one run of each new row again.")
    p.add_argument("--since", default="HEAD^1", metavar="COMMIT", help="draw of rows that it does not have (HEAD^1)")
    p.add_argument("--minutes", type=float, default=10.0, help="begin no run that may end later (10)")
    p.add_argument("--out", type=Path, default=Path("results") / "drawn", help="folder for the replays")
    p.add_argument("--download", action="store_true", help="fetch data sets that are not here")
    p.add_argument("records", nargs="?", type=Path, default=RECORDS, help=f"of all submitters ({RECORDS})")
    chosen = p.parse_args(words)
    root, end = chosen.records, time.monotonic() + 60 * chosen.minutes
    commit = (git(root, "rev-parse", "HEAD") or b"").decode().strip()
    if not commit or (chosen.since and git(root, "rev-parse", "--verify", "--quiet", chosen.since) is None):
        print(f"nothing is drawn: {root} has no commit{f' {chosen.since}' if commit else ''}")
        return 0
    runs = drawn(new_rows(root, chosen.since), commit)
    outcomes: dict[str, list[str]] = defaultdict(list)
    for r in sorted(runs, key=lambda r: hashlib.sha256(f"{commit}/{r.file}".encode()).digest()):
        if time.monotonic() + (r.training_seconds or 0) > end:
            outcomes["not replayed, the time is over"].append(r.file)
            continue
        options = ["--out", str(chosen.out), *(["--download"] if chosen.download else [])]
        code = cli.main(["reproduce", f"{root}/{r.file}", *options])
        outcomes[OUTCOMES.get(code, OTHERWISE)].append(r.file)
    print(f"{len(runs)} new rows by others; one run of each was drawn by {commit[:12]}")
    for outcome, files in outcomes.items():
        print(*(f"{outcome}: {file}" for file in files), sep="\n")
    return int(OTHERWISE in outcomes)


def new_rows(root: Path, since: str) -> list[list[Any]]:
    """The finished runs of each row of a submitter that a commit does not have; without a commit all of them."""
    before = known(root, since) if since else set()
    rows: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for r in map(as_record, find(root, cache=False, screened=True).rows):
        own = r.submitter not in ("", SUITE) and r.status == "ok" and not r.replay_of
        if own and r.record_sha256 not in before:
            rows[r.submitter, r.spec_sha256].append(r)
    return [sorted(rows[row], key=lambda r: (r.seed, r.file)) for row in sorted(rows)]


def known(root: Path, commit: str) -> set[str]:
    """Hashes of the records that a commit has below a folder."""
    names = git(root, "ls-tree", "-r", "--name-only", "-z", commit, "--", ".") or b""
    found: set[bytes] = set()
    for name in names.decode().split("\0"):
        if not (pack.is_pack(name) or name.endswith(".json")):
            continue
        content = git(root, "show", f"{commit}:./{name}") or b""
        found |= {*OWN_HASH.findall(gzip.decompress(content) if pack.is_pack(name) else content)}
    return {sha256.decode() for sha256 in found}


def git(root: Path, *words: str) -> bytes | None:
    """What a git command prints; None where it fails."""
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True)
    return done.stdout if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
