"""Records for boards: a method, a seed, so many images that are wrong; sealed, and written as a contributor would."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from msgspec import UNSET
from support import records

from bench import RULES
from bench.spec.recipe import Recipe, Stage
from bench.spec.spec import WIDTH, Budget, Spec

IMAGES = 500
DENSE_MS = 2.0
DENSE = {"macs": 100_000, "params": 10_000}
EPOCHS = (6, 2)


def sha(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def made(
    method: str = "l1_norm",
    seed: int = 0,
    wrong: int = 10,
    keep: float | None = 0.5,
    *,
    kind: str = "macs",
    config: dict | None = None,
    arch: str = "net",
    dataset: str = "digits",
    device: str = "a chip",
    precision: str = "fp32",
    layout: str | None = None,
    status: str = "ok",
    epochs: int | None = None,
    starts_from: str = "base",
    cost: float = 1.0,
    pruned_wrong: int | None = None,
    rules: str = RULES,
    counter: str = "fvcore",
    recipe: Recipe | None = None,
    native: bool = False,
    changed: bool = False,
    finished: str = "2026-01-01T01:00:00+00:00",
    error: str = "it did not work",
    blame: str = "method",
    unit_kinds: str = WIDTH,
    step: int = 1,
    where: Mapping = MappingProxyType({}),
) -> dict:
    """One record; ``keep`` None is dense, or with ``native`` the native track; its only site is one of blocks, too."""
    recipe = recipe or Recipe("tiny", Stage(EPOCHS[0], 0.1), Stage(EPOCHS[1], 0.01), precision=precision)
    asked = "latency_ms" if kind == "ms" else f"keep_{kind}"
    budget = Budget(**{asked: keep}, round_to=step, **where) if keep is not None else None
    what = UNSET if unit_kinds == WIDTH else unit_kinds
    spec = Spec(method, arch, dataset, recipe, budget, seed, "inner", config or {}, rules, units=what)
    prunes = keep is not None or native
    share = keep if keep is not None else 0.3 if native else 1.0
    share = share / DENSE_MS if kind == "ms" else share
    after = {key: int(value * share) for key, value in DENSE.items()}
    trained, tuned = recipe.train.epochs, recipe.finetune.epochs
    epochs = trained + tuned if epochs is None else epochs
    own = tuned if starts_from == "base" else epochs
    before = [{"epochs": own - tuned, "part": "train", "rewind": None}] if own > tuned else []
    after_it = {"epochs": tuned, "part": "finetune", "rewind": None}
    found = records.finished(spec)
    found["code"] |= {"method_sha256": sha(method), "diff_sha256": sha("diff") if changed else None}
    found["environment"]["device"] = device
    found["data"] |= {"train": 900, "val": 100, "test": IMAGES, "split_sha256": sha(seed)}
    found["data"] |= {"train_sha256": sha(dataset), "test_sha256": sha(f"{dataset}, test")}
    plan = [*before, "prune", after_it] if prunes else [*before, after_it]
    found["training"] |= {"plan": plan, "precision": precision, "starts_from": starts_from}
    found["training"] |= {"layout": layout} if layout else {}
    found["training"] |= {"epochs": epochs, "examples": 900 * epochs, "macs": int(1e9 * cost)}
    base = (arch, dataset, precision, recipe.sha256, rules, seed, trained)
    found["training"]["base"] |= {"id": f"base-{sha(base)[:8]}-s{seed}", "sha256": sha(base), "epochs": base[-1]}
    rate = {"train_loss": [0.5] * own, "val_top1": [0.5] * own, "val_loss": [0.7] * own, "units_left": [0.5] * own}
    phases = [(k, step["part"], e + 1) for k, step in enumerate(plan) if step != "prune" for e in range(step["epochs"])]
    found["curve"] = dict(zip(("phase", "part", "epoch"), map(list, zip(*phases, strict=True)), strict=True)) | rate
    units = max(1, round(10 * share)) if prunes else 10
    found["structure"] |= {"widths": {"one": [10, units]}, "units_before": 10, "units_after": units}
    found["structure"] |= {"blocks": {"one": "1" * units + "0" * (10 - units)}} if what else {}
    found["structure"]["arch_sha256"] = sha(arch)
    found["cost"] = {
        which: records.cost(own["macs"], own["params"]) | {"counter": counter}
        for which, own in (("dense", DENSE), ("final", after))
    }
    pruned = wrong + 50 if pruned_wrong is None else pruned_wrong
    found["metrics"] = {
        "dense": _quality(8 + seed % 3),
        "pruned": _quality(pruned) if prunes else None,
        "final": _quality(wrong),
    }
    found["artifacts"]["network"] |= {"sha256": sha((spec.sha256, seed, wrong))}
    found["clock"]["finished_at"] = finished
    found["clock"]["seconds"] |= {"train": 2.0 * cost, "method": 0.1}
    found["clock"]["base_seconds"] = {"train": 6.0, "method": 0.0}
    records.fitted(found)
    extra = max(0, int(1e10 * cost) - found["training"]["macs"])
    found["training"] |= {"macs": found["training"]["macs"] + extra, "method_macs": extra}
    found["curve"]["val_top1"] = [(IMAGES - wrong) / IMAGES] * own
    if kind in ("latency", "ms") and keep is not None:
        found["latency"] = _latency(device, share, seed, units)
    if status != "ok":
        described = {"type": "Error", "message": error, "traceback": ["somewhere"], "blame": blame}
        found = records.unfinished(found) | {"status": status, "error": described}
    return records.seal(found)


def _latency(device: str, share: float, seed: int, units: int) -> dict:
    """Asked for a share of 2 ms, and met within 1 %."""
    ms = DENSE_MS * share * (1 + (seed % 3 - 1) / 100)
    measured = {"ms": ms, "dense_ms": DENSE_MS, "low": 0.99 * share, "high": 1.01 * share}
    done = {"target": DENSE_MS * share, "predicted": DENSE_MS * share, "vector": [units], **measured}
    return {"device": device, "dense_ms": DENSE_MS, "ranking": ["layer"], "rounds": [done]}


def _quality(wrong: int) -> dict:
    top1 = (IMAGES - wrong) / IMAGES
    return records.quality(
        examples=IMAGES, top1=top1, top5=1.0, worst_class_top1=top1 / 2, loss=math.log(1 + wrong + 1) / 32
    )


def put(folder: Path, *made_ones: dict) -> Path:
    """Write records as a contributor would; returns the folder."""
    for found in made_ones:
        path = folder / found["spec"]["method"] / f"{found['id']}.json"
        while path.exists():  # a second record of the same run
            path = path.parent / "again" / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(records.line(found))
    return folder


def seeds(method: str, wrong: list[int], **asked) -> list[dict]:
    """One record a seed, with so many wrong images each."""
    return [made(method, seed, count, **asked) for seed, count in enumerate(wrong)]
