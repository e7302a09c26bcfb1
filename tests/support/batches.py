"""Runs and batches as a submission makes them, for tests that train nothing."""

from bench.runs.resolve import make_spec
from bench.spec.recipe import load_recipe
from bench.spec.spec import Budget
from slurm.batch import Batch, Task, new_token


def spec_of(seed=0, method="l1_norm", options=None, **settings):
    """A run on resnet20 and digits, with settings of its recipe: ``train__epochs=3``."""
    recipe = load_recipe("digits", {key.replace("__", "."): str(value) for key, value in settings.items()})
    return make_spec(method, "resnet20", "digits", recipe, Budget(keep_macs=0.5), seed, options=options)


def pairs_of(seeds):
    """Two runs for each seed that share its base."""
    return [spec_of(seed, method) for seed in range(seeds) for method in ("l1_norm", "random")]


def batch_of(out, *tasks, **changes):
    """A batch of these runs or tasks, one an element, which is not written."""
    tasks = [task if isinstance(task, Task) else Task(task) for task in tasks]
    values = {
        "token": new_token(),
        "cluster": "slurm",
        "title": "some",
        "tasks": {task.key: task.as_dict() for task in tasks},
        "elements": tuple((task.key,) for task in tasks),
        "count": len(tasks),
        "options": {"data_dir": "/data", "device": "auto", "threads": 1},
        "plugins": (),
        "minutes": 60,
        "signal_delay_s": 90,
        "code": {"version": "1", "commit": None},
        "packages": {"torch": "2"},
    }
    return Batch(out, **values | changes)
