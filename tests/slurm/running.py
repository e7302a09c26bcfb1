"""What tests on a real SLURM share: commands as a user types them, waiting, records."""

import os
import subprocess
import sys
import time
from pathlib import Path

from support.paths import PLUGINS

from bench.records import store
from slurm.batch import batches, jobs_folder
from slurm.journal import Attempt, attempts_of
from slurm.states import query_states

TINY = ("--arch", "two_layers", "--dataset", "tiny", "--recipe", "synthetic", "--set", "batch_size=32")
TINY += ("--set", "latency_batch=4", "--set", "recalibrate=2", "--threads", "1")
KNOWN = ("--plugin", str(PLUGINS / "small.py"), "--plugin", str(PLUGINS / "sleepy.py"))
DEADLINE_S = 150


def bench(*words, check=0, **changes) -> subprocess.CompletedProcess:
    """``python -m bench WORDS``, in the environment as it is; fails unless it exits with ``check``.

    What says that torch is being loaded, which depends on how long that takes, is left out of ``stderr``.
    """
    command = [sys.executable, "-m", "bench", *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **changes}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=280)
    assert check is None or done.returncode == check, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    done.stderr = done.stderr.replace("bench: loading torch\n", "")
    return done


def sleepy(out, seconds, epochs, *more) -> list[str]:
    """Words of a run on tiny data that sleeps so long after each of so many epochs."""
    words = ["run", "--method", "sleepy", "-p", f"seconds={seconds}", *TINY, *KNOWN, "--out", out]
    return [*words, "--epochs", epochs, "--finetune-epochs", 1, *more]


def profile(folder, text, cpus=1) -> Path:
    """A profile's file."""
    file = folder / "profile.toml"
    file.write_text(f"cpus = {cpus}\nmem_gb = 1\n{text}\n")
    return file


def status(out) -> dict:
    """What ``bench status`` tells of all that was submitted: counts, and a state for each run."""
    specs = {key: b.task(key).spec for b in batches(out) for key, task in b.tasks.items() if not task["base"]}
    found = query_states(list(specs.values()), out)
    return {"counts": found.counts(), "runs": found.states, "problems": found.problems}


def wait_for(condition, what, seconds=DEADLINE_S):
    """Until ``condition()`` is true, which is returned; an AssertionError after the deadline."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds} s: {what}")


def attempts(out) -> list[Attempt]:
    """All attempts of runs, those of bases left out."""
    return [
        attempt
        for key, found in attempts_of(jobs_folder(out)).items()
        if not key.startswith("base-")
        for attempt in found
    ]


def epochs(out) -> int:
    """Checkpoints of runs written so far, those of bases that they trained themselves included."""
    return sum(attempt.saves for attempt in attempts(out))


def records(out) -> dict[str, dict]:
    """Run -> its record."""
    return {file.stem: store.load(file) for file in store.find(out / "records")}


def only_record(out) -> dict | None:
    """The record of the one run there is; None while there is none, or an unfinished one."""
    found = [one for one in records(out).values() if one.status != "interrupted"]
    return found[0] if found else None
