"""Records that the repository's history proves: of its newest commit, with the source that their method has there."""

from functools import cache

from support import made_records
from support.records import seal

from bench.records import bits
from bench.records.method_history import MethodHistory


@cache
def history():
    """The history of the repository that the tests are in."""
    return MethodHistory()


@cache
def head():
    """The newest commit of it."""
    return history().head


def proven(found):
    """The record as a run of the newest commit makes it."""
    known, newest = history(), head()
    if newest:
        files = tuple(known._methods(newest)[name] for name in found["spec"]["method"].split("+"))
        found["code"] |= {"commit": newest, "method_sha256": known._sha256(files)}
    final = found.get("metrics", {}).get("final")
    if final and final["top1"] < 1:  # no two methods have the same wrong images: the last ones, one of them moved
        images = final["examples"]
        right = round(final["top1"] * images)
        wrong = {int(found["spec_sha256"][:8], 16) % right, *range(right, images - 1)}
        final["correct"] = bits.pack([k not in wrong for k in range(images)])
    return seal(found)


def made(*asked, **more):
    """A record of :func:`support.made_records.made` that the history proves."""
    return proven(made_records.made(*asked, **more))


def seeds(method, wrong, **asked):
    """One proven record a seed, with so many wrong images each."""
    return [made(method, seed, count, **asked) for seed, count in enumerate(wrong)]
