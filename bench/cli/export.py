"""``bench export``: the networks of a run as ONNX files, checked and timed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import __version__
from bench.cli import arguments, output
from bench.cli.output import Column
from bench.errors import BenchError, UsageError, WordsError
from bench.records import store
from bench.records.lookup import find_one
from bench.records.schema import finished
from bench.spec.wording import plural

if TYPE_CHECKING:
    from torch import nn

    from bench.data.loading import ImageSet
    from bench.measure.onnx_export import Exported
    from bench.runs.artifacts import RunArtifacts


LONG = 200
"""Most characters of a text that is printed whole."""


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("export", help="a run's network as an ONNX file, checked against PyTorch")
    p.set_defaults(function=export)
    p.add_argument("run", metavar="ID|FILE", help="a record's file, or (the start of) its id under --out")
    p.add_argument("--onnx", type=Path, required=True, metavar="FILE.onnx", help="the file to write")
    p.add_argument(
        "--which",
        choices=("final", "dense", "both"),
        default="final",
        help="network to export (final); both writes the dense one to FILE-dense.onnx",
    )
    arguments.add_places(p, "where artifacts are", "data sets, for mean and deviation")
    p.add_argument(
        "--batch", type=arguments.whole, metavar="N", help="also timed, in addition to 1 (the recipe's latency_batch)"
    )
    p.add_argument("--force", action="store_true", help="replace a file that is there")
    arguments.add_plugin(p)
    arguments.add_formats(p, "JSON instead of a table")


def export(chosen: argparse.Namespace) -> int:
    """Write the files; returns the exit code."""
    import torch

    from bench.measure.onnx_export import require, require_free
    from bench.runs.artifacts import NETWORKS, RunArtifacts

    if chosen.batch == 0:
        raise WordsError("--batch 0: at least 1")
    require()
    found = store.load(find_one(chosen.run, chosen.out))
    if not finished(found):
        raise UsageError(f"export {found.id}: that run {found.status}, it left no network")
    paths = {name: chosen.onnx for name in NETWORKS if chosen.which in (name, "both")}
    if chosen.which == "both":
        paths["dense"] = chosen.onnx.with_name(f"{chosen.onnx.stem}-dense{chosen.onnx.suffix}")
    for path in paths.values():
        require_free(path, chosen.force)
    stored = RunArtifacts(found, chosen.out)
    networks = {name: stored.network(name) for name in paths}
    done, facts = write(stored, networks, paths, chosen.data_dir, chosen.force)
    batches = dict.fromkeys((1, chosen.batch or found.spec.recipe.latency_batch))
    timings = _time(networks, done, stored, list(batches))
    rows = [
        {
            "network": name,
            "file": str(file.path),
            "bytes": file.bytes,
            "macs": getattr(found.cost, name).macs,
            "params": getattr(found.cost, name).params,
            "difference": file.difference,
            "ms": timings[name],
            "metadata": facts[name],
        }
        for name, file in done.items()
    ]
    if chosen.json:
        output.print_json(rows)
    else:
        _show(rows, chosen)
    load, threads = os.getloadavg()[0], torch.get_num_threads()
    if load > threads + 1:
        busy = f"the machine was busy while timing (load {load:.1f} for {plural(threads, 'thread')})"
        print(f"{busy}: do not trust these latencies", file=sys.stderr)
    return 0


def write(
    stored: RunArtifacts, networks: Mapping[str, nn.Module], paths: Mapping[str, Path], data_dir: Path, replace: bool
) -> tuple[dict[str, Exported], dict[str, dict[str, str]]]:
    """Write networks of a run to ``paths``, checked; returns what was written and what each file says of itself."""
    from bench.measure.onnx_export import to_onnx

    images = _images(stored, data_dir)
    seen = None if images is None else images.first(256)
    size = None if images is None else stored.image_size(data_dir)
    facts = {name: describe(stored, name, images, size) for name in paths}
    done = {
        name: to_onnx(network, stored.shape, paths[name], metadata=facts[name], images=seen, replace=replace)
        for name, network in networks.items()
    }
    return done, facts


def _images(stored: RunArtifacts, data_dir: Path) -> ImageSet | None:
    """The run's test images; None and a note on stderr where they are missing: the export works without them."""
    try:
        return stored.test_images(data_dir)
    except BenchError as error:
        print(f"bench: note: without mean and deviation of the training images: {error}", file=sys.stderr)
        return None


def describe(stored: RunArtifacts, which: str, images: ImageSet | None, size: str | None) -> dict[str, str]:
    """What a file says of itself: where its network is from, and what its input has to be.

    Without the run's ``images`` and how they came to their ``size`` the latter is left out.
    """
    found, spec = stored.record, stored.record.spec
    facts = {
        "suite": f"structured-sparsity-bench {__version__}",
        "record": found.id,
        "record_sha256": found.record_sha256,
        "network": which,
        "arch": spec.arch,
        "dataset": spec.dataset,
        "classes": str(stored.classes),
        "test_top1": str(getattr(found.metrics, which).top1),
    }
    if which == "final":
        facts |= {"method": spec.method, "masks": found.structure.masks or ""}
    if images is not None and size is not None:
        mean, deviation = (values.flatten().tolist() for values in (images.mean, images.std))
        facts |= {
            "size": size,
            "preprocessing": "(pixels - mean) / std for each channel, pixels in 0..255",
            "mean": json.dumps(mean),
            "std": json.dumps(deviation),
        }
    return facts


def _time(
    networks: dict[str, nn.Module], done: dict[str, Exported], stored: RunArtifacts, batches: list[int]
) -> dict[str, list[dict[str, float]]]:
    """Network -> one entry a batch size, medians in PyTorch and onnxruntime on the CPU, all interleaved."""
    import numpy as np
    import torch

    from bench.measure.latency import interleaved
    from bench.measure.onnx_export import load
    from bench.measure.runtimes import eager

    cpu, shape, layout = torch.device("cpu"), stored.shape, stored.layout
    bound = [bind for name in networks for bind in (eager(networks[name], cpu, layout), load(done[name].path))]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in networks}
    for batch in batches:
        x = torch.rand(batch, *shape)
        medians = np.median(interleaved([bind(x) for bind in bound], cpu), axis=0).reshape(-1, 2).tolist()
        for name, (pytorch, onnx) in zip(networks, medians):
            found[name].append({"batch": batch, "pytorch_ms": pytorch, "onnxruntime_ms": onnx})
    return found


def _show(rows: list[dict[str, Any]], chosen: argparse.Namespace) -> None:
    cells = [
        {
            "network": row["network"],
            "file": row["file"],
            "MiB": f"{row['bytes'] / 2**20:.2f}",
            "MACs": f"{row['macs']:,}",
            "params": f"{row['params']:,}",
            "difference": f"{row['difference']:.1e}",
        }
        | {
            f"{label} ms, batch {timing['batch']}": f"{timing[key]:.3f}"
            for timing in row["ms"]
            for key, label in (("pytorch_ms", "PyTorch"), ("onnxruntime_ms", "onnxruntime"))
        }
        for row in rows
    ]
    times = list(cells[0])[6:]
    columns = [Column("network"), Column("file", wrap=True), Column("MiB", right=True, drop=2)]
    columns += [Column("MACs", right=True, drop=1), Column("params", right=True, drop=3)]
    columns += [Column("difference", right=True, drop=4)]
    columns += [Column(header, right=True, drop=5 + place if place > 1 else 0) for place, header in enumerate(times)]
    output.print_table(columns, cells, chosen)
    facts = [f"{key:<14} {_short(value)}" for key, value in rows[0]["metadata"].items()]
    output.print_text("\n".join(["", *facts]), chosen)


def _short(text: str) -> str:
    """A text of the metadata; one of many characters, such as masks, by its start."""
    return text if len(text) <= LONG else f"{text[:40]} ... ({len(text):,} characters; --json has them)"
