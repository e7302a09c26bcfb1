"""The batch script of a job: what sbatch is asked for, and what the suite's own lines in it do."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from slurm.batch import Batch
from slurm.place import AGAIN, BEGAN, ENDED
from slurm.profile import Profile

TERMINATED, WARNED = 128 + 15, 128 + 12
"""Exit codes of what SIGTERM ended, and of what USR2 ended before Python listened to it."""
REQUEUE_TRIES, REQUEUE_PAUSE_S = 12, 5

BEFORE = f"""\
export {BEGAN}="${{SLURM_JOB_START_TIME:-$(date +%s)}}"
# The job is queued again from here, since Python may run in a container that has no scontrol.
bench_end() {{
  bench_code=$1
  case "$bench_code" in {ENDED}|{TERMINATED}) bench_term=1 ;; {WARNED}) bench_code={AGAIN} ;; esac
  # After SIGTERM only the grace before a preemption leaves a job running; it would be over when it ends by itself.
  if [ -n "$bench_term" ] && [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then bench_code={AGAIN}; fi
  [ "$bench_code" -eq {AGAIN} ] || exit "$bench_code"
  for bench_try in $(seq {REQUEUE_TRIES}); do
    if scontrol requeue "$SLURM_JOB_ID"; then echo "bench: job $SLURM_JOB_ID queued again"; exit 0; fi
    echo "bench: cannot queue job $SLURM_JOB_ID again (attempt $bench_try of {REQUEUE_TRIES})"
    sleep {REQUEUE_PAUSE_S}
  done
  exit "$bench_code"
}}
trap 'bench_term=1' TERM"""
CHECKED = (
    "trap 'bench_code=$?; [ ${#BASH_SOURCE[@]} -gt 1 ] || { "
    'echo "bench: error: set-up line failed with exit code $bench_code: $BASH_COMMAND"; bench_end $bench_code; }\' ERR'
)
"""A failing line of the set-up ends the job; what fails within a file that it sources, or a function, does not."""


def command(batch: Batch, python: str | None, number: int | None = None) -> str:
    """Starts a job of a batch; without its number it is that of the array's element."""
    words = ["-u", "-m", "slurm.job", str(batch.folder), *([] if number is None else [str(number)])]
    return " ".join([python or shlex.quote(sys.executable), *map(shlex.quote, words)])


def sbatch_options(batch: Batch, profile: Profile, after: Sequence[str]) -> dict[str, Any]:
    """Options of submitit for a batch whose jobs wait for the end of the jobs ``after``."""
    more: dict[str, Any] = {"requeue": True, "reservation": profile.reservation, **profile.sbatch}
    if profile.mem_gb is not None:
        more["mem"] = f"{round(profile.mem_gb * 1024 * batch.processes / profile.runs_at_once)}M"
    cpus = profile.cpus * batch.processes
    chosen = {
        "job_name": batch.name,
        "time": profile.minutes,
        "signal_delay_s": profile.signal_delay_s,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "nodelist": profile.nodelist,
        "exclude": profile.exclude,
        "gres": profile.gres_for(batch.processes),
        "gpus_per_node": profile.gpus_for(batch.processes) if profile.gpus else None,
        "cpus_per_task": cpus,
        "ntasks_per_node": 1,
        "array_parallelism": profile.at_once,
        "setup": [BEFORE, *([CHECKED, *profile.setup, "trap - ERR"] if profile.setup else [])],
        "teardown": ["bench_end $?"],
        # Since 22.05 srun does not ask sbatch's --cpus-per-task.
        "srun_args": [f"--cpus-per-task={cpus}", *profile.srun],
        "stderr_to_stdout": True,
        "dependency": "afterany:" + ":".join(after) if after else None,
        "additional_parameters": {key: value for key, value in more.items() if value is not None},
    }
    # submitit's own key is refused where accounts have keys of theirs
    return {key: value for key, value in chosen.items() if value is not None} | {"wckey": None}
