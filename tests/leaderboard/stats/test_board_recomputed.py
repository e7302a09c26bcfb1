"""Every number of the committed board once more, by code that shares nothing with the leaderboard's."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import isotonic_regression
from support.paths import ROOT
from support.plain_board import ALPHA, LEAST, Runs, compared, contrasts, holm, interval, latency, ranks

RECORDS, LATENCY = ROOT / "leaderboard" / "records", ROOT / "leaderboard" / "latency"
SPEEDUP = ("speedup_times", "speedup_low_times", "speedup_high_times")
PARTS = {"mean": "{}", "half": "half_{}", "seeds": "seeds", "p": "p", "p_holm": "p_holm", "verdicts": "verdicts"}
MORE = {"won": "won_seeds", "smallest": "smallest_points", "clear": "clear", "refit": "refit_half_points"}
ENDPOINTS = {"top1": ("", "points", PARTS | MORE), "loss": ("loss_", "log", PARTS)}
ENDPOINTS["pruned_top1"] = ("pruned_top1_", "points", PARTS)


def whole(board):
    """Whether all of its rows are in the plan, finished, with the same seeds."""
    rows = [row for table in board["tables"] for row in table["rows"]]
    seeds = {tuple(run["seed"] for run in row["runs"]) for row in rows}
    return len(seeds) == 1 and all(row["planned"] and not row["unfinished"] for row in rows)


WHOLE = [
    board
    for board in json.loads((ROOT / "leaderboard" / "tables" / "board.json").read_text())["boards"]
    if whole(board)
]
BOARDS = pytest.mark.parametrize(
    "board",
    [pytest.param(board, id=board["title"], marks=[pytest.mark.slow] * (len(board["tables"]) > 3)) for board in WHOLE],
)


def close(found, expected, where):
    """Equal, as far as arithmetic and twelve digits go."""
    if isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-7, abs=1e-9), where
    else:
        assert (found or None) == (expected or None), where


def test_no_board_is_left_out():
    """Each has its five seeds in every row, and so verdicts and ranks."""
    known = json.loads((ROOT / "leaderboard" / "tables" / "board.json").read_text())["boards"]
    assert [board["title"] for board in WHOLE] == [board["title"] for board in known] == ["resnet20 on digits"]
    assert {len(row["runs"]) for board in WHOLE for table in board["tables"] for row in table["rows"]} == {5}


@BOARDS
def test_every_number_of_a_table(board):
    title = board["title"]
    for table in board["tables"]:
        rows = [Runs(RECORDS, row) for row in table["rows"]]
        dense = next(row for row in rows if row.name == "dense")
        by_reference = {
            (endpoint, to): contrasts(rows, endpoint, to, board["plan"]["margins"] if endpoint == "top1" else ())
            for endpoint, to in itertools.product(board["plan"]["endpoints"], board["plan"]["references"])
        }
        for row in rows:
            found, at = row.json, (title, table["title"], row.name)
            for (endpoint, to), made in by_reference.items():
                prefix, unit, parts = ENDPOINTS[endpoint]
                for part, name in parts.items():
                    key = f"{prefix}minus_{to}_{name.format(unit)}"
                    close(found[key], made.get(row.name, {}).get(part), (*at, key))
            needed = by_reference["top1", "random"].get(row.name, {"p": None})
            close(found["seeds_needed"], ", ".join(needed["needed"]) if needed["p"] is not None else "", at)
            own = {"seeds": len(row.records), "epochs": max(row.of("training", "epochs"))}
            own["top1_percent"], own["top1_half_points"] = interval(
                row.values("top1")[0], 100 / math.sqrt(12) / row.images.min()
            )
            if not np.isnan(row.wrong("pruned")).any():
                own["pruned_top1_percent"], own["pruned_top1_half_points"] = interval(
                    row.values("pruned_top1")[0], 100 / math.sqrt(12) / row.images.min()
                )
            own["loss_nats"] = float(stats.gmean(row.of("metrics", "final", "loss")))
            for what in ("macs", "params"):
                final, full = row.of("cost", "final", what), row.of("cost", "dense", what)
                own |= {what: float(np.mean(final)), f"dense_{what}": full[0]}
                own[f"{what}_percent"] = float(np.mean(100 * np.array(final) / full))
            own["training_macs"] = float(np.mean(row.of("training", "macs")))
            own["training_cost_times_dense"] = own["training_macs"] / float(np.mean(dense.of("training", "macs")))
            own["step_cost_times_dense"] = step_seconds(row) / step_seconds(dense)
            for key, value in own.items():
                close(found[key], float(value), (*at, key))
            for size, batch in (("small", 1), ("large", 64)):
                made = latency(row, LATENCY, batch)
                for part in ("batch", "dense_ms", "final_ms", "final_p90_ms", "faster", *SPEEDUP):
                    close(found[f"{size}_{part}"], made.get(part), (*at, size, part))
            check_runs(row, at)
        ranked = [row for row in rows if row.json["rank_best"] is not None]
        if len(dense.records) < LEAST:
            assert ranked == []
            continue
        ranges, p = ranks(ranked)
        assert [(row.json["rank_best"], row.json["rank_worst"]) for row in ranked] == ranges
        letters = [set(row.json["tie_group"]) for row in ranked]
        assert all(bool(letters[i] & letters[j]) == (value >= ALPHA) for (i, j), value in p.items())
        assert {row.json["order_shown"] for row in rows} == {len(set(ranges)) > 1}


def check_runs(row, at):
    """What a row says of each of its runs, and in the texts with a part a seed."""
    wrong, pruned, images = row.wrong(), row.wrong("pruned"), row.images
    for k, (record, run) in enumerate(zip(row.records, row.json["runs"], strict=True)):
        final, training = record["cost"]["final"], record["training"]
        own = {"seed": record["spec"]["seed"], "images": record["data"]["test"], "wrong": int(wrong[k])}
        own |= {"loss": record["metrics"]["final"]["loss"], "training_macs": training["macs"], "id": record["id"]}
        own |= {key: final[key] for key in ("macs", "params")} | {"status": record["status"]}
        own["pruned"] = None if math.isnan(pruned[k]) else int(pruned[k])
        assert {key: run[key] for key in own} == own, at
    seeds, losses = row.of("spec", "seed"), row.of("metrics", "final", "loss")
    texts = {
        "wrong_test_images_by_seed": [f"{s}:{w:.0f}/{n}" for s, w, n in zip(seeds, wrong, images, strict=True)],
        "pruned_wrong_test_images_by_seed": [f"{s}:{w:.0f}" for s, w in zip(seeds, pruned, strict=True) if w == w],
        "loss_by_seed": [f"{s}:{loss}" for s, loss in zip(seeds, losses, strict=True)],
    }
    assert {key: row.json[key] for key in texts} == {key: " ".join(parts) for key, parts in texts.items()}, at


def step_seconds(row):
    """Seconds of training an image, hooks and the base's training included."""
    seconds = []
    for record in row.records:
        parts = [record["clock"]["seconds"]]
        parts += [record["clock"]["base_seconds"]] if record["training"]["starts_from"] == "base" else []
        total = sum(part.get("train", 0) + part.get("method", 0) for part in parts)
        seconds.append(total / record["training"]["examples"])
    return float(np.median(seconds))


@BOARDS
def test_headlines_reach_and_fronts(board):
    title = board["title"]
    tables = [[Runs(RECORDS, row) for row in table["rows"]] for table in board["tables"]]
    keys = [f"minus_{to}" for to in board["plan"]["references"]]
    tested = [(row.json, key) for rows in tables for row in rows for key in keys if row.json[f"{key}_p"] is not None]
    for (row, key), p in zip(tested, holm([row[f"{key}_p"] for row, key in tested]), strict=True):
        close(row[f"{key}_p_board"], p, (title, row["name"], key))

    shared = set.intersection(*({row.name for row in rows} for rows in tables))
    by_name = {name: [next(row for row in rows if row.name == name) for rows in tables] for name in sorted(shared)}
    pooled = {}
    for endpoint in ("top1", "loss"):
        terms = {
            "top1": lambda row: (-np.log((row.wrong() + 0.5) / row.images), 1 / 12 / (row.wrong() + 0.5) ** 2),
            "loss": lambda row: row.values("loss"),
        }[endpoint]
        both = {name: [terms(row) for row in rows] for name, rows in by_name.items()}
        values = np.array([np.mean([one for one, _ in own], axis=0) for own in both.values()])
        quantum = np.array([np.sum([q for _, q in own], axis=0) / len(own) ** 2 for own in both.values()])
        pooled[endpoint] = {to: compared(list(both), values, quantum, to) for to in board["plan"]["references"]}
    curves = {curve["name"]: curve for curve in board["curves"] if curve["name"] in shared}
    assert len(curves) == len(shared) - 1  # dense is no curve
    headlines = []
    for name, curve in curves.items():
        wrong = np.array([(row.wrong() + 0.5) / row.images for row in by_name[name]])
        close(curve["error_percent"], 100 * float(stats.gmean(wrong.ravel())), (title, name))
        for endpoint, to in itertools.product(pooled, board["plan"]["references"]):
            made, found = pooled[endpoint][to].get(name), curve["pooled_log_ratio"].get(endpoint, {}).get(to)
            if made is None:
                assert found is None
                continue
            for part in ("mean", "half", "seeds", "won", "p", "p_holm", "smallest"):
                close(found[part], made[part], (title, name, endpoint, to, part))
            close(found["verdict"], made["verdicts"], (title, name, endpoint, to))
            headlines += [found] * (endpoint == "top1" and found["p"] is not None)
        check_reach(curve, by_name["dense"], by_name[name], [contrasts(rows, "top1", "dense") for rows in tables])
    for found, p in zip(headlines, holm([found["p"] for found in headlines]), strict=True):
        close(found["p_board"], p, title)

    every = [(table["keep"], row.json) for table, rows in zip(board["tables"], tables, strict=True) for row in rows]
    axes = {"macs": "macs_percent", "params": "params_percent", "cost": "training_cost_times_dense"}
    axes |= {size: f"{size}_final_ms" for size in ("small", "large")}
    for axis, key in axes.items():
        points = [(row[key], row["top1_percent"]) for _, row in every]
        on = {
            (row["name"], keep)
            for (keep, row), (x, y) in zip(every, points, strict=True)
            if x is not None and not any(a is not None and a <= x and b >= y and (a, b) != (x, y) for a, b in points)
        }
        for name, curve in curves.items():
            assert set(curve["front"][axis]) == {keep for other, keep in on if other == name}, (title, name, axis)


def check_reach(curve, dense, rows, tests):
    """The budgets that pass, and where the fitted curve leaves the margin; its interval by simulation is not redone."""
    keeps, found = curve["keep"], [table[curve["name"]] for table in tests]
    for reach in curve["reach"]:
        margin, tested = reach["points"], [one["p"] is not None for one in found]
        above = [
            t and stats.t.sf((one["mean"] + margin) / one["error"], one["degrees"]) < ALPHA
            for t, one in zip(tested, found, strict=True)
        ]
        below = [
            t and stats.t.cdf((one["mean"] + margin) / one["error"], one["degrees"]) < ALPHA
            for t, one in zip(tested, found, strict=True)
        ]
        passed = list(itertools.takewhile(above.__getitem__, range(len(keeps))))
        failed = list(itertools.takewhile(below.__getitem__, reversed(range(len(keeps)))))
        assert reach["passed"] == (keeps[passed[-1]] if passed else None)
        assert reach["failed"] == (keeps[failed[-1]] if failed else None)
        if not all(tested):
            assert reach["times"] is None
            continue
        means = [float((row.values("top1")[0] - dense[0].values("top1")[0]).mean()) for row in rows]
        fit = [0.0, *isotonic_regression(means, increasing=False).x]
        scale = [0.0, *(math.log(100 / row.json["macs_percent"]) for row in rows)]
        k = next((k for k in range(1, len(fit)) if fit[k] < -margin), None)
        assert reach["bound"] == (k is None)
        if k is None:
            close(reach["times"], math.exp(scale[-1]), curve["name"])
            assert reach["high"] is None
        else:
            share = (fit[k - 1] + margin) / (fit[k - 1] - fit[k])
            close(reach["times"], math.exp(scale[k - 1] + share * (scale[k] - scale[k - 1])), curve["name"])
            assert reach["low"] <= reach["times"]
