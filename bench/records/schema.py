"""The form of a record: every field with its kind, and what cannot be true of the values. Needs no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from bench.errors import PARTIES
from bench.records.fields import (
    Kind,
    Wrong,
    fields,
    flag,
    label,
    listed,
    matching,
    maybe,
    method_name,
    moment,
    name,
    number,
    one_of,
    options,
    rows,
    said,
    samples,
    table,
    text,
    whole,
)

STATUSES = ("ok", "failed", "diverged", "interrupted")
WORK = 10**24
"""Largest number of training MACs."""
SLACK = 1.05
"""A ratio of medians may lie a little outside of its bootstrap interval."""

count, share, positive, seconds = whole(), number(0, 1), number(1e-9, 1e12), number(0)
sha256 = matching(re.compile(r"[0-9a-f]{64}"), "a hash of 64 hexadecimal digits")
commit = matching(re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}"), "a commit")
identity = matching(re.compile(r"[0-9a-f]{12}-s[0-9]+"), "12 hexadecimal digits, -s and a seed")
plain_file = matching(re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*"), "the name of a file without a folder")
_file = fields({"file": plain_file, "bytes": count, "sha256": sha256})

_stage = fields(
    {"epochs": count, "lr": number(0), "schedule": name, "warmup": share, "patience": count},
    {"drops": listed(share)},
)
_recipe = fields(
    {
        **{"name": label, "train": _stage, "finetune": _stage, "batch_size": whole(1), "latency_batch": whole(1)},
        **{"momentum": share, "nesterov": flag, "weight_decay": number(0), "label_smoothing": share},
        **{"augment": name, "precision": name, "recalibrate": count},
    }
)
_budget = fields(
    {"keep_macs": maybe(share), "keep_params": maybe(share), "ranking": maybe(name), "min_keep": whole(1)},
    {"widths": maybe(listed(whole(1)))},
)
_spec = fields(
    {
        **{"method": method_name, "arch": label, "dataset": label, "recipe": _recipe, "recipe_sha256": sha256},
        **{"budget": maybe(_budget), "seed": count, "coupling": name, "config": options, "rules": name},
    }
)
_cost = fields(
    {
        **{"macs": count, "macs_by_op": table(count), "unsupported_ops": table(count), "counter": name},
        **{"params": count, "weight_bytes": count},
    }
)
_quality = fields(
    {
        **{"examples": whole(1), "top1": share, "top5": share, "loss": maybe(number(0)), "ece": maybe(share)},
        **{"worst_class": count, "worst_class_top1": share},
    }
)
_work = {"epochs": count, "examples": count, "macs": whole(0, WORK)}
_phase = fields({"epochs": count, "part": name, "rewind": maybe(name)}, {"active": listed(name)})
_timing = fields(
    {
        **{"batch": whole(1), "device": name, "threads": whole(1), "dtype": name, "runtime": name, "layout": name},
        **{"rounds": whole(1), "load_average": number(0), "dense_ms": positive, "sliced_ms": positive},
        **{"speedup": positive, "speedup_ci95": listed(positive, 2)},
        **{"dense_samples_ms": samples, "sliced_samples_ms": samples},
    },
    {"runtime_version": name},
)


_made = fields(
    {"init_sha256": sha256, "commit": maybe(commit), "torch": name, "device": name, "threads": whole(1)},
    {"instructions": name},
)


def _step(value: Any) -> None:
    """A phase of training, or where it prunes."""
    if value != "prune":
        _phase(value)


FIELDS: dict[str, Kind] = {
    "schema": whole(1),
    "kind": name,
    "id": identity,
    "status": one_of(*STATUSES),
    "spec": _spec,
    "spec_sha256": sha256,
    "code": fields(
        {"version": name, "commit": maybe(commit), "diff_sha256": maybe(sha256)} | {"method_sha256": maybe(sha256)},
        {"network_sha256": maybe(sha256)},
    ),
    "environment": fields(
        {
            **{"device": name, "device_type": name, "threads": whole(1), "os": name, "python": name},
            **{"cuda": maybe(name), "packages": fields({"torch": name}, other=name)},
        },
        {"instructions": name},
    ),
    "data": maybe(
        fields(
            {"train": count, "val": count, "test": count, "train_sha256": sha256, "split_sha256": sha256},
            {"test_sha256": sha256, "shape": listed(whole(1), 3), "classes": whole(1)},
        )
    ),
    "training": maybe(
        fields(
            {
                **{"plan": listed(_step), "precision": name, "starts_from": name, **_work, "selection": name},
                "base": fields({"id": name, "sha256": sha256, **_work}, {"made": _made}),
            },
            {
                "method_examples": fields({"forward": count, "backward": count}),
                "layout": one_of("channels_last", "channels_first"),
                "extras": fields({}, {"freeze": rows({"phase": count, "epoch": count, "upto": name, "macs": count})}),
            },
        )
    ),
    "structure": maybe(
        fields(
            {
                **{"widths": table(listed(count, 2)), "units_before": count, "units_after": count},
                **{"masks_sha256": sha256, "gate_slice_difference": maybe(number(0)), "arch_sha256": sha256},
                "rejected": table(text),
            }
        )
    ),
    "cost": maybe(fields({"dense": _cost, "final": _cost})),
    "metrics": maybe(fields({"dense": _quality, "pruned": maybe(_quality), "final": _quality})),
    "curve": rows(
        {"phase": count, "part": name, "epoch": count, "train_loss": maybe(number())}
        | {"val_top1": maybe(share), "val_loss": maybe(number())},
        {"units_left": maybe(share)},
        other=maybe(number()),  # what the method logged
    ),
    "artifacts": fields({}, {"network": _file, "masks": _file}),
    "latency": listed(_timing),
    "memory": maybe(
        fields({"batch": count, "dense_peak_bytes": count, "final_peak_bytes": count, "process_peak_bytes": count})
    ),
    "clock": fields(
        {
            **{"started_at": moment, "finished_at": moment, "resumes": count, "base_seconds": maybe(table(number()))},
            "seconds": fields({}, {"train": seconds, "method": seconds, "evaluate": seconds}, other=number()),
        }
    ),
    "job": maybe(
        fields(
            {},
            {
                **{"cluster": name, "id": name, "at_once": count, "legs": count, "preemptions": count},
                **{"timeouts": count, "terminations": count, "kills": count, "differs": listed(text)},
            },
        )
    ),
    "error": maybe(fields({"type": name, "message": text, "traceback": listed(text)}, {"blame": one_of(*PARTIES)})),
    "record_sha256": sha256,
}
"""Keys of a record and the kinds of their values; nothing may be missing, nothing else may stand there."""

FINISHED = ("data", "training", "structure", "cost", "metrics", "memory")
"""Parts that are null where a run did not come so far."""
EMPTY: dict[str, Any] = dict.fromkeys(FINISHED) | {"curve": [], "artifacts": {}, "latency": []}
"""All that a run makes, of one that made nothing."""


def check(record: Mapping[str, Any]) -> list[str]:
    """What is wrong with a record's keys, the kinds of its values and what they say; empty when all is well."""
    return _wrong_fields(record) or [*_contradictions(record)]


def _wrong_fields(record: Mapping[str, Any]) -> list[str]:
    problems = [f"'{key}' is missing" for key in FIELDS if key not in record]
    foreign = [key for key in record if key not in FIELDS]
    problems += [f"{said(key)} does not belong there" for key in foreign]
    for key, kind in FIELDS.items():
        if key in record:
            try:
                kind(record[key])
            except Wrong as wrong:
                problems.append(str(wrong.inside(key)))
    return problems


def _contradictions(record: Mapping[str, Any]) -> Iterator[str]:
    spec, clock = record["spec"], record["clock"]
    name_of = f"{record['spec_sha256'][:12]}-s{spec['seed']}"
    if record["id"] != name_of:
        yield f"id is {record['id']}, by spec_sha256 and spec.seed it is {name_of}"
    if datetime.fromisoformat(clock["finished_at"]) < datetime.fromisoformat(clock["started_at"]):
        yield f"clock.finished_at is {clock['finished_at']}, before clock.started_at"
    if (record["status"] == "ok") != (record["error"] is None):
        yield "status and error contradict each other"
    used, asked = (record["training"] or {}).get("precision"), spec["recipe"]["precision"]
    if used and asked != used and (asked, spec["rules"]) != ("auto", "0.1"):
        yield f"training.precision is {said(used)}, spec.recipe.precision {said(asked)}"
    if record["status"] != "ok":
        return
    missing = [key for key in FINISHED if record[key] is None]
    missing += [f"artifacts.{key}" for key in ("network", "masks") if key not in record["artifacts"]]
    missing += [] if record["data"] is None or "test_sha256" in record["data"] else ["data.test_sha256"]
    missing += ["clock.base_seconds"] if clock["base_seconds"] is None else []
    missing += [f"clock.seconds.{key}" for key in ("train", "method") if key not in clock["seconds"]]
    yield from (f"'{key}' is null in a finished run" for key in missing)
    if not missing:
        yield from _quality_contradictions(record["metrics"], record["data"])
        yield from _training_contradictions(record)
        yield from _cost_contradictions(record["cost"], spec["budget"] or {})
        yield from _structure_contradictions(record["structure"], spec["budget"] or {})
        yield from _latency_contradictions(record["latency"], record["environment"])


def _quality_contradictions(metrics: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[str]:
    for which, found in metrics.items():
        if which not in ("dense", "pruned", "final") or found is None:
            continue
        field, images = f"metrics.{which}", found["examples"]
        if images != data["test"]:
            yield f"{field}.examples is {images}, data.test {data['test']}"
        for key in ("top1", "top5"):
            hits = found[key] * images
            if abs(hits - round(hits)) > 1e-6:
                yield f"{field}.{key} is {found[key]}, not a whole number of {images} test images"
        if not found["worst_class_top1"] <= found["top1"] <= found["top5"]:
            yield f"{field}: worst class <= top-1 <= top-5 does not hold"
        for key in ("loss", "ece"):
            if found[key] is None:
                yield f"{field}.{key} is null in a finished run"
        if found["worst_class"] >= data.get("classes", math.inf):
            yield f"{field}.worst_class is {found['worst_class']}, data.classes {data['classes']}"


def _pruned_contradictions(plan: list[Any], pruned: Mapping[str, Any] | None) -> Iterator[str]:
    """A plan with a prune has accuracies from right after it, unless units may have been cut out and tuned before."""
    if "prune" not in plan:
        if pruned is not None:
            yield "metrics.pruned is there, and training.plan has no prune"
    elif pruned is None and not any(phase["epochs"] for phase in plan[: plan.index("prune")]):
        yield "metrics.pruned is null, and training.plan prunes before it trains"


def _training_contradictions(record: Mapping[str, Any]) -> Iterator[str]:
    """Plan, budget, work and curve are of one run."""
    spec, training, pruned = record["spec"], record["training"], record["metrics"]["pruned"]
    asked = spec["recipe"]["precision"]
    if asked not in ("auto", training["precision"]):
        yield f"training.precision is {training['precision']}, spec.recipe.precision {asked}"
    yield from _pruned_contradictions(training["plan"], pruned)
    fewer = record["cost"]["dense"]["macs"] != record["cost"]["final"]["macs"]
    if "prune" not in training["plan"] and (spec["budget"] or fewer):
        yield "nothing was pruned, and there is a budget, or fewer MACs"
    base = training["base"] if training["starts_from"] == "base" else dict.fromkeys(("epochs", "examples", "macs"), 0)
    for key in ("examples", "macs"):
        if training[key] < base[key]:
            yield f"training.{key} is {training[key]:,}, of the base alone {base[key]:,}"
    epochs = training["epochs"] - base["epochs"]
    planned = sum(phase["epochs"] for phase in training["plan"] if phase != "prune")
    if not 0 <= epochs <= planned:
        yield f"training.epochs is {training['epochs']}, of the plan and the base {planned + base['epochs']}"
    if len(record["curve"]) != epochs:
        yield f"curve has {len(record['curve'])} epochs, by training.epochs it has {epochs}"


def _cost_contradictions(cost: Mapping[str, Any], budget: Mapping[str, Any]) -> Iterator[str]:
    dense, final = cost["dense"], cost["final"]
    for which in ("dense", "final"):
        macs, by_op = cost[which]["macs"], sum(cost[which]["macs_by_op"].values())
        if macs != by_op:
            yield f"cost.{which}.macs is {macs:,}, the sum of macs_by_op {by_op:,}"
    if dense["counter"] != final["counter"]:
        yield f"cost.final.counter is {said(final['counter'])}, cost.dense.counter {said(dense['counter'])}"
    for key in ("macs", "params"):
        if not 0 < final[key] <= dense[key]:
            yield f"cost: {final[key]} {key} after, {dense[key]} before"
        share = budget.get(f"keep_{key}")
        if share is not None and final[key] > share * dense[key] + 1e-6:
            yield f"cost: more {key} than the budget of {share}"


def _structure_contradictions(structure: Mapping[str, Any], budget: Mapping[str, Any]) -> Iterator[str]:
    least, asked = budget.get("min_keep", 1), budget.get("widths")
    for site, (before, after) in structure["widths"].items():
        if not 0 < after <= before:
            yield f"structure.widths: {site} has {after} of {before} units"
        elif after < min(least, before):
            yield f"structure.widths: {site} has {after} units, spec.budget.min_keep is {least}"
    if asked is not None and asked != [after for _, after in structure["widths"].values()]:
        yield "structure.widths are not those of spec.budget.widths"
    for k, key in enumerate(("units_before", "units_after")):
        total = sum(widths[k] for widths in structure["widths"].values())
        if structure[key] != total:
            yield f"structure.{key} is {structure[key]}, the sum of the widths {total}"


def _latency_contradictions(latency: list[Mapping[str, Any]], environment: Mapping[str, Any]) -> Iterator[str]:
    own = {"device": environment["device"], "threads": environment["threads"]}
    own |= {"runtime_version": environment["packages"]["torch"]}
    for k, timing in enumerate(latency):
        for key, value in own.items() if timing["runtime"] == "eager" else ():
            if timing.get(key, value) != value:
                yield f"latency[{k}].{key} is {said(timing[key])}, of the environment {said(value)}"
        field, times, (low, high) = f"latency[{k}]", timing["speedup"], timing["speedup_ci95"]
        ratio = timing["dense_ms"] / timing["sliced_ms"]
        if abs(times - ratio) > 1e-9 * ratio:
            yield f"{field}.speedup is {times}, dense_ms over sliced_ms {ratio}"
        if not (low <= high and low <= times * SLACK and times <= high * SLACK):
            yield f"{field}.speedup is {times}, its interval {low} to {high}"
        for key in ("dense_samples_ms", "sliced_samples_ms"):
            if len(timing[key]) != timing["rounds"]:
                yield f"{field}.{key} has {len(timing[key])} values, rounds is {timing['rounds']}"
