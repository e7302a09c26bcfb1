"""What a record of 10,000 test images takes in a pack."""

import dataclasses

import numpy as np
from support.records import SPEC, changed, finished, line, seal

from bench.records import bits, pack

IMAGES, LIMIT = 10_000, 4000


def test_record_of_ten_thousand_images_takes_four_kilobytes_in_a_pack(tmp_path):
    """Right images and masks are random at 88 %, which packs worst among real accuracies; each hash is its own."""
    rng, entries = np.random.default_rng(0), []
    epochs = 6
    for seed in range(20):
        spec = dataclasses.replace(SPEC, seed=seed)
        right = rng.random(IMAGES) < 0.88
        table = changed(finished(spec), ("structure", "widths"), {f"blocks.{k}.conv1": [64, 32] for k in range(9)})
        table["structure"] |= {"units_before": 576, "units_after": 288}
        table["structure"]["masks"] = bits.pack(np.tile(rng.permutation(64) < 32, 9))
        for key in ("dense", "pruned", "final"):
            top1 = float(right.mean())
            table["metrics"][key] |= {"examples": IMAGES, "top1": top1, "top5": 1.0, "worst_class_top1": top1 / 2}
        table["metrics"]["final"]["correct"] = bits.pack(right)
        table["data"] |= {"test": IMAGES, "split_sha256": rng.bytes(32).hex()}
        for file in ("network", "masks"):
            table["artifacts"][file]["sha256"] = rng.bytes(32).hex()
        table["training"]["base"]["sha256"] = rng.bytes(32).hex()
        columns = ("train_loss", "val_loss", "val_top1", "units_left")
        table["curve"] = {key: rng.random(epochs).tolist() for key in columns}
        table["curve"] |= {"phase": [1] * epochs, "part": ["finetune"] * epochs, "epoch": [*range(epochs)]}
        table["training"] |= {"plan": ["prune", {"epochs": epochs, "part": "finetune", "rewind": None}]}
        table["training"]["epochs"] = table["training"]["base"]["epochs"] + epochs
        sealed = seal(table)
        entries.append((sealed["id"], line(sealed)))
    pack.write(tmp_path / "a.jsonl.gz", entries)
    assert (tmp_path / "a.jsonl.gz").stat().st_size / len(entries) < LIMIT
    assert len({name for name, _ in pack.lines(tmp_path / "a.jsonl.gz")}) == 20
