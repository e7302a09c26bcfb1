"""Every claim of a record can be found false."""

import json

import pytest
from safetensors.torch import load_file, save_file
from support.networks import two_sites
from support.records import line, seal

from bench import RULES
from bench.records import store as record
from bench.runs.identity import arch_sha256
from bench.runs.verify import verify_file
from bench.spec.digest import digest


@pytest.fixture
def made(finished):
    """A finished run: its record's path, its record, its output folder."""
    spec, done, options = finished("random", "two_layers", "tiny8")
    return record.path_of(options.out, spec), record.as_table(done), options


def failed(path, options):
    return {c.name for c in verify_file(path, options.out, options.data_dir) if c.outcome == "FAILED"}


def put(path, changed):
    """Write a changed record with a hash that fits, as a forger would."""
    path.write_bytes(line(seal(changed)))


def test_an_honest_record_holds(made):
    path, _, options = made
    outcomes = {c.name: c.outcome for c in verify_file(path, options.out, options.data_dir)}
    assert set(outcomes.values()) == {"ok"}
    assert len(outcomes) == 7


def shift(record, which, macs):
    """Claim so many MACs more, with a sum that fits."""
    record["cost"][which]["macs"] += macs
    record["cost"][which]["macs_by_op"]["conv"] += macs


def narrow(record, site):
    """Claim one unit less, with a sum that fits."""
    record["structure"]["widths"][site][1] -= 1
    record["structure"]["units_after"] -= 1


def slower(timing):
    """Claim twice the times of the dense network, with a speed-up that fits."""
    timing |= {"dense_ms": 2 * timing["dense_ms"], "speedup": 2 * timing["speedup"]}
    timing["speedup_ci95"] = [2 * end for end in timing["speedup_ci95"]]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda r: shift(r, "final", -1), "MACs and params from widths"),
        (lambda r: r["cost"]["final"].update(params=r["cost"]["final"]["params"] - 1), "MACs and params from widths"),
        (lambda r: shift(r, "dense", 1), "MACs and params from widths"),
        (lambda r: narrow(r, "0"), "MACs and params from widths"),
        (lambda r: r["structure"].update(arch_sha256="0" * 64), "MACs and params from widths"),
        (lambda r: r["structure"].update(masks_sha256="0" * 64), "masks"),
        (lambda r: r["artifacts"]["network"].update(sha256="0" * 64), "stored network"),
        (
            lambda r: r["metrics"]["final"].update(top1=1.0, top5=1.0, worst_class_top1=0.0),
            "accuracy of the stored network",
        ),
        (lambda r: r["data"].update(test_sha256="0" * 64), "accuracy of the stored network"),
        (lambda r: r["spec"]["recipe"].update(weight_decay=0.1), "form"),
        (lambda r: r["spec"].update(method="l1_norm"), "form"),
        (lambda r: slower(r["latency"][0]), "latency from its samples"),
        (lambda r: r["latency"][0].update(rounds=4), "latency from its samples"),
        (lambda r: r["latency"].pop(), "latency from its samples"),
        (lambda r: r["artifacts"]["samples"].update(sha256="0" * 64), "latency from its samples"),
        (lambda r: r["spec"].update(seed=3), "form"),
        (lambda r: r.update(id="0" * 12 + "-s0"), "form"),
        (lambda r: r["metrics"]["final"].update(top1=1.2), "form"),
    ],
)  # fmt: skip
def test_a_forged_record_does_not(made, change, check):
    path, done, options = made
    changed = json.loads(json.dumps(done))
    changed["metrics"]["final"].update(top1=min(changed["metrics"]["final"]["top1"], 0.5), worst_class_top1=0.0)
    changed["metrics"]["final"]["top1"] = done["metrics"]["final"]["top1"]
    change(changed)
    put(path, changed)
    assert check in failed(path, options)


def test_a_change_without_a_new_hash_does_not(made):
    path, done, options = made
    done["curve"]["train_loss"] = [0.5 for _ in done["curve"]["train_loss"]]
    path.write_bytes(line(done))
    (form,) = verify_file(path, options.out, options.data_dir)
    assert (form.name, form.outcome) == ("form", "FAILED")
    assert "is not what record_sha256 was made of" in form.detail


def test_other_samples_do_not(made):
    """Samples that fit the medians, but are not those of the record's hash; without them the check is not run."""
    path, done, options = made
    file = options.out / "artifacts" / done["id"] / "samples.json"
    file.write_bytes(file.read_bytes() + b" ")
    assert failed(path, options) == {"latency from its samples"}
    file.unlink()
    outcomes = {c.name: c.outcome for c in verify_file(path, options.out, options.data_dir)}
    assert outcomes["latency from its samples"] == "not run"


def test_other_masks_or_weights_do_not(made):
    path, done, options = made
    folder = options.out / "artifacts" / done["id"]
    masks = load_file(folder / "masks.safetensors")
    name = next(n for n, m in masks.items() if 0 < m.sum() < len(m))
    save_file(masks | {name: masks[name].flip(0).contiguous()}, folder / "masks.safetensors")
    assert "masks" in failed(path, options)
    weights = load_file(folder / "network.safetensors")
    save_file({n: w * 2 for n, w in weights.items()}, folder / "network.safetensors")
    assert "stored network" in failed(path, options)


def test_what_is_not_at_hand_is_not_run(made):
    path, done, options = made
    for file in (options.out / "artifacts" / done["id"]).iterdir():
        file.unlink()
    outcomes = {c.name: c.outcome for c in verify_file(path, options.out, options.data_dir)}
    assert [outcomes[n] for n in ("masks", "stored network", "accuracy of the stored network")] == ["not run"] * 3
    assert outcomes["MACs and params from widths"] == "ok"


def test_an_unknown_architecture_is_not_run(made, monkeypatch):
    from bench.spec.registry import ARCHS

    path, _, options = made
    monkeypatch.setattr(ARCHS, "entries", dict)
    outcomes = {c.name: c for c in verify_file(path, options.out, options.data_dir)}
    assert outcomes["MACs and params from widths"].outcome == "not run"
    assert "--plugin" in outcomes["MACs and params from widths"].detail


@pytest.mark.parametrize("rules", ["0.1", RULES])
def test_arch_hash_covers_what_is_left_whole(rules):
    def hashed(*whole):
        network = two_sites()
        if whole:
            network.whole = whole
        return arch_sha256("lenet", network, rules)

    network = two_sites()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert (hashed() == digest([str(network), shapes])) == (rules == "0.1")
    assert hashed("0", "4") == hashed("4", "0")
    assert len({hashed(), hashed("0"), hashed("4"), hashed("0", "4")}) == 4
