"""Rules between records: what several of them cannot all say. Linear in their number; needs no torch.

A record is compared with those of its own submitter and of the suite only, so that nobody's record is refused, and no
number changes, because of what somebody else submits.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bench.records.bits import unpack

if TYPE_CHECKING:
    from bench.records.method_history import MethodHistory

SUITE = "suite"
"""Folder of the suite's own records."""
LEAST_ERRORS = 4
"""Wrong images from which on a run's wrong images say something."""
LEAST_OTHERS = 5
"""Other runs that are needed to know which images are hard."""
ANYWHERE = 10
"""So many runs that are wrong anywhere are added to the others: an image that none of them has wrong may still be."""
COPIED = 1e-6
"""Equal bits of two networks are a copy where the chance of any such pair is below this."""


class Facts(Protocol):
    """What the rules need of a record; None where the run did not finish."""

    file: str
    status: str
    submitter: str
    rules: str
    spec_sha256: str
    seed: int
    dataset: str
    method: str
    base_name: str | None
    base_made_on: str | None
    base_sha256: str | None
    base_all_sha256: str | None
    base_work: str | None
    base_metrics: str | None
    dense_wrong_images: int | None
    machine: str
    train_sha256: str | None
    test_sha256: str | None
    split_sha256: str | None
    arch_sha256: str | None
    counter: str | None
    dense_macs: int | None
    train_images: int | None
    test_images: int | None
    fold: int | None
    final_wrong_images: int | None
    correct: str | None
    network_sha256: str | None
    code_commit: str | None
    code_changed: bool
    method_sha256: str | None
    finished_at: str


class Finding(NamedTuple):
    """A record that contradicts others, or that nothing proves.

    Attributes:
        kind: ``refused``: it does not count; ``unranked``: it is below level 2; ``flagged``: a reader must look at it.
    """

    file: str
    kind: str
    message: str


def check(
    records: Iterable[Facts],
    history: MethodHistory | None = None,
    added: Mapping[str, int] | None = None,
) -> list[Finding]:
    """What is wrong with records compared with each other, sorted by file.

    Args:
        records: of every submitter. Runs that did not finish are not looked at.
        history: of the repository; None: nobody asks which method's source belongs to a commit.
        added: file -> when the commit was made that added it, in seconds since 1970.
    """
    done = [r for r in records if r.status == "ok"]
    found: list[Finding] = []
    for own in _scopes(done):
        found += _equal(
            own, lambda r: (r.base_name, r.base_made_on), "base_all_sha256", "training.base.sha256", only_own=True
        )
        found += _equal(own, lambda r: (r.base_all_sha256, r.test_sha256), "base_work", "cost and work of the base")
        same = "metrics.dense on this machine"
        found += _equal(own, lambda r: (r.base_all_sha256, r.test_sha256, r.machine), "base_metrics", same)
        found += _near(own)
        found += _equal(own, lambda r: (r.train_sha256, r.seed), "split_sha256", "data.split_sha256")
        found += _equal(own, lambda r: (r.test_sha256, str(r.fold)), "test_images", "data.test")
        found += _equal(own, lambda r: (r.train_sha256, str(r.fold)), "train_images", "data.train + data.val")
        found += _equal(own, lambda r: (r.arch_sha256, f"{r.dataset} {r.counter}"), "dense_macs", "cost.dense.macs")
        found += _data(own)
        found += _wrong_images(own)
    for r in done:
        if r.code_changed:
            found.append(Finding(r.file, "unranked", "made from a working tree with local changes"))
        if history is not None:
            why = history.wrong(r.code_commit, r.method, r.method_sha256)
            kind = "refused" if r.submitter and not r.code_changed else "unranked"
            found += [Finding(r.file, kind, why)] if why else []
        when = (added or {}).get(r.file.partition("#")[0])
        if when is not None and datetime.fromisoformat(r.finished_at).timestamp() > when:
            message = f"clock.finished_at is {r.finished_at}, after the commit that adds it"
            found.append(Finding(r.file, "refused", message))
    return sorted(set(found))


class _Scope(NamedTuple):
    """Records of one submitter, and those of the suite that they are compared with."""

    own: list[Facts]
    suite: list[Facts]


def _scopes(records: Iterable[Facts]) -> Iterator[_Scope]:
    by_submitter: dict[str, list[Facts]] = defaultdict(list)
    for r in records:
        by_submitter[r.submitter].append(r)
    suite = by_submitter.get(SUITE, [])
    for submitter, own in sorted(by_submitter.items()):
        yield _Scope(own, [] if submitter == SUITE else suite)


def _equal(
    scope: _Scope, key: Callable[[Facts], tuple[Any, ...]], value: str, what: str, only_own: bool = False
) -> Iterator[Finding]:
    """Records with one key and several values: the suite's value holds, else what most have, else none.

    Two submitters may make another base under one name (``only_own``): their machines differ.
    """
    groups: dict[tuple[Any, ...], list[Facts]] = defaultdict(list)
    for r in scope.own:
        if None not in key(r) and getattr(r, value) is not None:
            groups[key(r)].append(r)
    known = {} if only_own else {key(r): r for r in scope.suite if key(r) in groups and getattr(r, value) is not None}
    for name, same in groups.items():
        counts = Counter(getattr(r, value) for r in same)
        holds = known.get(name)
        if len(counts) == 1 and (holds is None or getattr(holds, value) in counts):
            continue
        first, *rest = counts.most_common(2)
        if holds is None and not (rest and rest[0][1] == first[1]):
            holds = next(r for r in same if getattr(r, value) == first[0])
        for r in same:
            if holds is not None and getattr(r, value) == getattr(holds, value):
                continue
            other = holds or next(o for o in same if getattr(o, value) != getattr(r, value))
            message = f"{what} is another than in {other.file}, which has the same {_named(name)}"
            yield Finding(r.file, "refused", message)


def _named(key: tuple[Any, ...]) -> str:
    return ", ".join(str(part)[:60] for part in key[:2])


def _near(scope: _Scope) -> Iterator[Finding]:
    """One dense network on one set of test images: on another machine it may get one more image wrong."""
    groups: dict[tuple[Any, ...], list[Facts]] = defaultdict(list)
    for r in scope.suite + scope.own:
        if r.base_all_sha256 is not None and r.dense_wrong_images is not None:
            groups[r.base_all_sha256, r.test_sha256].append(r)
    own = {r.file for r in scope.own}
    for same in groups.values():
        counts = Counter(int(r.dense_wrong_images or 0) for r in (same if same[0].file in own else same[:1]))
        if len({r.dense_wrong_images for r in same}) == 1:
            continue
        (most, often), *rest = counts.most_common(2)
        holds = None if rest and rest[0][1] == often else most
        for r in same:
            wrong = int(r.dense_wrong_images or 0)
            others = [o for o in same if abs(int(o.dense_wrong_images or 0) - wrong) > 1]
            if r.file in own and others and (holds is None or abs(wrong - holds) > 1):
                message = f"metrics.dense has {wrong} wrong images, the same base in {others[0].file}"
                yield Finding(r.file, "refused", f"{message} {int(others[0].dense_wrong_images or 0)}")


def _data(scope: _Scope) -> Iterator[Finding]:
    """A data set's name means the same images as in the suite's records; those of a folder are named by content."""
    known: dict[str, Facts] = {}
    for r in scope.suite:
        known.setdefault(r.dataset, r)
    for r in scope.own:
        other = known.get(r.dataset)
        if other is not None and (r.train_sha256, r.test_sha256) != (other.train_sha256, other.test_sha256):
            yield Finding(r.file, "refused", f"its images of {r.dataset} are others than in {other.file}")


def _wrong_images(scope: _Scope) -> Iterator[Finding]:
    """Networks get the same hard images wrong: what that makes unlikely, as random positions or another's bits.

    Each other run is taken to be wrong at an image with the rate of all others, alone. A run is flagged if its wrong
    images are less likely by these rates than by one rate for all images. The chance of any two of n runs with the same
    set of wrong images, of probability P or less, is at most n (n - 1) / 2 P. That takes runs as independent: two which
    start from the same base are not, and are flagged where others are refused.
    """
    import numpy as np

    groups: dict[tuple[Any, ...], list[Facts]] = defaultdict(list)
    for r in scope.suite + scope.own:
        if r.correct is not None and r.test_images:
            groups[r.test_sha256, r.test_images, r.fold].append(r)
    own = {r.file for r in scope.own}
    for (_, images, _), same in groups.items():
        if len(same) <= LEAST_OTHERS or not any(r.file in own for r in same):
            continue
        wrong = [np.flatnonzero(~unpack(str(r.correct), int(images))) for r in same]
        counts = np.bincount(np.concatenate(wrong), minlength=int(images)).astype(float)
        alike: dict[str, list[Facts]] = defaultdict(list)
        for r in same:
            alike[str(r.correct)].append(r)
        for r, mine in zip(same, wrong, strict=True):
            if r.file not in own or len(mine) < LEAST_ERRORS:
                continue
            rates = _rates(counts, mine, len(same), 1)
            if np.log(rates[mine] / rates.mean()).sum() < 0:
                message = f"its {len(mine)} wrong images are where chance puts them, not where other runs have theirs"
                yield Finding(r.file, "flagged", f"{message}: run it again")
            equal = alike[str(r.correct)]
            others = [o for o in equal if o.network_sha256 != r.network_sha256 and o.spec_sha256 != r.spec_sha256]
            other = min(others, key=lambda o: _from_one_base(o, r), default=None)
            if other is not None and len(same) - len(equal) >= LEAST_OTHERS:
                rates = _rates(counts, mine, len(same), len(equal))
                chance = np.log(rates[mine] / (1 - rates[mine])).sum() + np.log1p(-rates).sum()
                if math.log(len(same) * (len(same) - 1) / 2) + chance < math.log(COPIED):
                    message = f"metrics.final.correct is that of {other.file}, another network"
                    if _from_one_base(other, r):
                        yield Finding(r.file, "flagged", f"{message} from the same base: run it again")
                    else:
                        yield Finding(r.file, "refused", message)


def _from_one_base(one: Facts, two: Facts) -> bool:
    return one.base_sha256 is not None and one.base_sha256 == two.base_sha256


def _rates(counts: Any, mine: Any, runs: int, left_out: int) -> Any:
    """Rate at which runs are wrong at each image, float ``[N]``, between 0 and 1.

    Args:
        counts: of all runs, ``[N]``; changed by none.
        mine: images that the runs which are left out have wrong.
        runs: how many there are.
        left_out: how many of them.
    """
    others = counts.copy()
    others[mine] -= left_out
    others = others + ANYWHERE * (others.mean() + 0.5 / len(others)) / (runs - left_out)
    return others / (runs - left_out + ANYWHERE + 1)
