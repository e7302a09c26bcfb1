"""What :mod:`tools.timing.null_boards` draws, and the rules of 0.1 that it sets next to the present ones."""

import math
from functools import partial

import numpy as np
import pandas as pd
from scipy.special import digamma, polygamma, stdtr, stdtrit

from leaderboard.reader.extract import COLUMNS
from leaderboard.reader.frame import load
from leaderboard.reader.model import ALPHA, Terms
from leaderboard.reader.plan import Plan
from leaderboard.stats.boards import build
from leaderboard.stats.statistics import holm, interval, inverse_trigamma

QUANTUM = 1 / 12
FACTORS = [4 / 3, 2.0, 4.0, 10.0]
"""Dense over final at the budgets of a curve."""


def counts(rng, shape, deviation=2.0, base=25.0, shared=1.1, noise=None, truth=0.0):
    """Wrong images; ``deviation`` of a run's own noise and ``truth`` of a row are broadcast to the shape."""
    boards, _, seeds = shape
    own = rng.normal(size=shape) if noise is None else noise
    return np.round(base + truth + rng.normal(0, shared, (boards, 1, seeds)) + deviation * own).clip(0)


def one_row(rng, shape, times, row=1):
    deviation = np.full((shape[1], 1), 2.0)
    deviation[row] *= times
    return counts(rng, shape, deviation)


def lognormal(rng, shape, spread):
    return counts(rng, shape, 2 * np.exp(spread * rng.normal(size=(*shape[:2], 1))))


def half_noisy(rng, shape):
    return counts(rng, shape, np.where(np.arange(shape[1]) % 2, 6.0, 2.0)[:, None])


def heavy(rng, shape):
    return counts(rng, shape, noise=rng.standard_t(2, shape))


def collapsing(rng, shape):
    return counts(rng, shape) + np.where(rng.uniform(size=shape) < 0.03, rng.integers(20, 200, shape), 0)


def binomial(rng, shape, images, share):
    return rng.binomial(images, 1 - share, shape).astype(float)


def shared_base(rng, shape, deviation):
    """Seven of ten rows start from the seed's dense network, which makes nine tenths of their variance."""
    base, own = rng.normal(size=(shape[0], 1, shape[2])), rng.normal(size=shape)
    scratch = (np.arange(shape[1]) % 10 >= 7)[:, None]
    return counts(rng, shape, deviation, noise=np.where(scratch, own, math.sqrt(0.9) * base + math.sqrt(0.1) * own))


def lacking(rng, shape, worst):
    """Three of ten rows lack two seeds: any two, or those in which they were worst."""
    tables = counts(rng, shape)
    order = np.argsort(-tables if worst else rng.uniform(size=shape), axis=2)
    gaps = np.zeros(shape, dtype=bool)
    np.put_along_axis(gaps, order[:, :, :2], True, axis=2)
    return np.where(gaps & (np.arange(shape[1]) % 10 >= 7)[:, None], np.nan, tables)


def permuted(rng, shape, residuals):
    """Residuals ``[rows, seeds]`` of real runs, exchanged between rows within each seed; no larger than they are."""
    order = np.argsort(rng.uniform(size=(shape[0], *residuals.shape)), axis=1)[:, : shape[1], : shape[2]]
    return np.round(500 + residuals[order, np.arange(order.shape[2])])


NULL = {
    "all alike": (counts, 5),
    "one row 2x as noisy": (partial(one_row, times=2), 5),
    "one row 3x as noisy": (partial(one_row, times=3), 5),
    "one row 5x as noisy": (partial(one_row, times=5), 5),
    "reference 4.8x as noisy": (partial(one_row, times=4.8, row=0), 5),
    "deviations lognormal 0.5": (partial(lognormal, spread=0.5), 6),
    "deviations lognormal 1.0": (partial(lognormal, spread=1.0), 6),
    "half of the rows 3x as noisy": (half_noisy, 6),
    "heavy tails (t2)": (heavy, 5),
    "3 % of the runs collapse": (collapsing, 5),
    "99.2 % of 355": (partial(binomial, images=355, share=0.992), 6),
    "99.9 % of 355": (partial(binomial, images=355, share=0.999), 6),
    "97 % of 10,000": (partial(binomial, images=10_000, share=0.97), 6),
    "shared base, deviation 2": (partial(shared_base, deviation=2.0), 6),
    "shared base, deviation 6": (partial(shared_base, deviation=6.0), 6),
    "rows lack any 2 seeds": (partial(lacking, worst=False), 6),
    "rows lack their worst 2 seeds": (partial(lacking, worst=True), 6),
}
"""Scenario -> how it is drawn, and how many per cent of boards may find a difference to the reference."""
COVERED = {
    "one row 2x as noisy": (slice(0, 1), 91),
    "one row 3x as noisy": (slice(0, 1), 93),
    "one row 5x as noisy": (slice(0, 1), 93),
    "reference 4.8x as noisy": (slice(None), 91),
}
"""Scenario -> rows whose interval is looked at, and how many per cent must hold the truth."""


CURVES = {
    "at the margin everywhere": ([-1, -1, -1, -1], 0),
    "equal, then at the margin from the third budget": ([0, 0, -1, -1], 2),
}
"""True differences to dense in margins, and the first budget that is not within."""


def curves(boards, truth, rows, seeds, count, deviation, margin):
    """Boards over budgets with one dense network: for each its tables ``[rows, seeds]``, row 0 dense."""
    point = count / 100
    rng = np.random.default_rng([rows, seeds, count, int(100 * deviation), len(truth)])
    own = rng.normal(size=(len(truth), boards, rows, seeds))
    own[1:, :, 0] = own[0, :, 0]  # dense is the same at all budgets
    wrong = -margin * point * np.array(truth)[:, None, None] * (np.arange(rows) > 0)[:, None]
    tables = [
        counts(rng, own[0].shape, deviation * point, 0.1 * count, 0, noise=noise, truth=gap)
        for noise, gap in zip(own, wrong, strict=True)
    ]
    return list(zip(*tables, strict=True))


def real_residuals(folder):
    """Of each table with five seeds: wrong images of the rows that have them all, less the row's mean."""
    found = {}
    for board in build(load(folder))[0]:
        for table in board.tables:
            wrong = [list(row.wrong.values()) for row in table.rows if row.top1 and len(row.wrong) >= 5]
            most = max(map(len, wrong), default=0)
            whole = np.array([row for row in wrong if len(row) == most], dtype=float)
            if len(whole) >= 10:
                name = f"{board.key['arch']}, {board.key['precision']}, {table.slug}"
                found[name] = whole - whole.mean(axis=1, keepdims=True)
    return found


def spec_of(board, row):
    """What is the hash of a row's specification."""
    return f"{board:06d}{row:06d}".ljust(64, "0")


def plan_of(tables):
    """A plan that names all rows of :func:`frame`, at all seeds, against row 0."""
    boards, rows, seeds = tables.shape
    named = {spec_of(b, m): set(range(seeds)) for b in range(boards) for m in range(rows)}
    return Plan(Terms("0" * 64, references=("random",)), named)


def frame(tables, images):
    """Records of all boards ``[boards, rows, seeds]`` as the frame that ``leaderboard.load`` gives; row 0 is random."""
    board, row, seed = (axis.ravel() for axis in np.indices(tables.shape))
    spec = [spec_of(b, m) for b, m in zip(board, row, strict=True)]
    name = np.array(["random", *(f"m{k}" for k in range(1, tables.shape[1]))])[row]
    values = dict.fromkeys(COLUMNS) | {"submitter": "", "doubt": "", "replays": ""}
    values |= {
        **{"status": "ok", "track": "matched", "kind": "macs", "keep_share": 0.5, "recipe": "r", "dataset": "d"},
        **{"file": [f"{s}{k}" for s, k in zip(spec, seed, strict=True)], "record_sha256": spec, "spec_sha256": spec},
        **{"id": [f"{s[:12]}-s{k}" for s, k in zip(spec, seed, strict=True)], "arch": [f"net{b:06d}" for b in board]},
        **{"method": name, "name": name, "seed": seed, "test_images": images, "finetune_plan": "[]", "epochs": 1},
        **{"final_wrong_images": tables.ravel(), "dense_macs": 200, "final_macs": 100, "dense_params": 2},
        **{"final_params": 1, "training_macs": 1, "code_changed": False},
    }
    made = pd.DataFrame(values, columns=list(COLUMNS))[~np.isnan(tables.ravel())]
    made.attrs |= {"problems": (), "root": ""}
    return made


# --- rules of 0.1 ---


def old_family(differences, rows, least, moderate=True):
    """Mean, half of the 95 % interval and Holm's p by the rule of 0.1 (Smyth 2004, the prior from the pairs)."""
    n = np.count_nonzero(~np.isnan(differences), axis=1)
    mean = np.nansum(differences, axis=1) / n
    v = np.maximum(np.nansum((differences - mean[:, None]) ** 2, axis=1) / np.maximum(n - 1, 1), 2 * QUANTUM)
    freedom, tested = np.maximum(n - 1.0, 1), n >= max(least, 2)
    if moderate and tested.sum() > 1:
        own = freedom[tested]
        logs = np.log(v[tested]) - digamma(own / 2) + np.log(own / 2)
        spread = float(np.var(logs, ddof=1) - polygamma(1, own / 2).mean())
        prior = math.inf if spread <= 0 else 2 * inverse_trigamma(spread)
        center = math.exp(logs.mean() + (0 if math.isinf(prior) else digamma(prior / 2) - math.log(prior / 2)))
        weight = 1 / (1 + own / prior)
        v[tested] = weight * center + (1 - weight) * v[tested]
        freedom[tested] = np.minimum(own + prior, (rows - 1) * own.max())
    error = np.sqrt(v / n)
    p = np.where(tested, 2 * stdtr(freedom, -np.abs(mean) / error), np.nan)
    return mean, stdtrit(freedom, 1 - ALPHA / 2) * error, holm(p)


def old_reach(curve, margin):
    """First crossing for each seed, linear in the factor; mean and half of its interval over seeds."""
    ends = []
    for values in np.concatenate([np.zeros((1, curve.shape[1])), curve]).T.tolist():
        k = next((k for k, value in enumerate(values) if value < -margin), None)
        factors = [1.0, *FACTORS]
        share = 0.0 if k is None else (values[k - 1] + margin) / (values[k - 1] - values[k])
        ends.append(factors[-1] if k is None else factors[k - 1] + share * (factors[k] - factors[k - 1]))
    return interval(ends)
