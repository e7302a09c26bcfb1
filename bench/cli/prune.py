"""``bench prune``: a trained network, smaller, in one command: a run, its export, and a page about both."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.cli import arguments, export, latency, output
from bench.errors import BenchError, SetupError, UsageError, WordsError
from bench.files import run_lock, write_atomic
from bench.measure.quiet import Busy
from bench.records import store
from bench.records.latency import Line
from bench.runs.resolve import budget_of
from bench.spec.registry import DATASETS
from bench.spec.request import WHERE, RunOptions, RunRequest
from bench.spec.spec import DEPTH

if TYPE_CHECKING:
    from bench.records.schema import Finished
    from bench.runs.artifacts import RunArtifacts
    from bench.spec.spec import Spec

METHOD = "l1_norm"
"""The board has no order among methods that prune a trained network, and what it advises, a thin network trained from
scratch, makes nothing of trained weights. This one reads no images and is tied with the best at every budget."""
FORMS = "file:PATH:FUNCTION, torchvision:NAME:WEIGHTS, timm:NAME.WEIGHTS, or of bench list archs"
STEP = 8
"""Of widths under a budget of MACs or parameters: runtimes compute channels in groups, and networks of other widths may
be slower than the dense one."""
RECORD, LATENCY, ONNX, WEIGHTS = "record.json", "latency.json", "network.onnx", "network.safetensors"
RUNS = "runs"
"""Below the folder: records, bases and checkpoints, by which the command resumes."""


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("prune", help="a trained network, pruned, fine-tuned and exported, with a page about it")
    p.set_defaults(function=prune)
    p.add_argument(
        "arch",
        metavar="NETWORK",
        help=FORMS,
    )
    what = p.add_argument_group("what to run")
    what.add_argument("--data", required=True, metavar="FOLDER|NAME", help="images with train and test, or a data set")
    what.add_argument("--size", type=arguments.whole, metavar="N", help="side that images of a folder are resized to")
    for name in ("mean", "std"):
        what.add_argument(
            f"--{name}",
            type=arguments.numbers,
            metavar="X[,...]",
            help="that images of a folder are normalised with, of pixels in 0..1; default: the images' own",
        )
    what.add_argument("-m", "--method", default=METHOD, metavar="NAME", help=f"see: bench list methods ({METHOD})")
    what.add_argument("--recipe", metavar="NAME|FILE", help="default: the data set's")
    what.add_argument("--seed", dest="seeds", default="0", metavar="N", help="of all that is random (0)")
    arguments.add_budget(p, f"{STEP} for MACs and parameters")
    p.set_defaults(round_to=None)
    arguments.add_settings(p)
    where = p.add_argument_group("where and how")
    where.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the network and its page")
    arguments.add_data_dir(where)
    where.add_argument("--download", action="store_true", help="fetch data set and weights if not there")
    where.add_argument("--no-timing", action="store_true", help="no milliseconds on the page")
    where.add_argument(
        "--wait", type=arguments.whole, default=latency.WAIT_S, metavar="S", help="longest wait for a quiet machine"
    )
    arguments.add_machine(where)
    arguments.add_plugin(where)
    arguments.add_formats(where)
    where.add_argument("-q", "--quiet", action="store_true", help="no progress")


def prune(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    new = not os.path.lexists(chosen.out)
    try:
        busy = _prune(chosen)
    except BenchError:
        if new:
            _leave_nothing(chosen.out)
        raise
    if busy is not None:
        raise SetupError(
            f"{chosen.out} has all but milliseconds: {busy}; the same command measures them, --no-timing does without"
        )
    return 0


def _prune(chosen: argparse.Namespace) -> Busy | None:
    """Everything; returns why there are no milliseconds."""
    from bench.deploy.preset import normalisation
    from bench.measure.onnx_export import require
    from bench.runs import latency_tables
    from bench.runs.artifacts import RunArtifacts
    from bench.runs.execute import execute
    from leaderboard.render.prune_page import page

    require()
    _require_page(chosen)
    _require_ours(chosen.out)
    chosen.dataset = _dataset(chosen.data, chosen.size, chosen.mean, chosen.std)
    request = _request(chosen)
    latency_tables.wait_at_most(chosen.wait)
    options = dataclasses.replace(RunOptions.from_args(chosen), out=chosen.out / RUNS)
    spec, options = _planned(request, options, chosen.epochs is None)
    there = chosen.out / RECORD
    if there.exists() and (other := store.load(there).id) != spec.id:
        raise UsageError(f"{chosen.out} holds what another command made, run {other}: choose another folder")
    done = execute(spec, options)
    stored = RunArtifacts(done, options.out)
    with run_lock(options.out, ONNX):  # of two such commands the second finds what the first has written
        _write(there, store.encode(done))  # first: it says whose the networks are
        _write_networks(stored, options.data_dir, chosen.out)
    lines, busy = _lines(done, chosen)
    remarks = ["Milliseconds are not measured: the machine was busy."] if busy else []
    remarks.append(f"The network takes images that are normalised with {normalisation(stored, options.data_dir)}.")
    remarks.append(f"The dense network as a file: {_dense_command(chosen, options)}")
    shown = page(done, lines, chosen.arch.rpartition("/")[2], remarks)
    _write(chosen.out / "page.md", shown.markdown().encode())
    _write(chosen.out / "page.html", shown.html().encode())
    if chosen.json:
        files = [str(chosen.out / name) for name in (ONNX, WEIGHTS, RECORD)]
        measured = [msgspec.to_builtins(line) for line in lines]
        output.print_json({"id": done.id, "files": files, "latency": measured, "record": store.as_table(done)})
    else:
        print(shown.text(output.limit(chosen)))
        names = ", ".join(sorted(file.name for file in chosen.out.iterdir()))
        print(f"\nin {chosen.out}: {names}", flush=True)
    return busy


def _leave_nothing(folder: Path) -> None:
    """Remove a folder that has nothing but locks, and what was found out about images."""
    cache = folder / RUNS / "cache"
    files = [path for path in folder.rglob("*") if path.is_file() and cache not in path.parents]
    if folder.is_dir() and all(path.name == "locks" for path in files):
        shutil.rmtree(folder)


def _dense_command(chosen: argparse.Namespace, options: RunOptions) -> str:
    """The command that writes the dense network."""
    words = ["python", "-m", "bench", "export", str(chosen.out / RECORD), "--out", str(options.out), "--which", "dense"]
    words += ["--onnx", str(chosen.out / "dense.onnx")]
    if chosen.dataset.startswith("folder:"):
        words += ["--data-dir", os.path.relpath(options.data_dir)]
    files = [chosen.arch.split(":")[1]] if chosen.arch.startswith("file:") else []
    return shlex.join([*words, *(word for file in (*chosen.plugin, *files) for word in ("--plugin", str(file)))])


def _require_ours(folder: Path) -> None:
    """Raise UsageError unless a folder is new, empty, or one of this command."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UsageError(f"--out {folder}: there is a file of this name; choose another folder")
    if any(folder.iterdir()) and not (folder / RUNS).is_dir():
        raise UsageError(f"--out {folder}: the folder is not empty, and not one of bench prune; choose another")


def _dataset(text: str, size: int | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> str:
    """The data set as ``bench run`` names it."""
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std: give both")
    if mean and std and not (min(mean) >= 0 and min(std) > 0 and max(*mean, *std) <= 1):
        raise UsageError("--mean and --std: of pixels in 0..1, such as --mean 0.5 --std 0.5")
    if size == 0:
        raise WordsError("--size 0: at least 1")
    if text in DATASETS.entries():
        if size is not None:
            raise UsageError(f"--size {size}: images of a folder are resized, '{text}' has its own size")
        if mean is not None:
            raise UsageError(f"--mean and --std: for images of a folder, '{text}' has its own")
        return text
    path = text.removeprefix("folder:")
    normal = "".join("~" + ",".join(map(str, values)) for values in (mean, std) if values)
    return f"folder:{os.path.abspath(os.path.expanduser(path))}" + (f"@{size}" if size else "") + normal


def _request(chosen: argparse.Namespace) -> RunRequest:
    """The run; where the page's milliseconds are measured is no part of it unless they are its budget."""
    if chosen.arch.startswith("file:") and chosen.arch.endswith(".safetensors"):
        source, _, file = chosen.arch.rpartition(":")
        raise UsageError(
            f"NETWORK {chosen.arch}: give a function that loads its weights itself, such as {source} with "
            f"network.load_state_dict(safetensors.torch.load_file('{file}'))"
        )
    values = dict(vars(chosen))
    of_latency = chosen.keep_latency is not None or chosen.latency_ms is not None
    if not of_latency:
        values |= {name: getattr(RunRequest, name) for name in WHERE}
    if chosen.round_to is None:
        free = of_latency or chosen.native or chosen.like or chosen.units == DEPTH
        values["round_to"] = 1 if free else STEP
    request = RunRequest.from_args(argparse.Namespace(**values))
    if len(request.seeds) > 1:
        raise UsageError(f"--seed {chosen.seeds}: one network has one seed")
    budget_of(request)  # what cannot be is refused before anything is loaded
    return request


def _require_page(chosen: argparse.Namespace) -> None:
    """Raise UsageError or SetupError for a place where milliseconds of the page cannot be measured."""
    from bench.measure import runtimes

    if chosen.keep_latency is not None or chosen.latency_ms is not None:
        return  # they are those of the budget
    if chosen.latency_table is not None:
        raise WordsError("--latency-table: with --keep-latency or --latency-ms only")
    for name in ("batch", "runtime_threads"):
        if getattr(chosen, name) < 1:
            raise WordsError(f"--{name.replace('_', '-')} {getattr(chosen, name)}: at least 1")
    if not chosen.no_timing:
        runtimes.require([chosen.runtime])


def _planned(request: RunRequest, options: RunOptions, decide: bool) -> tuple[Spec, RunOptions]:
    """The run; ``decide``: a network that knows the images already is not trained before it is pruned."""
    from bench.deploy.preset import as_given, random_weights
    from bench.runs.resolve import resolve

    if decide and "train.epochs" not in request.settings:
        plain = {name: getattr(RunRequest, name) for name in ("keep_latency", "latency_ms", *WHERE)}
        specs, options = resolve(dataclasses.replace(request, **plain), options)
        epochs = specs[0].recipe.train.epochs
        more = ""
        if random_weights(request.arch):
            how = f"the weights of {request.arch} are random: it is trained for {epochs} epochs first"
        else:
            seen = as_given(specs[0], options)
            if seen.trained:
                request = dataclasses.replace(request, settings={**request.settings, "train.epochs": 0})
            how = (
                f"the network has {100 * seen.top1:.1f} % top-1 on {seen.images} validation images (a tenth of train, "
                f"on which it may have been trained), guessing {100 * seen.guess:.1f} %: "
                + ("it is taken as it is" if seen.trained else f"it is trained for {epochs} epochs first")
            )
            more = f"\nbench: {seen.images_as}; if it was trained with others, give --size, --mean and --std"
        if not options.quiet:
            print(f"bench: {how} (--epochs N decides otherwise){more}", file=sys.stderr)
    specs, options = resolve(request, options)
    return specs[0], options


def _lines(done: Finished, chosen: argparse.Namespace) -> tuple[list[Line], Busy | None]:
    """Milliseconds of both networks, those that are stored and those asked for now; and why some are missing."""
    file = chosen.out / LATENCY
    try:
        lines = msgspec.json.decode(file.read_bytes(), type=list[Line]) if file.exists() else []
    except msgspec.MsgspecError as error:
        raise UsageError(f"{file} is not what bench prune wrote; delete it") from error
    asked = chosen.runtime, chosen.batch, chosen.runtime_threads
    if chosen.no_timing or asked in [(line.key.runtime, line.key.batch, line.key.threads) for line in lines]:
        return lines, None
    how = argparse.Namespace(
        runtimes=(chosen.runtime,),
        batch=[chosen.batch],
        threads=chosen.runtime_threads,
        device=chosen.device,
        wait=chosen.wait,
        bursts=done.latency is not None,  # as the budget was measured
    )
    try:
        lines += latency.lines_of(done, how)
    except Busy as error:
        return lines, error
    _write(file, msgspec.json.format(msgspec.json.encode(lines), indent=1))
    return lines, None


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomic(path, lambda part: part.write_bytes(content))
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}; make room, then give the same command") from error


def _write_networks(stored: RunArtifacts, data_dir: Path, folder: Path) -> None:
    """The final network as an ONNX file and as weights with kept channels."""
    from bench.deploy.preset import save

    if not (folder / ONNX).exists():
        export.write(stored, {"final": stored.final()}, {"final": folder / ONNX}, data_dir, False)
    if not (folder / WEIGHTS).exists():
        save(stored, folder / WEIGHTS)
