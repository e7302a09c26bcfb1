"""Tables of others: what can be asked of base, pruned, delta, FLOPs, params, speed-up and rank by their headers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from leaderboard.lint.sheets import Finding, Grid
from leaderboard.render.columns import Number
from leaderboard.stats.rows import most_common

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
AMOUNT = re.compile(
    r"([+-]?)(\d[\d,]*)(?:\.(\d+))?(?:e([+-]?\d+))?\s*([kmgbt]?)(?:b|macs|flops|params)?(?=[^a-z]|x\b|$)", re.I
)
DENSE = re.compile(r"(dense|base(line)?|original|unpruned|full)( (network|model))?|-|\u2013", re.I)
HEADERS = (
    ("rank", re.compile(r"rank|#|place")),
    ("delta", re.compile(r"(δ|delta|diff|change|gap).*")),
    ("", re.compile(r".*(param|flop|mac).*(↓|reduc|drop|saved|removed|pruned).*")),
    ("drop", re.compile(r"(acc\w*|top-?1|map)?\s*(drop\b|loss\b|↓).*")),
    ("params_percent", re.compile(r".*param.*(%|ratio|kept|left|percent).*")),
    ("params", re.compile(r".*param.*")),
    ("macs_percent", re.compile(r".*(flop|mac).*(%|ratio|kept|left|percent).*")),
    ("macs", re.compile(r".*(flops?|macs?)\b.*")),
    ("speedup", re.compile(r".*speed[- ]?up.*")),
    ("base", re.compile(r"(base|dense|original|unpruned)\w*\b.*")),
    ("pruned", re.compile(r"(pruned|final|fine-?tuned|acc(uracy)?|top-?1|map)\b.*")),
    ("method", re.compile(r".*(method|importance|criteri\w*|algorithm|pruner|name).*")),
)
"""What a column is, by the first pattern that its header has; anything else says under what a row was made."""
COSTS = ("params", "macs")


@dataclass
class Line:
    """One row: the numbers that were found, by what they are, and the texts that say under what it was made."""

    line: int
    name: str
    numbers: dict[str, Number] = field(default_factory=dict)
    setting: tuple[str, ...] = ()


def check(grid: Grid) -> list[Finding]:
    """The faults of a table of somebody else; empty where nothing in it can be asked."""
    roles = [_role(header) for header in grid.headers]
    if not {"pruned", "delta", "params", "macs", "speedup"} & set(roles):
        return []
    lines = [_line(roles, line, cells) for line, cells in grid.rows]
    found: list[Finding] = []

    def fault(row: Line, role: str, code: str, message: str) -> None:
        column = grid.headers[roles.index(role)] if role in roles else role
        found.append(Finding("", row.line, row.name, column, code, message))

    for row in lines:
        _accuracy(row, fault)
    for setting in dict.fromkeys(row.setting for row in lines):
        same = [row for row in lines if row.setting == setting]
        _bases(same, fault)
        _costs(same, fault)
        for point in _points(same):
            _ranks(point, fault)
    return found


Fault = Callable[[Line, str, str, str], None]


def _role(header: str) -> str:
    text = re.sub(r"[*`_$\\]", " ", header).strip().lower()
    return next((role for role, pattern in HEADERS if pattern.fullmatch(text)), "")


def _line(roles: list[str], line: int, cells: list[str]) -> Line:
    found = Line(line, "")
    setting = []
    for role, cell in zip(roles, cells, strict=False):
        text = re.sub(r"[*`]", "", cell).replace("\u2212", "-").strip()
        if role == "method":
            found.name = f"{found.name} {text}".strip()
        elif role == "":
            setting += [text] if not _amount(text) else []
        else:
            _numbers(found, role, text)
    found.setting = tuple(setting)
    return found


def _numbers(found: Line, role: str, text: str) -> None:
    """The number of a cell, and the percentage in brackets behind it."""
    amount = _amount(text)
    if amount:
        kind = f"{role}_percent" if role in COSTS and re.match(r"[\d.]+ ?%", text) else role
        found.numbers.setdefault(kind, amount)
    bracket = re.search(r"\(\s*([\d.]+)\s*%\s*\)", text)
    if bracket and role in COSTS and (share := _amount(bracket[1])):
        found.numbers.setdefault(f"{role}_percent", share)


def _amount(text: str) -> Number | None:
    """Such as ``93.53``, ``+0.24``, ``11.69 M``, ``2.12x``, ``93.26 ± 0.03``; slack: half of the last digit."""
    match = AMOUNT.match(text.strip())
    if not match:
        return None
    sign, whole, digits, exponent, unit = match.groups()
    scale = UNITS[unit.lower()] * 10.0 ** int(exponent or 0)
    plain = float(f"{sign}{whole.replace(',', '')}.{digits or 0}")
    return Number(plain * scale, 0.5 * 10.0 ** -len(digits or "") * scale)


def _accuracy(row: Line, fault: Fault) -> None:
    """Accuracies are per cent; a delta is pruned less base."""
    base, pruned = row.numbers.get("base"), row.numbers.get("pruned")
    for role, cell in (("base", base), ("pruned", pruned)):
        if cell and not 0 <= cell.value <= 100:
            fault(row, role, "accuracy-range", f"{cell.value:g} %")
    for role, sign in (("delta", 1), ("drop", -1)):
        delta = row.numbers.get(role)
        if base and pruned and delta:
            right = sign * (pruned.value - base.value)
            if abs(delta.value - right) > base.slack + pruned.slack + delta.slack + 1e-9:
                fault(row, role, "difference", f"{delta.value:+g}, but {right:+.4g} follows")


def _bases(rows: list[Line], fault: Fault) -> None:
    """One base for all rows that say nothing of being made under other settings."""
    common = most_common([row.numbers["base"].value for row in rows if "base" in row.numbers])
    for row in rows:
        own = row.numbers.get("base")
        if own and own.value != common:
            fault(row, "base", "mixed-base", f"{own.value:g}, others {common:g}")


def _costs(rows: list[Line], fault: Fault) -> None:
    """No more than dense; percentages and ratios of dense. What dense has follows from most of the rows if unsaid."""
    for what in COSTS:
        dense = _dense(rows, what)
        for row in rows:
            own, share = row.numbers.get(what), row.numbers.get(f"{what}_percent")
            if own and dense and own.value - own.slack > dense.value + dense.slack:
                fault(row, what, "above-dense", f"{own.value:.4g}, dense {dense.value:.4g}")
            if share and share.value - share.slack > 100:
                fault(row, f"{what}_percent" if not own else what, "above-dense", f"{share.value:g} % of dense")
            if own and share and dense and not _ratio_holds(own, dense, share):
                text = f"{share.value:g} %, but {100 * own.value / dense.value:.4g} % follows"
                fault(row, f"{what}_percent", "percent", text)
            times = row.numbers.get("speedup")
            if what == "macs" and own and dense and times and own.value > own.slack:
                low = (dense.value - dense.slack) / (own.value + own.slack) - times.slack
                high = (dense.value + dense.slack) / (own.value - own.slack) + times.slack
                if not low - 1e-9 <= times.value <= high + 1e-9:
                    fault(row, "speedup", "speed-ratio", f"{times.value:g}, but {dense.value / own.value:.3g} follows")


def _ratio_holds(own: Number, dense: Number, share: Number) -> bool:
    low = 100 * (own.value - own.slack) / (dense.value + dense.slack) - share.slack
    high = 100 * (own.value + own.slack) / max(dense.value - dense.slack, 1e-300) + share.slack
    return low - 1e-9 <= share.value <= high + 1e-9


def _dense(rows: list[Line], what: str) -> Number | None:
    """Cost of the dense network: of its row, or that most rows agree on by their percentages."""
    for row in rows:
        if DENSE.fullmatch(row.name) and what in row.numbers:
            return row.numbers[what]
    pairs = [(row.numbers.get(what), row.numbers.get(f"{what}_percent")) for row in rows]
    implied = sorted(
        ((100 * own.value / share.value, own, share) for own, share in pairs if own and share and share.value > 0),
        key=lambda found: found[0],
    )
    if len(implied) < 3:
        return None
    middle, own, share = implied[len(implied) // 2]
    return Number(middle, middle * (own.slack / own.value + share.slack / share.value))


def _points(rows: list[Line]) -> list[list[Line]]:
    """The rows in parts that are ranked for themselves: a first rank after others begins a new one."""
    parts: list[list[Line]] = [[]]
    for row in rows:
        ranks = [other.numbers["rank"].value for other in parts[-1] if "rank" in other.numbers]
        own = row.numbers.get("rank")
        if own and own.value == 1 and 1 in ranks and ranks[-1] != 1:
            parts.append([])
        parts[-1].append(row)
    return parts


def _ranks(rows: list[Line], fault: Fault) -> None:
    """A better accuracy has no worse rank."""
    ranked = [row for row in rows if "rank" in row.numbers and "pruned" in row.numbers]
    for row in ranked:
        own = row.numbers
        for other in ranked:
            theirs = other.numbers
            better = own["pruned"].value > theirs["pruned"].value
            if better and own["rank"].value > theirs["rank"].value:
                fault(row, "rank", "rank", f"{own['rank'].value:g}, below {other.name[:40]} that is less accurate")
                break
