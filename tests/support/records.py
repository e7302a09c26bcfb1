"""Records that nobody ran, in the form of those that were: for tests of what reads them."""

import contextlib
import copy
import hashlib

import msgspec

from bench.errors import BenchError
from bench.records import bits, store
from bench.records.schema import Record
from bench.records.training_checks import examples_of_epoch
from bench.spec.recipe import Recipe, Stage
from bench.spec.spec import Budget, Spec

RECIPE = Recipe("r", Stage(1, 0.1), Stage(1, 0.1), precision="fp32")
MADE = {
    **{"init_sha256": "5" * 64, "commit": "c" * 40, "torch": "2.15.0"},
    **{"device": "a CPU", "threads": 1, "instructions": "AVX2"},
}
SPEC = Spec("l1_norm", "two_layers", "digits", RECIPE, Budget(keep_macs=0.5))


def finished(spec=SPEC, seconds=12.0, started="2026-01-01T00:00:00+00:00"):
    """The record of a run that finished, as a table, without its hash.

    Args:
        spec: what was run.
        seconds: of training.
        started: when, and when it ended, too.
    """
    before, own = spec.recipe.train.epochs, spec.recipe.finetune.epochs
    work = {"epochs": before + own, "examples": 0, "macs": 0}
    table = {
        "schema": 2,
        "kind": "bench.run",
        "id": spec.id,
        "status": "ok",
        "spec": spec_table(spec),
        "spec_sha256": spec.sha256,
        "code": {
            **{"version": "0.2.0", "commit": "c" * 40, "diff_sha256": None},
            **{"method_sha256": "d" * 64, "network_sha256": "e" * 64},
        },
        "environment": {
            **{"device": "a CPU", "device_type": "cpu", "threads": 1, "os": "Linux", "python": "3.11.7", "cuda": None},
            **{"instructions": "AVX2", "packages": {"torch": "2.15.0"}},
        },
        "data": {
            **{"train": 90, "val": 10, "test": 10, "shape": [1, 8, 8], "classes": 10},
            **{"train_sha256": "1" * 64, "test_sha256": "2" * 64, "split_sha256": "3" * 64},
        },
        "training": {
            **{"plan": ["prune", {"epochs": own, "part": "finetune", "rewind": None}], "precision": "fp32"},
            **{"starts_from": "base", **work, "selection": "last epoch"},
            **{"method_examples": {"forward": 0, "backward": 0}},
            "base": {"id": "base-s0", "sha256": "4" * 64, "epochs": before, "examples": 0, "macs": 0, "made": MADE},
        },
        "structure": {
            **{"widths": {"0": [8, 4]}, "units_before": 8, "units_after": 4},
            **{"gate_slice_difference": 1e-7, "arch_sha256": "6" * 64, "rejected": {"fc": "it makes the output"}},
        },
        "cost": {"dense": cost(1000, 200), "final": cost(490, 90)},
        "metrics": {"dense": quality(), "pruned": quality(), "final": quality()},
        "curve": {
            **{"phase": [1] * own, "part": ["finetune"] * own, "epoch": [*range(1, own + 1)]},
            **{"train_loss": [0.5] * own, "val_top1": [0.5] * own, "val_loss": [0.7] * own, "units_left": [0.5] * own},
        },
        "artifacts": {
            "network": {"file": "network.safetensors", "bytes": 400, "sha256": "7" * 64},
            "masks": {"file": "masks.safetensors", "bytes": 80, "sha256": "8" * 64},
        },
        "memory": {"batch": 4, "dense_peak_bytes": 900, "final_peak_bytes": 500, "process_peak_bytes": 10_000},
        "clock": {
            **{"started_at": started, "finished_at": started, "base_seconds": {"train": 1.0, "method": 0.0}},
            **{"seconds": {"train": seconds, "method": 0.0, "evaluate": 0.0, "measure": 0.0}, "resumes": 0},
        },
        "job": None,
        "error": None,
    }
    return fitted(table)


def fitted(table):
    """The table of a finished run with work and memory that fit its plan and costs; changed in place."""
    training, data, costs = table["training"], table["data"], table["cost"]
    images = examples_of_epoch(data["train"], table["spec"]["recipe"]["batch_size"])
    base, plan, epochs = training["base"], training["plan"], table["curve"]["phase"]
    prune = plan.index("prune") if "prune" in plan else -1
    base["examples"] = base["epochs"] * images
    base["macs"] = 3 * base["examples"] * costs["dense"]["macs"]
    shared = training["starts_from"] == "base"
    training["examples"] = len(epochs) * images + shared * base["examples"]
    own = sum(costs["dense" if phase < prune else "final"]["macs"] for phase in epochs)
    training["macs"] = 3 * images * own + shared * base["macs"] + training.get("method_macs", 0)
    for which in ("dense", "final"):
        table["memory"][f"{which}_peak_bytes"] = costs[which]["weight_bytes"] + 100
    return table


def ended(status="failed", spec=SPEC, message="why"):
    """The record of a run that did not finish, as a table without its hash."""
    error = {"type": "RunFailed", "message": message, "traceback": ["run.py:1 go: x"], "blame": "method"}
    return unfinished(finished(spec)) | {"status": status, "error": error}


def spec_table(spec):
    """A specification as a record has it."""
    return msgspec.to_builtins(spec)


def unfinished(table):
    """What is in a record of every status."""
    required = [field.name for field in msgspec.structs.fields(Record) if field.required]
    return {key: table[key] for key in required}


def with_bits(table):
    """The table of a finished run with bits that agree with its counts, where it has none."""
    new, none = copy.deepcopy(table), (AttributeError, KeyError, TypeError, ValueError, OverflowError)
    with contextlib.suppress(*none):
        final = new["metrics"]["final"]
        right = range(round(final["top1"] * final["examples"]))
        final.setdefault("correct", bits.pack([k in right for k in range(final["examples"])]))
    with contextlib.suppress(*none):
        widths = sorted(new["structure"]["widths"].items())
        kept = [k < after for _, (before, after) in widths for k in range(before)]
        new["structure"].setdefault("masks", bits.pack(kept))
    return new


def line(table):
    """The line of a table, whatever it says, with the hash that the table has, or the right one where it has none."""
    table = with_bits(table)
    body = msgspec.json.encode({k: v for k, v in table.items() if k != "record_sha256"}, order="sorted")
    with contextlib.suppress(msgspec.MsgspecError, BenchError):  # a forger's may be none
        body = msgspec.json.encode(msgspec.json.decode(body, type=Record), order="sorted")
    own = table.get("record_sha256", hashlib.sha256(body).hexdigest())
    return body[:-1] + b',"record_sha256":"%b"}\n' % own.encode()


def seal(table):
    """The table with the hash that its line has."""
    return msgspec.json.decode(line({k: v for k, v in table.items() if k != "record_sha256"}))


def refitted(table):
    """The table of a finished run after its counts were changed: sealed again, with bits, work and memory that fit."""
    table["metrics"]["final"].pop("correct", None)
    table["structure"].pop("masks", None)
    return seal(fitted(table))


def record(table):
    """The record of a table, as it is read from a file."""
    return store.decode(line({k: v for k, v in table.items() if k != "record_sha256"}), "made")


def read(path):
    """The record in a file, as a table with its hash."""
    return store.as_table(store.load(path))


def entries(record):
    """A record's curve as one table an epoch."""
    curve = record.curve
    columns = {key: getattr(curve, key) for key in curve.__struct_fields__ if key != "logged"} | curve.logged
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def quality(**changes):
    """Metrics of 10 test images."""
    return {
        **{"examples": 10, "top1": 0.5, "top5": 0.9, "loss": 1.2, "ece": 0.1},
        **{"worst_class": 3, "worst_class_top1": 0.2},
        **changes,
    }


def cost(macs, params):
    """Costs of a network with these numbers."""
    by_op = {"conv": macs - min(macs, 1), "linear": min(macs, 1)}
    counted = {"macs": macs, "macs_by_op": by_op, "unsupported_ops": {"aten::add": 1}, "counter": "fvcore"}
    return counted | {"params": params, "weight_bytes": 4 * params}


def changed(record, path, value):
    """A copy with another value at ``path``, a sequence of keys and places."""
    new = copy.deepcopy(record)
    at = new
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return new
