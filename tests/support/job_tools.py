"""What tests of jobs share: batches of runs as a submission writes them, and what a job left."""

import os

from support import batches
from support.paths import PLUGINS

from bench.measure import environment
from bench.records import store
from bench.runs.method_factory import make_method, method_digest
from bench.training.loop import PhaseTrainer
from slurm.batch import Task
from slurm.batch import attempts as attempts_of

LOCAL = {
    "SUBMITIT_EXECUTOR": "local",
    "SUBMITIT_LOCAL_JOB_ID": "77",
    "SUBMITIT_LOCAL_NTASKS": "1",
    "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
    "SUBMITIT_LOCAL_NODEID": "0",
    "SUBMITIT_LOCAL_GLOBALID": "0",
    "SUBMITIT_LOCAL_LOCALID": "0",
}


def batch_of(out, *tasks, jobs=1, **changes):
    """A batch of these runs (or tasks), whose jobs share them all, as written before its submission."""
    made = [task if isinstance(task, Task) else Task(task, method_sha256=method_of(task)) for task in tasks]
    values = {
        "cluster": "local",
        "elements": (tuple(task.key for task in made),),
        "count": jobs,
        "options": {
            "data_dir": str(out / "data"),
            "download": False,
            "device": "cpu",
            "threads": 1,
            "quiet": False,
        },
        "plugins": tuple(str(PLUGINS / f"{name}.py") for name in ("small", "broken")),
        "minutes": None,
        "code": environment.code(),
        "packages": environment.packages(),
    }
    batch = batches.batch_of(out, *made, **values | changes)
    batch.write()
    return batch


def method_of(spec):
    return method_digest(make_method(spec.method, {}))


def found(out, spec):
    return store.load(store.path_of(out, spec))


def has_record(out, spec):
    return store.path_of(out, spec).is_file()


def attempts(out, task):
    return attempts_of(out, task if isinstance(task, str) else task.id)


def stop_at(monkeypatch, signum, *saves):
    """This process gets a signal right after each of these checkpoints."""
    save, count = PhaseTrainer.save, iter(range(1, 10**6))

    def save_and_stop(self, position):
        save(self, position)
        if next(count) in saves:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(PhaseTrainer, "save", save_and_stop)
