"""A record run again: the command that makes its specification, and whether a new result is what was to be expected.

Needs no torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from bench import RULES
from bench.records.schema import Finished, Record
from bench.records.store import as_table
from bench.spec.option_text import flat
from bench.spec.request import LIKE, RunOptions, RunRequest
from bench.spec.wording import plural

RESULTS = ("data", "training", "structure", "cost", "metrics", "curve", "artifacts")
"""Parts that two equal runs share to the last bit."""
NO_RESULT = ("training.base.id", "training.base.made", "structure.arch_sha256", "structure.rejected")
"""What these parts say of how a run was made, or in words."""
TABLES = ("structure.widths", "structure.blocks", "cost.dense.macs_by_op", "cost.final.macs_by_op", "curve.logged")
"""Tables whose keys are results, too; a key that one record lacks elsewhere was not recorded then."""
CAUSES = ("environment.threads", "code.commit", "environment.device", "environment.instructions")
"""What may make other results: first what a user chooses, then the machine; after these the base, versions, code."""


def request_of(found: Record, like: str = LIKE) -> tuple[RunRequest, RunOptions]:
    """The request that resolves to exactly the record's specification, and its device and threads.

    Args:
        found: a record of any status.
        like: the record that ``--like`` names, for a budget of widths.

    Raises UsageError for a specification that no command makes here.
    """
    machine = found.environment
    return RunRequest.from_spec(found.spec, like), RunOptions(machine.device_type, machine.threads)


def command(found: Record) -> str:
    """The command that makes the record's specification, as a line for a shell; raises UsageError as above."""
    request, options = request_of(found)
    return command_line(request, options)


def command_line(request: RunRequest, options: RunOptions) -> str:
    """The command of a request, as a line for a shell."""
    return shlex.join(["python", "-m", "bench", *request.to_words(), *options.to_words()])


def made_with(found: Record) -> str:
    """What a run was made with: what its command says first, then what no option says: code, rules, torch, machine."""
    code, machine, rules = found.code, found.environment, found.spec.rules
    state = f"commit {code.commit or 'not known'}{' with local changes' if code.diff_sha256 else ''}"
    here = "" if rules == RULES else f" (here {RULES})"
    made = f"{found.spec.recipe.precision}, {plural(machine.threads, 'thread')}, {state}, rules {rules}{here}"
    return f"{made}, torch {machine.packages.get('torch')}, {machine.device}"


# --- what came out ----------------------------------------------------------------------------------------------


def measures(found: Finished) -> dict[str, float | int | None]:
    """The numbers that are set side by side, by name."""
    metrics, cost = found.metrics, found.cost.final
    return {
        "final top-1 %": 100 * metrics.final.top1,
        "pruned top-1 %": None if metrics.pruned is None else 100 * metrics.pruned.top1,
        "MACs": cost.macs,
        "params": cost.params,
    }


def parts_that_differ(old: Finished, new: Finished) -> list[str]:
    """Results that two equal runs on one machine share to the last bit, and these two do not: ``metrics.final``."""
    before, after = as_table(old), as_table(new)
    found = []
    for part in RESULTS:
        if part not in before or part not in after:  # a curve without epochs
            found += [part] if (part in before) != (part in after) else []
            continue
        keys = [key for key in before[part] if key in after[part]]
        found += [f"{part}.{key}" for key in keys if _differ(before[part][key], after[part][key], f"{part}.{key}")]
    return found


def _differ(old: Any, new: Any, where: str) -> bool:
    if where in NO_RESULT:
        return False
    if isinstance(old, Mapping) and isinstance(new, Mapping) and where not in TABLES:
        return any(_differ(old[key], new[key], f"{where}.{key}") for key in old.keys() & new.keys())
    return bool(old != new)


def versions_that_differ(old: Finished, new: Finished) -> Iterator[str]:
    """One line for everything about how a run was made that was another, the likeliest cause of other results first.

    The last line names what the old record does not say.
    """
    before, after = _made(old), _made(new)
    for key in sorted(before.keys() & after.keys(), key=_likeliest):
        if before[key] != after[key]:
            yield f"{key}: was {before[key]}, is {after[key]}"
    unknown = sorted(after.keys() - before.keys(), key=_likeliest)
    if unknown:
        yield f"not recorded then: {', '.join(unknown)}"


def _made(found: Finished) -> dict[str, Any]:
    """How a run was made, by dotted keys."""
    table = as_table(found)
    return flat({"base": table["training"]["base"]["made"]} | {key: table[key] for key in ("environment", "code")})


def _likeliest(key: str) -> tuple[int, str]:
    early = [k for k, cause in enumerate(CAUSES) if key.startswith(cause)]
    return (early[0] if early else len(CAUSES) + key.startswith("code."), key)
