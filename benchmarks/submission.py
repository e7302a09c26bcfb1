"""Seconds that a sweep of many runs takes to be submitted, and ``status`` to tell of them, on the SLURM at hand.

The jobs are held, so that nothing but the submission works; they are cancelled at the end. To try it without a cluster:
python -m slurm.devcluster up, source its env.sh, then: python benchmarks/submission.py [RUNS]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = """
[[runs]]
method = ["l1_norm", "l2_norm", "random", "fpgm"]
arch = "resnet20"
keep_macs = [0.75, 0.5, 0.25, 0.1, 0.05]
seeds = "0-{last}"
"""


def timed(what, *words):
    """Run a command of the suite and print how long it took."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "bench", *map(str, words)], capture_output=True, text=True, check=True)
    print(f"{what:45} {time.perf_counter() - began:6.1f} s")
    return done.stdout


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    folder = Path(tempfile.mkdtemp(prefix="submission-"))
    sweep, profile, out = folder / "sweep.toml", folder / "profile.toml", folder / "out"
    sweep.write_text(SWEEP.format(last=runs // 20 - 1))
    for size in (1, 10):
        profile.write_text(f"cpus = 1\nruns_per_job = {size}\n[sbatch]\nhold = true\n")
        words = ("sweep", sweep, "--cluster", "slurm", "--profile", profile, "--out", out / str(size))
        print(timed(f"submit {runs} runs, {size} a job", *words).splitlines()[-2])
        timed("status", "status", sweep, "--out", out / str(size))
        timed("the same sweep again (nothing to submit)", *words)
        timed("cancel", "cancel", sweep, "--out", out / str(size))


if __name__ == "__main__":
    main()
