"""Every claim of a record can be found false."""

import copy

import pytest
from safetensors.torch import load_file, save_file
from support.networks import two_sites
from support.records import fitted, line, seal

from bench.records import bits
from bench.records import store as record
from bench.runs.identity import arch_sha256
from bench.runs.verify import Check, level_of, verify_file
from bench.spec.registry import ARCHS


@pytest.fixture
def made(finished):
    """A finished run: its record's path, its record, its output folder."""
    spec, done, options = finished("random", "two_layers", "tiny8")
    return record.path_of(options.out, spec), record.as_table(done), options


def outcomes(made):
    """Outcome and detail of every check, by its name."""
    path, _, options = made
    return {c.name: (c.outcome, c.detail) for c in verify_file(path, options.out, options.data_dir)}


def failed(made):
    return {name for name, (outcome, _) in outcomes(made).items() if outcome == "FAILED"}


def test_honest_record_holds(made):
    found = outcomes(made)
    assert {outcome for outcome, _ in found.values()} == {"ok"}
    assert len(found) == 10
    assert level_of(verify_file(made[0], made[2].out, made[2].data_dir)) == 3


def shift(record, which, macs):
    """Claim so many MACs more, with a sum and work that fit."""
    record["cost"][which]["macs"] += macs
    record["cost"][which]["macs_by_op"]["conv"] += macs
    fitted(record)


def narrow(record, site):
    """Claim one unit less, with a sum that fits."""
    record["structure"]["widths"][site][1] -= 1
    record["structure"]["units_after"] -= 1
    del record["structure"]["masks"]  # made to fit


def other_masks(record):
    """Claim that as many other units are kept."""
    widths = sorted(record["structure"]["widths"].items())
    own = record["structure"]["masks"]
    kept = bits.unpack(own, record["structure"]["units_before"]).tolist()
    ends = [sum(before for _, (before, _) in widths[: k + 1]) for k in range(len(widths))]
    parts = [kept[end - before : end][::-1] for end, (_, (before, _)) in zip(ends, widths, strict=True)]
    record["structure"]["masks"] = bits.pack([bit for part in parts for bit in part])
    assert record["structure"]["masks"] != own


def all_right(record):
    """Claim that every image is right."""
    record["curve"]["val_top1"][-1] = 1.0
    record["metrics"]["final"] |= {"top1": 1.0, "top5": 1.0, "worst_class_top1": 0.0}
    del record["metrics"]["final"]["correct"]  # made to fit


def other_bits(record):
    """Claim that as many other test images are right."""
    final, images = record["metrics"]["final"], record["data"]["test"]
    right = bits.unpack(final["correct"], images)[::-1]
    final["correct"] = bits.pack(right)


def without_base(record):
    """The training of a run that never had the base's epochs."""
    training, base = record["training"], record["training"]["base"]
    return {key: training[key] - base[key] for key in ("epochs", "examples", "macs")}


PLAN, DATA = "plan of the method", "data set and its split"
WIDTHS, NETWORK = "MACs and params from widths", "accuracy of the stored network"
FORGERIES = [
    (lambda r: shift(r, "final", -1), WIDTHS),
    (lambda r: r["cost"]["final"].update(params=r["cost"]["final"]["params"] - 1), WIDTHS),
    (lambda r: shift(r, "dense", 1), WIDTHS),
    (lambda r: narrow(r, "0"), WIDTHS),
    (lambda r: r["structure"].update(arch_sha256="0" * 64), WIDTHS),
    (other_masks, "masks"),
    (lambda r: r["artifacts"]["network"].update(sha256="0" * 64), "stored network"),
    (all_right, NETWORK),
    (lambda r: r["data"].update(test_sha256="0" * 64), NETWORK),
    (lambda r: r["data"].update(test_sha256="0" * 64), DATA),
    (lambda r: r["data"].update(split_sha256="0" * 64), DATA),
    (lambda r: r["data"].update(train=r["data"]["train"] - 1, val=r["data"]["val"] + 1), DATA),
    (other_bits, NETWORK),
    (lambda r: r["training"]["plan"][-1].update(rewind="base"), PLAN),
    (lambda r: r["training"]["plan"].reverse(), PLAN),  # all epochs before the prune
    (lambda r: r["training"].update(starts_from="init", **without_base(r)), PLAN),
    (lambda r: r["spec"]["recipe"].update(weight_decay=0.1), "form"),
    (lambda r: r["spec"].update(method="l1_norm"), "form"),
    (lambda r: r["spec"].update(seed=3), "form"),
    (lambda r: r.update(id="0" * 12 + "-s0"), "form"),
    (lambda r: r["metrics"]["final"].update(top1=1.2), "form"),
]


def test_forged_record_fails_verify(made):
    """Each is written with a hash that fits, as a forger would."""
    path, done, _ = made
    for number, (change, check) in enumerate(FORGERIES):
        forged = copy.deepcopy(done)
        change(forged)
        path.write_bytes(line(seal(forged)))
        assert check in failed(made), f"forgery {number}"


def test_level_is_below_what_failed_and_up_to_what_holds():
    def level(*outcomes):
        return level_of([Check(str(k), outcome, "", k) for k, outcome in enumerate(outcomes)])

    assert [level("FAILED"), level("ok"), level("ok", "ok", "FAILED", "ok")] == [None, 0, 1]
    assert [level("ok", "ok", "not run", "ok"), level("ok", "not run")] == [3, 0]


def test_change_without_a_new_hash_fails_verify(made):
    path, done, _ = made
    done["curve"]["train_loss"] = [0.5 for _ in done["curve"]["train_loss"]]
    path.write_bytes(line(done))
    ((name, (outcome, detail)),) = outcomes(made).items()
    assert (name, outcome) == ("form", "FAILED")
    assert "is not what record_sha256 was made of" in detail


def test_other_files_fail_verify_and_missing_ones_do_not(made):
    """Masks of the same widths, other weights: neither has the hash of the record."""
    _, done, options = made
    folder = options.out / "artifacts" / done["id"]
    masks = load_file(folder / "masks.safetensors")
    name = next(n for n, m in masks.items() if 0 < m.sum() < len(m))
    save_file(masks | {name: masks[name].flip(0).contiguous()}, folder / "masks.safetensors")
    assert "masks" in failed(made)
    weights = load_file(folder / "network.safetensors")
    save_file({n: w * 2 for n, w in weights.items()}, folder / "network.safetensors")
    assert "stored network" in failed(made)
    for file in folder.iterdir():
        file.unlink()
    found = outcomes(made)
    assert [found[n][0] for n in ("masks", "stored network", NETWORK)] == ["not run"] * 3
    assert found[WIDTHS][0] == "ok"


def test_unknown_architecture_is_not_verified(made, monkeypatch):
    monkeypatch.setattr(ARCHS, "entries", dict)
    outcome, detail = outcomes(made)[WIDTHS]
    assert outcome == "not run"
    assert "--plugin" in detail


def test_arch_hash_covers_what_is_left_whole():
    def hashed(*whole):
        network = two_sites()
        if whole:
            network.whole = whole
        return arch_sha256("lenet", network)

    assert hashed("0", "4") == hashed("4", "0")
    assert len({hashed(), hashed("0"), hashed("4"), hashed("0", "4")}) == 4
