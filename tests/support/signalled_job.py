"""A job that gets USR2 at a chosen moment of its start: ``python signalled_job.py FOLDER MOMENT``.

Moments are counted in audit events of Python (imports, files that are opened, code that is run), so they depend neither
on the machine nor on its load. ``MOMENT`` 0: no signal; the number of events before the first run begins is printed.
"""

import os
import runpy
import signal
import sys

folder, moment = sys.argv[1], int(sys.argv[2])
count, begun = 0, False


def hear(event: str, given: tuple) -> None:
    """Count an event; at the chosen one, the signal comes."""
    global count, begun
    if begun:
        return
    count += 1
    if count == moment:
        begun = True
        os.kill(os.getpid(), signal.SIGUSR2)
    elif event == "open" and str(given[0]).endswith("journal.jsonl") and given[2] & os.O_WRONLY:
        begun = True  # the first run
        print(f"began after {count} events", flush=True)


sys.argv, sys.path[0] = ["slurm.job", folder], os.getcwd()
sys.addaudithook(hear)
runpy.run_module("slurm.job", run_name="__main__", alter_sys=True)
