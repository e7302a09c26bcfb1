"""Methods that leave something behind in their process, or end it."""

import gc
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from bench.api import Method, method
from bench.pruning import gates
from bench.training import loop

KEPT = []


def leave_much():
    """Change whatever a run reads of its process, by all the ways that there are."""
    entropy = loop.F.cross_entropy
    torch.nn.functional.cross_entropy = lambda *given, **more: 3 * entropy(*given, **more)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(True)
    torch.nn.modules.module.register_module_forward_hook(lambda module, x, y: 2 * y if y.dim() == 2 else None)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    gates.TOLERANCE = -1.0  # no prune passes
    loop.PhaseTrainer.save = lambda *given: None
    sys.path.insert(0, tempfile.mkdtemp(dir=os.environ["LEFT"]))
    Path(sys.path[0], "json.py").write_text("raise ImportError")
    sys.modules.pop("fractions", None)
    os.environ["OMP_NUM_THREADS"] = "7"
    os.chdir(sys.path[0])
    os.umask(0o777)
    warnings.simplefilter("error")
    sys.setrecursionlimit(60 + len(_stack()))
    gc.disable()
    sys.stdout = sys.stderr = None
    KEPT.extend(open(os.devnull) for _ in range(100))  # noqa: SIM115
    KEPT.append(bytearray(2**26))
    threading.Thread(target=time.sleep, args=(600,)).start()
    Path(os.environ["LEFT"], "process").write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _stack():
    frame, found = sys._getframe(), []
    while frame:
        found.append(frame)
        frame = frame.f_back
    return found


@method("leaky")
class Leaky(Method):
    """Leaves everything behind that it can."""

    starts_from = "base"

    def scores(self, ctx):
        """Sums of absolute weights."""
        found = {name: site.rows().abs().sum(dim=1) for name, site in ctx.sites.items()}
        leave_much()
        return found


@method("ends_process")
class EndsProcess(Method):
    """Ends the process that it is in, as if all were well."""

    starts_from = "base"

    def scores(self, ctx):
        """None."""
        os._exit(0)
