"""Convert records of schema 1 (version 0.1) to packs of schema 2: ``python -m tools.convert_records FROM TO``.

Nothing is lost but digits below a nanosecond in latency samples. ``converted_from`` names the hash of the old record.
The packs are ``TO/[FOLDER/]DATASET-NETWORK.jsonl.gz``, FOLDER being the first of FROM where that has folders of runs.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bench.errors import BenchError
from bench.records import store
from bench.records.publish import Entry, write_packs
from bench.records.schema import FORMAT_VERSION, Pair, Record
from bench.spec.digest import digest

MEASURED = ("phase", "part", "epoch", "train_loss", "val_top1", "val_loss", "units_left")
"""Columns of every curve; all others were logged by the method."""


def converted(old: Mapping[str, Any]) -> Entry:
    """The record of schema 2 and the file of its latency samples; raises BenchError, KeyError for another schema."""
    new = json.loads(json.dumps(old))
    own = new.pop("record_sha256")
    if old["schema"] != 1 or digest(new) != own:
        raise BenchError(f"{old['id']}: not a record of schema 1, or its hash does not hold")
    timings = [
        Pair(*(_ns(timing.pop(f"{key}_samples_ms")) for key in ("dense", "sliced"))) for timing in new["latency"]
    ]
    described, samples = store.samples_file(old["id"], timings)
    new |= {"schema": FORMAT_VERSION, "converted_from": own, "curve": _columns(new["curve"])}
    new["artifacts"] |= {"samples": msgspec.to_builtins(described)} if timings else {}
    recipe_sha256 = new["spec"].pop("recipe_sha256")
    if new["job"] and "legs" in new["job"]:
        new["job"]["attempts"] = new["job"].pop("legs")
    if new["training"]:
        new["training"] |= new["training"].pop("extras", {})
    record = store.seal(msgspec.convert(new, Record))
    if recipe_sha256 != record.spec.recipe.sha256:
        raise BenchError(f"{record.id}: recipe_sha256 is not the hash of the recipe")
    return record, samples if timings else None


def _ns(samples_ms: list[float]) -> list[int]:
    return [round(sample * 1e6) for sample in samples_ms]


def _columns(curve: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A curve with one list a field."""
    if not curve:
        return None
    logged = {key for entry in curve for key in entry if key not in MEASURED}
    columns = {key: [entry.get(key) for entry in curve] for key in MEASURED if any(key in entry for entry in curve)}
    return columns | {"logged": {key: [entry.get(key) for entry in curve] for key in logged}}


def main(source: Path, target: Path) -> None:
    """Convert every record below ``source``; the first folder of its path stays a folder."""
    found: dict[Path, list[Entry]] = defaultdict(list)
    for file in store.names(source):
        top = Path(file).parts[0] if len(Path(file).parts) > 4 else "."
        found[target / top].append(converted(json.loads((source / file).read_bytes())))
    for folder, entries in found.items():
        for pack in write_packs(folder, entries):
            print(pack)


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except BenchError as error:
        sys.exit(f"convert_records: error: {error}")
