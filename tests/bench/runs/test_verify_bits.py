"""What `verify` makes of the bits of a record: labels and stored network must agree with them."""

import copy
import dataclasses

import pytest
from support.records import line, seal

from bench.records import bits, store
from bench.runs.verify import verify_file


@pytest.fixture
def made(finished):
    spec, done, options = finished("random", "two_layers", "tiny8")
    return store.path_of(options.out, spec), store.as_table(done), options


def outcomes(made):
    path, _, options = made
    return {c.name: (c.outcome, c.detail) for c in verify_file(path, options.out, options.data_dir)}


def forged(made, change):
    """What `verify` says of a record that was changed and written with a hash that fits."""
    path, done, _ = made
    table = copy.deepcopy(done)
    change(table["metrics"]["final"], table)
    path.write_bytes(line(seal(table)))
    return {name: detail for name, (outcome, detail) in outcomes(made).items() if outcome == "FAILED"}


CLASS, NETWORK = "worst class from labels", "accuracy of the stored network"


def test_honest_bits_hold(made):
    found = outcomes(made)
    assert found[CLASS][0] == found[NETWORK][0] == "ok"
    final = made[1]["metrics"]["final"]
    assert found[CLASS][1] == f"class {final['worst_class']} at {final['worst_class_top1']:.4f}"


def moved(final, _):
    """As many other images are right."""
    kept = bits.unpack(final["correct"], final["examples"])
    final["correct"] = bits.pack(kept[::-1].copy())


def test_bits_of_other_images_are_not_those_of_the_stored_network(made):
    found = forged(made, moved)
    assert "images are right here or there only" in found[NETWORK]


def test_worst_class_that_labels_do_not_give_fails(made):
    shares = set()
    for label in range(made[1]["data"]["classes"]):
        said = forged(made, lambda final, _, label=label: final.update(worst_class=label)).get(CLASS, "least")
        shares.add(said.partition("the least is")[2])
    assert len(shares) == 2  # what is worst, and what is not, each time with the least share

    assert CLASS in forged(made, lambda final, _: final.update(worst_class_top1=final["worst_class_top1"] / 2 + 0.001))
    assert CLASS in forged(
        made, lambda final, table: (final.update(worst_class=999), table["data"].update(classes=1000))
    )


def test_other_test_images_fail(made):
    path, done, options = made
    done["data"]["test_sha256"] = "0" * 64
    path.write_bytes(line(seal(done)))
    (check,) = [c for c in verify_file(path, options.out, options.data_dir) if c.name == CLASS]
    assert (check.outcome, "has other test images" in check.detail) == ("FAILED", True)


def test_data_set_that_is_not_here_is_not_run(make_run, finished, tmp_path):
    from support.records import finished as table
    from support.records import record

    found = table()
    spec = dataclasses.replace(record(found).spec, dataset="kmnist")
    found = table(spec)
    path = tmp_path / f"{spec.id}.json"
    path.write_bytes(line(found))
    checks = {c.name: c for c in verify_file(path, tmp_path, tmp_path / "nothing")}
    assert (checks[CLASS].outcome, "KMNIST is not in" in checks[CLASS].detail) == ("not run", True)
