"""What tests of commands share: their answers, sweep files, and processes that are still there."""

import os
from pathlib import Path

from bench.cli import main

DIGITS = """
[defaults]
arch = "mlp_40_40"
epochs = 2
finetune_epochs = 1
[[runs]]
method = ["l1_norm", "random"]
seeds = "0-1"
[[runs]]
method = "dense"
"""
TINY = """
[defaults]
arch = "two_layers"
dataset = "tiny"
recipe = "synthetic"
epochs = 2
finetune_epochs = 1
settings = { batch_size = 32, latency_batch = 4 }
[[runs]]
"""


def answer(capsys, *words):
    """Exit code, stdout and stderr of one command in this process."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def write(path, text):
    path.write_text(text)
    return path


def jobs_below(folder):
    """Numbers of the processes that have a folder below this one among their arguments."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(word.startswith(f"{folder}/") for word in words) and int(place.name) != os.getpid():
            found.append(int(place.name))
    return found
