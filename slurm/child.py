"""A task in a copy of the worker's process: what a method leaves behind there ends with the copy.

The worker imports once. Each of its copies begins with these imports and carries out one task. So nothing that a method
changes (functions of torch, threads, seeds, environment, memory) reaches the next task. The worker itself runs no code
of a method, computes with one thread and touches no GPU: only such a process may be copied.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait

from slurm.place import AGAIN, ENDED, Requeue, Signals


def in_copy(work: Callable[[], object], signals: Signals) -> int:
    """Do ``work`` in a copy of this process; returns the copy's exit code, below 0: the signal that ended it.

    Args:
        work: may raise Requeue (exit code ``AGAIN``) and KeyboardInterrupt (``ENDED``).
        signals: of this process; they are passed on to the copy.

    Raises:
        Requeue, KeyboardInterrupt: this process heard a signal, and the copy has ended.
    """
    copy = multiprocessing.get_context("fork").Process(target=_work, args=(work, signals))
    try:
        with signals.held():
            copy.start()
        signals.check()
        copy.join()
    except (Requeue, KeyboardInterrupt) as stop:
        with signals.held():
            if copy.pid is not None:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(copy.pid, signal.SIGUSR2 if isinstance(stop, Requeue) else signal.SIGTERM)
                copy.join()
        raise
    finally:
        if copy.pid is not None:
            with suppress(ProcessLookupError):  # processes that a method started
                os.killpg(copy.pid, signal.SIGKILL)
    assert copy.exitcode is not None
    return copy.exitcode


def _work(work: Callable[[], object], signals: Signals) -> None:
    """What the copy does. It ends at once: neither threads of a method nor its exit handlers keep it."""
    os.setpgid(0, 0)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    code = 1
    try:
        with signals.heard(), signals.interrupting():
            signals.check()
            work()
        code = 0
    except Requeue:
        code = AGAIN
    except KeyboardInterrupt:
        code = ENDED
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _end_with(worker: int) -> None:
    """End with the worker. A copy that outlived it would hold its locks, and nobody could take the task over."""
    wait([worker])
    os.killpg(0, signal.SIGKILL)
