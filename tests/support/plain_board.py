"""A board's numbers once more, from records as JSON: plain loops, numpy and scipy, none of the leaderboard's functions.

For boards whose rows all are in the plan and have the same seeds.
"""

import bisect
import gzip
import hashlib
import json
import math
import statistics as plain
from functools import cache
from pathlib import Path

import numpy as np
from scipy import optimize, special, stats

ALPHA, GUARD, LEAST = 0.05, 0.85, 5
REFIT = math.sqrt((1 / 5 + 1 / 4) / (1 / 5))
"""Factor of intervals over five folds, whose training images overlap (Nadeau and Bengio 2003)."""


@cache
def pack(file):
    """id -> record of a pack."""
    lines = gzip.decompress(Path(file).read_bytes()).decode().splitlines()
    return {record["id"]: record for record in map(json.loads, lines)}


@cache
def timings(folder, runtime="onnxruntime"):
    """(architecture, image, widths, batch) -> what a folder of latency files says of it, for one runtime."""
    lines = [json.loads(text) for file in Path(folder).glob("*.jsonl") for text in file.read_text().splitlines()]
    keys = ((line["key"], line["times"]) for line in lines if line["key"]["runtime"] == runtime)
    return {(k["arch_sha256"], tuple(k["shape"]), k["widths_sha256"], k["batch"]): times for k, times in keys}


def latency(row, folder, batch):
    """Fields of a row at one batch size, without the prefix of the field; empty where a shape was not measured."""
    shapes = set()
    for record in row.records:
        after = {site: kept for site, (_, kept) in record["structure"]["widths"].items()}
        widths = hashlib.sha256(json.dumps(after, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        shapes.add((record["structure"]["arch_sha256"], tuple(record["data"]["shape"]), widths, batch))
    found = [timings(folder).get(shape) for shape in shapes]
    if None in found:
        return {}
    logs = np.log([np.divide(one["dense_p50_ms"], one["final_p50_ms"]) for one in found])
    half = [stats.t.ppf(0.975, len(one) - 1) * np.std(one, ddof=1) / math.sqrt(len(one)) for one in logs]
    low = math.exp(np.mean(logs.mean(axis=1) - half))
    return {
        "batch": batch,
        "dense_ms": float(stats.gmean([one["dense_p50_ms"] for one in found], axis=None)),
        "final_ms": float(stats.gmean([one["final_p50_ms"] for one in found], axis=None)),
        "final_p90_ms": float(stats.gmean([one["final_p90_ms"] for one in found], axis=None)),
        "speedup_times": math.exp(logs.mean()),
        "speedup_low_times": low,
        "speedup_high_times": math.exp(np.mean(logs.mean(axis=1) + half)),
        "faster": low > 1.03,
    }


class Runs:
    """The records of one row of a JSON board, by seed."""

    def __init__(self, root, row):
        named = [run["file"].partition("#") for run in row["runs"]]
        self.name, self.json = row["name"], row
        found = (pack(str(Path(root) / file))[name.removesuffix(".json")] for file, _, name in named)
        self.records = sorted(found, key=lambda record: record["spec"]["seed"])

    def of(self, *keys):
        """One value a seed."""
        found = self.records
        for key in keys:
            found = [record and record[key] for record in found]
        return found

    @property
    def images(self):
        return np.array(self.of("data", "test"))

    def wrong(self, which="final"):
        qualities = self.of("metrics", which)
        return np.array([math.nan if q is None else round((1 - q["top1"]) * q["examples"]) for q in qualities])

    def values(self, endpoint):
        """Points of top-1, or minus the logarithm of the loss, and the variance of rounding."""
        if endpoint == "loss":
            return -np.log(self.of("metrics", "final", "loss")), np.zeros(len(self.records))
        wrong = self.wrong("final" if endpoint == "top1" else "pruned")
        return 100 - 100 * wrong / self.images, (100 / self.images) ** 2 / 12


def interval(values, floor=0.0):
    """Mean and half of its t interval; ``floor``: least deviation."""
    deviation = max(float(np.std(values, ddof=1)), floor)
    return np.mean(values), stats.t.ppf(0.975, len(values) - 1) * deviation / math.sqrt(len(values))


def holm(p):
    found, so_far = [0.0] * len(p), 0.0
    for place, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        so_far = max(so_far, min(1.0, p[k] * (len(p) - place)))
        found[k] = so_far
    return found


def shaffer(low, high):
    """Corrected one-sided p-values of pairs of questions of which at most one has the answer no."""
    items = sorted((p, k, side) for side, ps in enumerate((low, high)) for k, p in enumerate(ps))
    found, so_far = {}, 0.0
    for place, (p, k, side) in enumerate(items):
        so_far = max(so_far, min(1.0, p * len({k for _, k, _ in items[place:]})))
        found[k, side] = so_far
    return [[found[k, side] for k in range(len(low))] for side in (0, 1)]


def pair_tests(values, quantum, pairs, guard=GUARD, either=False):
    """Mean, standard error, degrees of freedom and p of row i less row j, for each of ``pairs``."""
    rows, seeds = values.shape
    d, means = seeds - 1, values.mean(axis=1)
    middle = [plain.median(values[i, s] - means[i] for i in range(rows)) for s in range(seeds)]
    own = [
        max(rows / (rows - 1) * plain.variance(values[i] - means[i] - middle), quantum[i].mean()) for i in range(rows)
    ]

    def spread(variances):
        return [math.log(v) - special.psi(d / 2) + math.log(d / 2) for v in variances]

    excess, prior = plain.variance(spread(own)) - special.polygamma(1, d / 2), math.inf
    if excess > 0:
        prior = 2 * optimize.brentq(lambda y: special.polygamma(1, y) - excess, 1e-6, 1e9, xtol=1e-14, rtol=1e-14)

    def drawn(variances, v):
        shift = math.exp(special.psi(prior / 2)) / (prior / 2) if prior < math.inf else 1.0
        center = math.exp(plain.mean(spread(variances))) * shift
        return center, center if prior == math.inf else (prior * center + d * v) / (prior + d)

    def noisy(i):
        return own[i] / math.sqrt(math.prod(drawn(own, own[i]))) > stats.f.ppf(guard, d, 60)

    differences = [values[i] - values[j] for i, j in pairs]
    variances = [
        max(plain.variance(one), (quantum[i] + quantum[j]).mean())
        for one, (i, j) in zip(differences, pairs, strict=True)
    ]
    found = []
    for one, v, (i, j) in zip(differences, variances, pairs, strict=True):
        moderated, degrees = drawn(variances, v)[1], min(prior + d, (rows - 1) * d)
        if len(pairs) < 2:
            moderated, degrees = v, d
        elif noisy(i) or (either and noisy(j)):
            moderated, degrees = max(v, moderated), d
        error = math.sqrt(moderated / seeds)
        found.append((one.mean(), error, degrees, 2 * stats.t.sf(abs(one.mean()) / error, degrees)))
    return found


@cache
def found_with_power(degrees, tests):
    """The difference in standard errors that is found with 80 % power."""
    limit = stats.t.ppf(1 - ALPHA / 2 / tests, degrees)
    return optimize.brentq(lambda nc: stats.nct.sf(limit, degrees, nc) - 0.8, 0, 200)


def needed(margin, deviation, alpha):
    """Fewest seeds that find a true difference of the margin with 80 % power."""
    counts = np.arange(2, 1001)
    limits, effects = stats.t.ppf(1 - alpha / 2, counts - 1), margin / deviation * np.sqrt(counts)

    def enough(k):
        return stats.nct.sf(limits[k], counts[k] - 1, min(effects[k], 30)) >= 0.8

    k = bisect.bisect_left(range(len(counts)), True, key=enough)
    return str(counts[k]) if k < len(counts) else "-"


def contrasts(rows, endpoint, to, margins=()):
    """name -> fields of the difference to a reference, without the prefix of the field."""
    rows = [row for row in rows if not np.isnan(row.values(endpoint)[0]).any()]
    names = [row.name for row in rows]
    if to not in names:
        return {}
    values, quantum = (np.array([row.values(endpoint)[k] for row in rows]) for k in (0, 1))
    return compared(names, values, quantum, to, margins)


def compared(names, values, quantum, to, margins=()):
    at = names.index(to)
    others = [k for k in range(len(names)) if k != at]
    found = pair_tests(values, quantum, [(k, at) for k in others])
    tested = values.shape[1] >= LEAST
    corrected = holm([p for *_, p in found])
    bounds = [
        shaffer(
            [stats.t.sf((mean + m) / error, f) for mean, error, f, _ in found],
            [stats.t.sf((m - mean) / error, f) for mean, error, f, _ in found],
        )
        for m in margins
    ]
    made = {}
    for n, (k, (mean, error, degrees, p)) in enumerate(zip(others, found, strict=True)):
        clear, gained = corrected[n] < ALPHA, values[k] - values[at]
        words = []
        for low, high in bounds or [([1.0] * len(found),) * 2]:
            one = [] if not clear else ["better" if mean > 0 else "worse"]
            if low[n] < ALPHA:
                one += ["equivalent"] if high[n] < ALPHA else ["non-inferior"] * ("better" not in one)
            words.append(", ".join(one) or "undecided")
        made[names[k]] = {
            "mean": mean,
            "half": stats.t.ppf(0.975, degrees) * error,
            "refit": REFIT * stats.t.ppf(0.975, degrees) * error,
            "clear": clear if tested else None,
            "seeds": values.shape[1],
            "won": float((gained > 0).sum() + (gained == 0).sum() / 2),
            "p": p if tested else None,
            "p_holm": corrected[n] if tested else None,
            "smallest": error * found_with_power(degrees, len(found)) if tested else None,
            "verdicts": "; ".join(words) if tested else None,
            "needed": [needed(m, error * math.sqrt(values.shape[1]), ALPHA / len(found)) for m in margins],
            "error": error,
            "degrees": degrees,
        }
    return made


def ranks(rows):
    """Best and worst rank of each row, and the corrected p of each pair, for rows in their order."""
    values, quantum = (np.array([row.values("top1")[k] for row in rows]) for k in (0, 1))
    pairs = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows))]
    found = pair_tests(values, quantum, pairs, math.sqrt(GUARD), either=True)
    p = dict(zip(pairs, holm([p for *_, p in found]), strict=True))
    lead = {pair: mean for pair, (mean, *_) in zip(pairs, found, strict=True)}
    ranges = []
    for k in range(len(rows)):
        signs = [(1 if pair[0] == k else -1) * lead[pair] for pair in pairs if k in pair and p[pair] < ALPHA]
        ranges.append((1 + sum(sign < 0 for sign in signs), len(rows) - sum(sign > 0 for sign in signs)))
    return ranges, p
