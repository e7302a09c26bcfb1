"""What tests of batch scripts share: a batch for a profile, and the options of a script."""

import shlex

from bench.runs.resolve import make_spec
from bench.spec.recipe import load_recipe
from bench.spec.spec import Budget
from slurm.batch import Batch, Task


def batch_of(out, profile, elements=1, **changes):
    """Runs of a network, so many a job."""
    recipe, budget = load_recipe("digits"), Budget(keep_macs=0.5)
    per = profile.runs_per_job
    runs = [Task(make_spec("l1_norm", "resnet20", "digits", recipe, budget, k)) for k in range(elements * per)]
    values = {
        "token": "0123abcd",
        "cluster": "slurm",
        "title": "some",
        "tasks": {task.key: task.as_dict() for task in runs},
        "elements": tuple(tuple(t.key for t in runs[k : k + per]) for k in range(0, len(runs), per)),
        "count": elements,
        "processes": profile.runs_at_once,
        "options": {"data_dir": "/data", "device": "auto", "runtimes": ["eager"]},
        "plugins": (),
        "minutes": profile.minutes,
        "signal_delay_s": profile.signal_delay_s,
        "code": {},
        "packages": {},
    }
    return Batch(out, **values | changes)


def flags(text):
    """Options of a script."""
    found = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH --")]
    return {line.partition("=")[0]: "".join(shlex.split(line.partition("=")[2])) for line in found}
