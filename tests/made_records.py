"""Records made of nothing but what a test wants to say: whole, sealed, and in the form that ``bench run`` writes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bench import record
from bench.spec import Budget, Recipe, Spec, Stage

IMAGES = 500
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
    status: str = "ok",
    epochs: int = 8,
    starts_from: str = "base",
    cost: float = 1.0,
    speedup: float = 1.5,
    busy: bool = False,
    pruned_wrong: int | None = None,
    rules: str = "0.1",
    counter: str = "fvcore",
    recipe: Recipe | None = None,
    native: bool = False,
    changed: bool = False,
    finished: str = "2026-01-01T01:00:00+00:00",
    error: str = "it did not work",
) -> dict:
    """One record; ``keep`` None is dense, or with ``native`` the native track."""
    recipe = recipe or Recipe("tiny", Stage(EPOCHS[0], 0.1), Stage(EPOCHS[1], 0.01))
    budget = Budget(**{f"keep_{kind}": keep}) if keep is not None else None
    spec = Spec(method, arch, dataset, recipe, budget, seed, "inner", config or {}, rules)
    prunes = keep is not None or native
    share = keep if keep is not None else 0.3 if native else 1.0
    macs, params = int(DENSE["macs"] * share), int(DENSE["params"] * share)
    ok = status == "ok"
    plan = ["prune", {"epochs": EPOCHS[1], "part": "finetune", "rewind": None}]
    body = {
        "schema": record.SCHEMA,
        "kind": "bench.run",
        "id": spec.id,
        "status": status,
        "spec": spec.as_dict(),
        "spec_sha256": spec.sha256,
        "code": {
            "version": "0.1.0",
            "commit": sha("commit")[:40],
            "diff_sha256": sha("diff") if changed else None,
            "method_sha256": sha(method),
        },
        "environment": {
            **{"device": device, "device_type": "cpu", "threads": 1, "os": "Linux", "python": "3.11", "cuda": None},
            "packages": {"torch": "2.15.0"},
        },
        "data": {
            **{
                "train": 900,
                "val": 100,
                "test": IMAGES,
                "train_sha256": sha(dataset),
                "test_sha256": sha(f"{dataset}t"),
            },
            "split_sha256": sha(seed),
        },
        "training": {
            **{"plan": plan if prunes else plan[1:], "precision": precision, "starts_from": starts_from},
            **{"epochs": epochs, "examples": 900 * epochs, "macs": int(1e9 * cost), "selection": "last epoch"},
            "base": {"id": "b", "sha256": sha((arch, seed)), "epochs": 6, "examples": 5400, "macs": 10**8},
        },
        "structure": {
            **{"widths": {"one": [10, max(1, round(10 * share))]}, "units_before": 10},
            **{"units_after": max(1, round(10 * share)), "masks_sha256": sha("masks")},
            **{"gate_slice_difference": 0.0, "arch_sha256": sha(arch), "rejected": {}},
        },
        "cost": {
            "dense": _cost(DENSE["macs"], DENSE["params"], counter),
            "final": _cost(macs, params, counter),
        },
        "metrics": {
            "dense": _quality(8 + seed % 3),
            "pruned": _quality(wrong + 50 if pruned_wrong is None else pruned_wrong) if prunes else None,
            "final": _quality(wrong),
        },
        "curve": [{"phase": 0, "part": "finetune", "epoch": 1, "train_loss": 0.5, "val_top1": 0.9, "val_loss": 0.4}],
        "artifacts": {
            name: {"file": f"{name}.safetensors", "bytes": 8, "sha256": sha(name)} for name in ("network", "masks")
        },
        "latency": [_timing(1, speedup, busy), _timing(64, speedup * 1.2, busy)],
        "memory": {"batch": 64, "dense_peak_bytes": 2, "final_peak_bytes": 1, "process_peak_bytes": 9},
        "clock": {
            **{"started_at": "2026-01-01T00:00:00+00:00", "finished_at": finished, "resumes": 0},
            "seconds": {"train": 2.0 * cost, "method": 0.1, "evaluate": 0.1, "measure": 1.0},
            "base_seconds": {"train": 6.0, "method": 0.0, "evaluate": 0.1},
        },
        "job": None,
        "error": None,
    }
    if not ok:
        body |= dict.fromkeys(("data", "training", "structure", "cost", "metrics", "memory"))
        body |= {"curve": [], "latency": [], "artifacts": {}}
        body["error"] = {"type": "RuntimeError", "message": error, "traceback": ["somewhere"]}
    return record.seal(body)


def _cost(macs: int, params: int, counter: str) -> dict:
    by_op = {"conv": macs - 100, "linear": 100}
    return {
        **{"macs": macs, "macs_by_op": by_op, "unsupported_ops": {}, "counter": counter},
        **{"params": params, "weight_bytes": 4 * params},
    }


def _quality(wrong: int) -> dict:
    top1 = (IMAGES - wrong) / IMAGES
    return {
        **{"examples": IMAGES, "top1": top1, "top5": 1.0, "loss": 0.1, "ece": 0.01, "worst_class": 0},
        "worst_class_top1": top1 / 2,
    }


def _timing(batch: int, speedup: float, busy: bool) -> dict:
    dense, sliced = batch * speedup, float(batch)
    return {
        **{"batch": batch, "device": "a chip", "threads": 1, "dtype": "float32", "runtime": "eager"},
        **{"layout": "channels_last", "rounds": 2, "load_average": 9.0 if busy else 0.5},
        **{"dense_ms": dense, "sliced_ms": sliced, "speedup": dense / sliced},
        "speedup_ci95": [speedup * 0.99, speedup * 1.01],
        **{"dense_samples_ms": [dense, dense], "sliced_samples_ms": [sliced, sliced]},
    }


def put(folder: Path, *records: dict) -> Path:
    """Write records as a contributor would; returns the folder."""
    for found in records:
        path = folder / found["spec"]["method"] / f"{found['id']}.json"
        while path.exists():  # a second record of the same run
            path = path.parent / "again" / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record.to_text(found))
    return folder


def seeds(method: str, wrong: list[int], **asked) -> list[dict]:
    """One record a seed, with so many wrong images each."""
    return [made(method, seed, count, **asked) for seed, count in enumerate(wrong)]
