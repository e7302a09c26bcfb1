"""How often a board says what is not so, and finds what is: simulated runs, with the old rule next to the present one.

    python -m tools.timing.null_boards [--boards 2000] [--rule old] [--rule new] [--part equal] [--records FOLDER]

A run's wrong images are the row's true number, plus what the seed does to all rows alike, plus noise of its own; row 0
is the reference. Every line ends with the limit that a rule must keep; "!" marks what is more than two standard errors
beyond it. ``old`` is the rule of 0.1, with one prior from all pairs; ``plain`` is the paired t test with Holm.
"""

import argparse
import itertools
import math
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import ndtri

from leaderboard.reader.model import ALPHA
from leaderboard.stats.boards import build
from leaderboard.stats.contrasts import against, all_pairs
from leaderboard.stats.image_intervals import image_interval
from leaderboard.stats.reach import estimated, shown
from leaderboard.stats.verdicts import decide
from tools.timing.null_tables import (
    COVERED,
    CURVES,
    FACTORS,
    NULL,
    QUANTUM,
    counts,
    curves,
    frame,
    old_family,
    old_reach,
    permuted,
    plan_of,
    real_residuals,
)

SIZES = [(30, 5), (30, 10), (10, 5), (10, 10)]


# --- what judges a table of wrong images [rows, seeds] ---


@dataclass
class Judged:
    """Rows less the reference in images, each ``[rows - 1]``, and whether any two rows differ significantly."""

    mean: np.ndarray
    half: np.ndarray
    significant: np.ndarray
    any_pair: bool


def new(tables, least=5):
    def one(table):
        found, pairs = against(-table, 0, quantum=QUANTUM, least=least), all_pairs(-table, quantum=QUANTUM, least=least)
        return Judged(found.mean[1:], found.half[1:], found.p_holm[1:] < ALPHA, (pairs.p_holm < ALPHA).any())

    return [one(table) for table in tables]


def old(tables, least=5, moderate=True):
    def one(table):
        i, j = np.triu_indices(len(table), 1)
        mean, half, p = old_family(table[0] - table[1:], len(table), 2, moderate)
        pairs = old_family(table[j] - table[i], len(table), least, moderate)[2]
        return Judged(mean, half, p < ALPHA, (pairs < ALPHA).any())

    return [one(table) for table in tables]


def board(tables, least=5):
    """Through records, a plan that names them and the real boards; every row needs all seeds."""
    found = []
    for made in build(frame(tables, IMAGES), [plan_of(tables)])[0]:
        rows = sorted(made.tables[0].rows, key=lambda row: row.spec)
        seen = [row.differences["random"] for row in rows[1:]]
        mean, half = (np.array([getattr(one, name) for one in seen]) * IMAGES / 100 for name in ("mean", "half"))
        found.append(
            Judged(mean, half, np.array([one.clear for one in seen]), any(row.rank and row.rank[0] > 1 for row in rows))
        )
    return found


IMAGES = 100_000
JUDGES = {"old": old, "new": new, "plain": partial(old, moderate=False), "board": board}
"""Rule -> what judges tables [boards, rows, seeds]."""


class Report:
    """Prints one line a measure; ``beyond`` counts those of the present rule that miss their limit."""

    def __init__(self, boards, rules, only, residuals):
        self.boards, self.rules, self.only, self.residuals, self.beyond = boards, rules, only, residuals, 0

    def title(self, text):
        """Heading of a part."""
        print(f"\n{text:62}" + "".join(f"{rule:>8}" for rule in self.rules) + "   limit", flush=True)

    def line(self, name, values, limit=None, least=False):
        """``values``: rule -> per cent; ``least``: the limit is from below."""
        cells = ""
        for rule in self.rules:
            value, far = values.get(rule), False
            if value is not None and limit is not None:
                error = math.sqrt(limit * (100 - limit) / self.boards)
                far = (limit - value if least else value - limit) > 2 * error
                self.beyond += far and rule == "new"
            cells += f"{'-' if value is None else format(value, '.1f'):>7}{'!' if far else ' '}"
        print(f"  {name:60}{cells}" + ("" if limit is None else f"   {'>=' if least else '<='} {limit}"), flush=True)


def per_cent(judged, measure):
    return {rule: 100 * float(np.mean([measure(one) for one in found])) for rule, found in judged.items()}


def equal_rows(report):
    """Any false significant contrast, coverage, any two rows that differ significantly."""
    real = report.residuals
    scenarios = NULL | {f"residuals of {name}": (partial(permuted, residuals=r), 6) for name, r in real.items()}
    scenarios = {name: found for name, found in scenarios.items() if report.only in name}
    for rows, seeds in SIZES:
        judged = {}
        report.title(f"{rows} rows, {seeds} seeds: boards with a false significant contrast")
        for k, (name, (draw, limit)) in enumerate(scenarios.items()):
            tables = draw(np.random.default_rng([k, rows, seeds]), (report.boards, rows, seeds))
            least = tables.shape[2] - 2 * ("lack" in name)
            judged[name] = {rule: JUDGES[rule](tables, least) for rule in report.rules}
            report.line(name, per_cent(judged[name], lambda one: one.significant.any()), limit)
        report.title(f"{rows} rows, {seeds} seeds: intervals that hold the truth")
        for name, (place, least) in COVERED.items():
            if name in judged:
                holds = per_cent(judged[name], lambda one, place=place: (np.abs(one.mean) <= one.half)[place].mean())
                report.line(name, holds, least, least=True)
        report.title(f"{rows} rows, {seeds} seeds: boards with a false significant pair")
        for name in scenarios:
            report.line(name, per_cent(judged[name], lambda one: one.any_pair), 5 if "lack" not in name else 6)


def power(report):
    report.title("a row truly 0.5 points better, run deviation 0.2, 10,000 images: found")
    for (rows, seeds), least in zip(SIZES, (50, 90, 60, 90), strict=True):
        truth = np.where(np.arange(rows) == 1, -50.0, 0)[:, None]
        shape = (report.boards, rows, seeds)
        tables = counts(np.random.default_rng([rows, seeds]), shape, 20, 700, 30, truth=truth)
        judged = {rule: JUDGES[rule](tables) for rule in report.rules}
        report.line(f"{rows} rows, {seeds} seeds", per_cent(judged, lambda one: one.significant[0]), least, least=True)


# --- verdicts ---

SETTINGS = [(10_000, 0.14, 0.5), (10_000, 0.25, 0.5), (10_000, 0.25, 1.0), (355, 0.35, 1.0)]
"""Images, deviation of a run in points, margin in points."""
AT_THE_MARGIN = {
    "all below": lambda rows: -np.ones(rows),
    "below and above": lambda rows: np.where(np.arange(rows) % 2, -1.0, 1.0),
    "one below, others equal": lambda rows: np.where(np.arange(rows) == 0, -1.0, 0),
}


def decided(boards, truth, seeds, images, deviation, margin):
    """Verdicts on boards whose rows are truly ``truth`` margins better than the reference."""
    point = images / 100
    rng = np.random.default_rng([len(truth), seeds, images, int(100 * deviation), int(10 * margin)])
    wrong = -margin * point * np.array([0, *truth])[:, None]
    shape = (boards, len(truth) + 1, seeds)
    tables = counts(rng, shape, deviation * point, 0.1 * images, 0.3 * point, truth=wrong)
    return [decide(against(-table, 0, quantum=QUANTUM), margin * point) for table in tables]


def verdicts(report):
    report.title("rows exactly at the margin: boards with a false equivalence or non-inferiority")
    for (rows, seeds), (name, pattern), setting in itertools.product(SIZES, AT_THE_MARGIN.items(), SETTINGS):
        truth = pattern(rows - 1)
        false = [
            (v.equivalent[1:] & (truth != 0)).any() or (v.noninferior[1:] & (truth < 0)).any()
            for v in decided(report.boards, truth, seeds, *setting)
        ]
        report.line(f"{rows} rows, {seeds} seeds, {name}, {words(setting)}", {"new": 100 * np.mean(false)}, 5)
    report.title("rows at 0, half and twice the margin: boards with a wrong verdict")
    for (rows, seeds), setting in itertools.product(SIZES, SETTINGS):
        truth = np.resize([0, -0.5, -2, 0.5, 2], rows - 1)
        found = decided(report.boards, truth, seeds, *setting)
        wrong = [
            ((v.better[1:] & (truth <= 0)) | (v.worse[1:] & (truth >= 0))).any()
            or (v.equivalent[1:] & (np.abs(truth) >= 1)).any()
            or (v.noninferior[1:] & (truth <= -1)).any()
            for v in found
        ]
        report.line(f"{rows} rows, {seeds} seeds, {words(setting)}", {"new": 100 * np.mean(wrong)}, 5)
        for gap, place in {"equal": truth == 0, "half": np.abs(truth) == 0.5, "twice": np.abs(truth) == 2}.items():
            share = 100 * np.mean([v.decided[1:][place].mean() for v in found])
            report.line(f"    of {gap} the margin: decided", {"new": share})
    report.title("rows truly equal: shown equivalent")
    for (rows, seeds), setting in itertools.product(SIZES, SETTINGS):
        found = decided(report.boards // 4, np.zeros(rows - 1), seeds, *setting)
        share = 100 * np.mean([v.equivalent[1:].mean() for v in found])
        report.line(f"{rows} rows, {seeds} seeds, {words(setting)}", {"new": share})


def words(setting):
    return "{:,} images, deviation {}, margin {}".format(*setting)


# --- intervals over seeds and images ---

IMAGE_SETTINGS = [
    *[(5, 355, 1.0, 0.0), (5, 1797, 1.0, 0.0), (5, 10_000, 1.0, 0.1), (5, 10_000, 0.0, 0.1), (5, 355, 0.0, 0.0)],
    *[(10, 10_000, 1.0, 0.0), (10, 355, 1.0, 0.1)],
]
"""Seeds, images, and how much an image and a seed prefer one row, next to noise of deviation 1."""


def images(report):
    """Six rows with new seeds and new images on each board; truly all are equal."""
    report.title("intervals that hold the truth over new seeds and images")
    boards = max(report.boards // 5, 1)
    for seeds, count, image, seed in IMAGE_SETTINGS:
        rng = np.random.default_rng([seeds, count, int(10 * image), int(10 * seed)])
        limit = ndtri(0.95) * math.sqrt(2 + image**2 + seed**2)  # 95 % right
        held = {rule: [] for rule in ("old", "new", "plain")}
        for _ in range(boards):
            hard = rng.normal(size=count)
            own = image * rng.normal(size=(6, 1, count)) + seed * rng.normal(size=(6, seeds, 1))
            right = hard + own + rng.normal(size=(6, seeds, count)) < limit
            wrong = count - np.count_nonzero(right, axis=2).astype(float)
            seen = against(-wrong, 0, quantum=QUANTUM)
            for k in range(1, 6):
                variance = (seen.deviation[k] / count) ** 2
                found = image_interval(right[k], right[0], variance, seen.freedom[k])
                held["new"].append(abs(found.mean) <= found.half)
            for rule, moderate in (("old", True), ("plain", False)):
                mean, half, _ = old_family(wrong[0] - wrong[1:], 6, 2, moderate)
                held[rule] += (np.abs(mean) <= half).tolist()
        name = f"{seeds} seeds, {count:,} images, effect of image {image}, seed {seed}"
        report.line(name, {rule: 100 * np.mean(values) for rule, values in held.items()}, 93, least=True)


# --- reach ---


def reach(report):
    report.title("shown reach: boards that claim too much of a row")
    for (rows, seeds), (name, (truth, first)), setting in itertools.product(SIZES, CURVES.items(), SETTINGS[1::2]):
        margin = setting[2] * setting[0] / 100
        passed = [shown(*tests, margin).passed for _, tests in of_row_1(report.boards, truth, rows, seeds, *setting)]
        false = np.mean([last is not None and last >= first for last in passed])
        report.line(f"{rows} rows, {seeds} seeds, {setting[0]:,} images, {name}", {"new": 100 * false}, 5)
    images_, _, margin = SETTINGS[-1]
    report.title("estimated reach, 355 images, deviation 0.35, margin 1.0")
    for truth, seeds in itertools.product(([0, 0, 0, 0], [-0.1, -0.4, -0.8, -2.5]), (5, 10)):
        drawn = [curve for curve, _ in of_row_1(report.boards // 4, truth, 10, seeds, *SETTINGS[-1])]
        present = [estimated(curve, FACTORS, margin * images_ / 100) for curve in drawn]
        before = [old_reach(curve, margin * images_ / 100) for curve in drawn]
        true = estimated(np.array(truth)[:, None], FACTORS, 1.0).times
        for rule, times in (("old", [mean for mean, _ in before]), ("new", [one.times for one in present])):
            low, high = np.quantile(times, [0.05, 0.95])
            print(f"  {seeds} seeds, truly {true:.1f}, {rule}: {np.mean(times):.1f} ({low:.1f} to {high:.1f})")
        if true < FACTORS[-1]:
            held = {
                "old": 100 * np.mean([abs(mean - true) <= half for mean, half in before]),
                "new": 100 * np.mean([one.low <= true <= (one.high or math.inf) for one in present]),
            }
            report.line(f"{seeds} seeds, truly {true:.1f}: intervals that hold the truth", held)


def of_row_1(boards, truth, rows, seeds, *setting):
    """Of row 1: differences to dense ``[budgets, seeds]`` in images, and their means, errors and freedoms."""
    for board in curves(boards, truth, rows, seeds, *setting):
        seen = [against(-table, 0, quantum=QUANTUM) for table in board]
        tests = np.array([(one.mean[1], one.error[1], one.freedom[1]) for one in seen]).T
        yield np.array([table[0] - table[1] for table in board]), tests


PARTS = {"equal": equal_rows, "power": power, "verdicts": verdicts, "images": images, "reach": reach}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boards", type=int, default=2000)
    parser.add_argument("--rule", action="append", choices=JUDGES, help="default: old and new")
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument("--only", default="", help="of the equal rows: scenarios whose name has this")
    parser.add_argument("--records", help="of the equal rows: real runs whose residuals are exchanged")
    chosen = parser.parse_args()
    residuals = real_residuals(chosen.records) if chosen.records else {}
    report = Report(chosen.boards, chosen.rule or ["old", "new"], chosen.only, residuals)
    began = time.process_time()
    print(f"{chosen.boards} boards a line: 5 % have a standard error of {(475 / chosen.boards) ** 0.5:.1f}")
    for part in chosen.part or PARTS:
        PARTS[part](report)
    print(f"\n{report.beyond} beyond the limit; {time.process_time() - began:.0f} s of one core")


if __name__ == "__main__":
    main()
