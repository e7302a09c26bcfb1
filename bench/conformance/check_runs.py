"""Checks of whole runs: repeated, stopped, resumed, composed, recorded."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from bench.conformance.checks import Broken, check, keeps_every_unit, require
from bench.conformance.subject import Stopped, Subject, WatchedRun, difference, shake
from bench.records import store
from bench.runs.execute import execute
from bench.runs.verify import verify_file
from bench.spec.request import RunOptions
from bench.training import run_checkpoint
from bench.training.context import Context

MOST_STOPS = 40
EDGES = ("on_phase_start", "on_phase_end")
NO_EPOCHS = ({"finetune__epochs": "0"}, {"train__epochs": "0"})
ONE_BATCH = {"batch_size": "500", "train__epochs": "1"}


@check("runs", "A method that does not get through a run on a chain of convolutions gets through none.", alone=True)
def runs(subject: Subject) -> str | None:
    """Training, prune, slice and fine-tuning on the standard network."""
    run = subject.standard
    kept = {name: int(mask.sum()) for name, mask in (run.done.model.sliced_by or {}).items()}
    before = "-".join(str(width) for width in run.sites.widths.values())
    return f"{before} units become {'-'.join(map(str, kept.values()))}" if kept else None


@check("deterministic", "A number that changes when it is measured again is no result.")
def deterministic(subject: Subject) -> str | None:
    """The same specification gives the same units, curve and weights."""
    found = difference(subject.standard, subject.run())
    require(found is None, f"{found} in a second run")
    return None


@check("own_generator", "Only ctx.rng is seeded, kept in checkpoints and not shared with the data's order.")
def own_generator(subject: Subject) -> str | None:
    """Results do not depend on the global generators of torch, numpy and Python, and nobody seeds them again."""
    outside = ("prepare", "on_phase_start", "select")  # of an epoch, whose start seeds torch's generator
    depth = 0

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        nonlocal depth
        if hook in outside and not depth:
            shake(7)
        seeds = torch.initial_seed(), ctx.rng.initial_seed()
        depth += 1
        result = call()
        depth -= 1
        require(torch.initial_seed() == seeds[0], f"{hook} seeds torch's global generator")
        require(ctx.rng.initial_seed() == seeds[1], f"{hook} seeds ctx.rng, which has the run's seed")
        return result

    found = difference(subject.standard, subject.run(watch=watch, chance=5))
    require(found is None, f"{found} when the global generators are in another state: draw from ctx.rng")
    return None


@check("seeds", "Methods are compared over several seeds; one that works with seed 0 only is no method.")
def seeds(subject: Subject) -> str | None:
    """Another seed runs and trains another network."""
    other = subject.run(seed=12345)
    require(difference(subject.standard, other) is not None, "seed 12345 gives the same network as seed 0")
    return None


@check("resume", "Clusters stop jobs; a run that was stopped must be the run that was not.")
def resume(subject: Subject) -> str | None:
    """Stopped after every checkpoint and resumed, a run is the same to the bit."""
    run, stops, _ = resumed(subject)
    found = difference(subject.standard, run)
    require(found is None, f"{found} after stopping and resuming: what must survive belongs into a buffer")
    return f"{stops} stops"


def resumed(subject: Subject) -> tuple[WatchedRun, int, Counter[tuple[int, str, str]]]:
    """The plain run, stopped after every checkpoint and resumed: made once; raises Broken where it cannot be.

    Returns:
        The run; how often it was stopped; how often each step of the plan started and ended each part's phase.
    """
    if subject.resumed is None:
        subject.resumed = stopped_after_each(subject)
    return subject.resumed


def stopped_after_each(subject: Subject) -> tuple[WatchedRun, int, Counter[tuple[int, str, str]]]:
    """See :func:`resumed`."""
    called: Counter[tuple[int, str, str]] = Counter()

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        if hook in EDGES:
            called[ctx.phase, hook, call.args[0]] += 1
        return call()

    folder = subject.folder / "resumed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(subject.folder / "bases", folder / "bases")
    save = run_checkpoint.save_state
    stops = 0

    def stop(path: Path, state: Any) -> None:
        save(path, state)
        raise Stopped

    while True:
        run = subject.start(out=folder, watch=watch)
        shake(stops)
        try:
            with patch.object(run_checkpoint, "save_state", stop):
                run.go()
        except Stopped:
            where = f"{run.done.position[1]} epochs of step {run.done.position[0]}"
            require(run.done.resumes == stops, f"the checkpoint after {where} is not found again")
            stops += 1
            require(stops < MOST_STOPS, "it does not come to an end when it is stopped after every epoch")
        except Exception as error:
            raise Broken(f"resumed after {stops} stops: {subject.line(error)}") from error
        else:
            break
    require(run.done.resumes == stops, "a checkpoint cannot be read again")
    return run, stops, called


@check("state", "Checkpoints are read without running code, into what prepare has registered.")
def state(subject: Subject) -> str | None:
    """Buffers and parameters are registered in prepare, and come back as they were."""
    states: list[dict[str, Any]] = []

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        result = call()
        if hook in ("prepare", "on_epoch_end", "select"):
            states.append(dict(run.method.state_dict()))
        return result

    run = subject.start(watch=watch)
    run.go()
    names = [set(found) for found in states]
    late = sorted(set().union(*names) - names[0]) if names and subject.method.bound("prepare") else []
    late = late or sorted(names[-1]) if not subject.method.bound("prepare") and names else late
    require(not late, f"'{late[0] if late else ''}' is registered after prepare: a resumed run cannot load it")
    if not states or not states[-1]:
        return "no buffers"
    file = io.BytesIO()
    torch.save(states[-1], file)
    file.seek(0)
    try:
        again = torch.load(file, weights_only=True)
    except Exception as error:
        raise Broken("a checkpoint of its state cannot be read without running code: use tensors") from error
    for name, value in states[-1].items():
        same = torch.equal(value, again[name]) if isinstance(value, torch.Tensor) else value == again[name]
        require(same, f"'{name}' does not come back from a checkpoint as it was")
    return f"{len(states[-1])} buffers and parameters"


@check("no_epochs", "Ablations leave out training or fine-tuning; a share of zero epochs must not divide by it.")
def no_epochs(subject: Subject) -> str | None:
    """A recipe without training, and one without fine-tuning."""
    for settings in NO_EPOCHS:
        subject.once(**settings)
    return None


@check("one_batch", "The number of images need not be a multiple of the batch size, nor exceed it.")
def one_batch(subject: Subject) -> str | None:
    """A batch size larger than the training set, which then is one smaller batch."""
    subject.once(**ONE_BATCH)
    return None


@check("bfloat16", "Recipes choose bfloat16 where the device has it: activations and logits come in it.")
def bfloat16(subject: Subject) -> str | None:
    """A run with autocast."""
    subject.run(precision="bf16")
    return None


def is_composed(subject: Subject) -> str | None:
    """For the check of compositions."""
    return "it is a composition" if len(subject.parts) > 1 else None


@check(
    "composition",
    "A regularizer is compared under several importances, an importance under several penalties.",
    keeps_every_unit,
    is_composed,
)
def composition(subject: Subject) -> str | None:
    """a+b runs, with an importance or a regularizer, and each part that asks what would go hears what goes."""
    ranks = subject.method.bound("scores") or subject.method.bound("select")
    name = f"check_penalty+{subject.name}" if ranks else f"{subject.name}+check_importance"
    depth = 0

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        nonlocal depth
        if hook != "select" or depth:
            return call()
        depth += 1
        before, chosen = ctx.rng.get_state(), call()
        after = ctx.rng.get_state()
        for part in run.method.members:
            ctx.rng.set_state(before)
            heard = part.select(ctx, ctx.budget)
            same = all(torch.equal(heard[site], mask) for site, mask in chosen.items())
            require(same, f"in {name} {part.name} hears of other units than those that go")
        ctx.rng.set_state(after)
        depth -= 1
        return chosen

    run = subject.start(method=name, watch=watch)
    run.go()
    return f"as {name}"


@check("record", "The record is the result: it has to be valid, and what it claims has to hold when recomputed.")
def recorded(subject: Subject) -> str | None:
    """A whole run, measured, whose record verifies."""
    out = subject.folder / "recorded"
    spec = subject.spec()
    done = execute(spec, RunOptions(out=out, device="cpu", quiet=True))
    require(done.status == "ok", f"the run's status is {done.status}")
    lines = verify_file(store.path_of(out, spec), out, out)
    for line in lines:
        require(line.outcome == "ok", f"verify: {line.name}: {line.detail}")
    return f"{len(lines)} claims verified"


def is_no_gpu(subject: Subject) -> str | None:
    """For the check that needs one."""
    return None if torch.cuda.is_available() else "no GPU here"


@check(
    "gpu",
    "What never ran on a GPU fails there, on the first tensor that was made on the CPU.",
    is_no_gpu,
    mandatory=False,
)
def gpu(subject: Subject) -> str | None:
    """A run on the first CUDA device."""
    subject.run(device="cuda", out=subject.folder / "gpu")
    return torch.cuda.get_device_name()
