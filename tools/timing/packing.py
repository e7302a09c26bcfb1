"""Runs an hour with N processes side by side on this machine: N = 1, 2 on CPUs, up to 16 on one GPU.

Small networks leave most of a GPU idle and wait for Python; the ratio to one by one says what packing gains. The base
is trained before the clock starts. python -m tools.timing.packing [RUNS] [ARCH] [N,N,...]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench.records.store import find

SWEEP = """
[[runs]]
method = "random"
arch = "{arch}"
keep_macs = 0.5
settings = {{ "train.epochs" = 20, "finetune.epochs" = [{epochs}] }}
"""


def sweep(file, out, jobs):
    """Carry out the sweep with so many processes; returns the seconds from submission to the last record."""
    words = ["sweep", str(file), "--cluster", "local", "--jobs", str(jobs), "--out", str(out), "--wait", "--quiet"]
    began = time.time()
    subprocess.run([sys.executable, "-m", "bench", *words], check=True, stdout=subprocess.DEVNULL)
    return max(path.stat().st_mtime for path in find(out / "records")) - began


def main():
    cuda = torch.cuda.is_available()
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    arch = sys.argv[2] if len(sys.argv) > 2 else "resnet20"
    numbers = [int(n) for n in sys.argv[3].split(",")] if len(sys.argv) > 3 else [1, 2, 4, 8, 16] if cuda else [1, 2]
    folder = Path(tempfile.mkdtemp(prefix="packing-"))
    device = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU threads"
    print(f"{runs} runs of random on {arch}, digits, on {device}; imports and measuring included")
    first = None
    for jobs in numbers:
        file, out = folder / "sweep.toml", folder / str(jobs)
        file.write_text(SWEEP.format(arch=arch, epochs=20))
        sweep(file, out, 1)  # trains the base
        # Runs that differ in nothing but their length by an epoch or so: one base, and none is another's repetition.
        file.write_text(SWEEP.format(arch=arch, epochs=", ".join(str(21 + k) for k in range(runs))))
        rate = 3600 * runs / sweep(file, out, jobs)
        first = first or rate
        print(f"{jobs:3} at a time: {rate:7.0f} runs an hour, {rate / first:.2f} of one by one")


if __name__ == "__main__":
    main()
