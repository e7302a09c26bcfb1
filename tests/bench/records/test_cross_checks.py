"""Records beside each other: what cannot be true together is refused, and nobody's records refuse another's."""

import copy
import random
from collections import Counter
from types import SimpleNamespace

import pytest

from bench.records import bits
from bench.records.cross_checks import Finding, check

IMAGES = 1000


def facts(method="l1_norm", seed=0, submitter="suite", **changes):
    """What the rules need of a record that no other one contradicts."""
    base = f"base of seed {seed}"
    own = {
        **{"file": f"{submitter}/{method}-s{seed}", "status": "ok", "submitter": submitter, "rules": "0.2"},
        **{"spec_sha256": method, "seed": seed, "dataset": "digits", "method": method},
        **{"base_name": base, "base_made_on": "a CPU", "base_all_sha256": base, "base_work": "40 4000 9"},
        **{
            "base_sha256": None,
            "base_metrics": f"metrics of seed {seed}",
            "dense_wrong_images": 14,
            "machine": "a CPU",
        },
        **{"train_sha256": "train", "test_sha256": "test", "split_sha256": f"split {seed}", "test_images": IMAGES},
        **{"train_images": 9000, "arch_sha256": "network", "counter": "fvcore", "dense_macs": 50},
        **{"fold": None, "final_wrong_images": 0, "correct": None, "network_sha256": f"{method}, {seed}"},
        **{"code_commit": "c" * 40, "code_changed": False, "method_sha256": "m", "finished_at": "2026-01-01T00:00:00Z"},
    }
    return SimpleNamespace(**own | changes)


def suite():
    return [facts(method, seed) for method in ("random", "l1_norm", "fpgm") for seed in range(3)]


def of(records, **known):
    return [(one.file, one.kind) for one in check(records, **known)]


def test_records_that_agree_are_accepted():
    assert check([*suite(), facts(submitter="acme"), facts(status="failed", base_all_sha256="other")]) == []


CONTRADICTIONS = {
    "another base under one name": {"base_all_sha256": "other"},
    "another cost of the base": {"base_work": "40 4000 8"},
    "other metrics of the dense network": {"base_metrics": "better", "dense_wrong_images": 0},
    "other metrics of the dense network, on another machine": {"machine": "b", "dense_wrong_images": 0},
    "another split": {"split_sha256": "other"},
    "fewer test images": {"test_images": IMAGES - 60},
    "one training image": {"train_images": 1},
    "a larger dense network": {"dense_macs": 51},
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradiction_to_what_most_records_say_is_refused(name):
    records = [*suite(), facts("taylor", 1, **CONTRADICTIONS[name])]
    found = check(records)
    assert {(one.file, one.kind) for one in found} == {("suite/taylor-s1", "refused")}
    assert any("suite/" in one.message for one in found)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_suite_is_never_refused_for_what_others_say(name):
    forged = [facts(method, 1, "acme", **CONTRADICTIONS[name]) for method in "abcdefgh"]
    found = check([*suite(), *forged])
    assert all(one.file.startswith("acme/") for one in found)
    assert bool(found) == (name != "another base under one name")  # theirs may be made on another machine


def test_between_two_others_nothing_is_compared():
    assert check([facts("a", 0, "acme"), facts("b", 0, "bolt", base_metrics="other", dense_wrong_images=1)]) == []


def test_two_records_alone_are_both_refused():
    records = [facts("a", 0, ""), facts("b", 0, "", base_metrics="other", dense_wrong_images=0)]
    assert {file for file, _ in of(records)} == {"/a-s0", "/b-s0"}


def test_another_machine_may_get_one_more_image_wrong():
    one, two = (facts("taylor", 1, machine="b", base_metrics="other", dense_wrong_images=14 + k) for k in (1, 2))
    assert of([*suite(), one]) == []
    assert of([*suite(), two]) == [("suite/taylor-s1", "refused")]


def test_data_sets_of_others_are_those_of_the_suite():
    for changes in ({"test_sha256": "foreign"}, {"train_sha256": "foreign"}):
        assert ("acme/l1_norm-s0", "refused") in of([*suite(), facts(submitter="acme", **changes)])
    assert of([*suite(), facts(submitter="acme", dataset="folder:x", test_sha256="x", base_all_sha256="x")]) == []


# --- which images are wrong -------------------------------------------------------------------------------------


def with_wrong(record, wrong):
    """The record of a run that gets these images wrong."""
    record = copy.copy(record)
    record.correct = bits.pack([image not in wrong for image in range(IMAGES)])
    record.final_wrong_images = len(wrong)
    return record


def hard(seed, count=30):
    """Images that a run gets wrong: half of them among 40 that are hard for all."""
    drawn = random.Random(seed)
    return {*drawn.sample(range(40), count // 2), *drawn.sample(range(40, IMAGES), count - count // 2)}


def test_wrong_images_at_random_positions_are_flagged():
    honest = [with_wrong(record, hard(number)) for number, record in enumerate(suite())]
    assert check(honest) == []
    forged = with_wrong(facts("mine", 0, "acme"), {*random.Random(9).sample(range(IMAGES), 30)})
    assert of([*honest, forged]) == [("acme/mine-s0", "flagged")]
    assert check([*honest[:4], forged]) == []  # too few others to know which images are hard


def test_bits_of_another_network_are_refused():
    honest = [with_wrong(record, hard(number)) for number, record in enumerate(suite())]
    copied = with_wrong(facts("mine", 0, "acme"), hard(3))
    assert of([*honest, copied]) == [("acme/mine-s0", "refused")]
    assert of([*honest, with_wrong(facts("mine", 0), hard(3))]) == [
        ("suite/l1_norm-s0", "refused"),
        ("suite/mine-s0", "refused"),
    ]
    again = with_wrong(facts("l1_norm", 0, "acme"), hard(3))  # the same run on another machine
    assert of([*honest, again]) == []
    same = with_wrong(facts("mine", 0, network_sha256="l1_norm, 0"), hard(3))
    assert of([*honest, same]) == []


def test_bits_of_a_network_from_the_same_base_are_flagged():
    """Networks of one base are not independent: one that has lost a block may err where the dense one does."""
    honest = [with_wrong(record, hard(number)) for number, record in enumerate(suite())]
    pair = [with_wrong(facts(method, 3, base_sha256="base"), hard(20)) for method in ("dense", "block_l1")]
    assert of([*honest, *pair]) == [("suite/block_l1-s3", "flagged"), ("suite/dense-s3", "flagged")]
    pair[0].base_sha256 = "another"
    assert [kind for _, kind in of([*honest, *pair])] == ["refused"] * 2


def with_few_wrong(number):
    """Wrong images of a run on an easy set: nearly all runs miss four images, every second one one more."""
    drawn = random.Random(number)
    return {*range(4), *drawn.sample(range(40, IMAGES), drawn.randrange(2))}


def test_equal_bits_are_no_copy_where_all_runs_miss_the_same_images():
    honest = [with_wrong(facts("method", seed), with_few_wrong(seed)) for seed in range(40)]
    honest += [with_wrong(facts("other", seed), with_few_wrong(seed + 40)) for seed in range(40)]
    equal = Counter(record.correct for record in honest)
    assert max(equal.values()) > 10 and check(honest) == []


@pytest.mark.parametrize("others", [4, 5])
def test_equal_bits_say_nothing_without_others(others):
    """Nobody knows then which images are hard."""
    honest = [with_wrong(record, hard(number)) for number, record in enumerate(suite())][:others]
    pair = [with_wrong(facts(method, 3, "acme"), hard(9)) for method in ("a", "b")]
    assert of([*honest, *pair]) == [("acme/a-s3", "refused"), ("acme/b-s3", "refused")] * (others > 4)


def test_three_errors_may_coincide():
    honest = [with_wrong(record, hard(number)) for number, record in enumerate(suite())]
    pair = [with_wrong(facts(method, 3), {901, 902, 903}) for method in ("a", "b")]
    assert check([*honest, *pair]) == []


# --- the repository ---------------------------------------------------------------------------------------------


class History:
    def wrong(self, commit, method, sha256):
        return "" if (commit, sha256) == ("c" * 40, "m") else f"{method}: not of {commit}"


def test_source_of_a_method_is_that_of_its_commit():
    for changes in ({"method_sha256": "0" * 64}, {"code_commit": "f" * 40}):
        for submitter, kind in (("acme", "refused"), ("", "unranked")):
            record = facts(submitter=submitter, **changes)
            assert of([record], history=History()) == [(record.file, kind)]
            assert of([record]) == []
    changed = facts(submitter="acme", code_changed=True)
    assert of([changed], history=History()) == [("acme/l1_norm-s0", "unranked")]


def test_record_is_not_younger_than_the_commit_that_adds_it():
    record = facts(file="suite/digits.jsonl.gz#0123-s0", finished_at="2026-01-01T00:00:10Z")
    early, late = ({"suite/digits.jsonl.gz": 1767225600 + s} for s in (9, 10))  # 2026-01-01T00:00:00Z
    assert of([record], added=early) == [(record.file, "refused")]
    assert of([record], added=late) == of([record]) == []
    assert isinstance(check([record], added=early)[0], Finding)
