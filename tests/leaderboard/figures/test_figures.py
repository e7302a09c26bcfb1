"""Figures: they can be drawn, show what they say, and take nothing of a record for anything but data."""

import json
import re
from dataclasses import replace

import pytest
from support.boards import BUDGETS, WRONG, boards_of, large, put, records

from bench.errors import UsageError
from leaderboard.figures import draw, figure_list, figures_of_boards, figures_of_runs, plot_style
from leaderboard.reader.curve_model import Profile, Ranking
from leaderboard.reader.model import Mean, Run, Table

HOSTILE = "\"'](alert(1))<script>'}\u202e"
PROFILE = Profile("error over the least", (("a", ((1.0, 0.5), (1.5, 1.0), (4.0, 1.0))), ("random", ((1.0, 0.0),))))
RANKING = Ranking((("a", 1.0), ("b", 2.5), ("c", 3.0)), 1.6, (("a", "b"), ("b", "c")))
EPOCHS = [
    {"epoch": n, "part": "train" if n < 3 else "finetune", "top1": 50.0 + n, "val_loss": 1 / n, "train_loss": 1.0}
    for n in range(1, 5)
]
STANDING = [
    {"keep": 0.5, "top1": 90.0, "half": 1.0, "random": 88.0, "thin": 89.0},
    {"keep": 0.1, "top1": 80.0, "half": None, "random": 70.0, "thin": None},
]
WIDTHS = [{"site": s, "budget": b, "kept": k} for s, b, k in (("s1", "0.5", 40), ("s1", "0.1", 5), ("s2", "0.5", 60))]


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    ((board,), _) = boards_of(put(tmp_path_factory.mktemp("records"), records()))
    return board


def with_row(board, **changes):
    """The board of one row with that row changed."""
    (row,) = board.tables[0].rows
    return replace(board, tables=(replace(board.tables[0], rows=(replace(row, **changes),)),))


def values(spec):
    return spec["data"]["values"]


def strings(node, path=()):
    """Every text in a spec with the keys that lead to it; keys are texts, too."""
    if isinstance(node, dict):
        for key, inner in node.items():
            yield path, key
            yield from strings(inner, (*path, key))
    elif isinstance(node, list):
        for inner in node:
            yield from strings(inner, path)
    elif isinstance(node, str):
        yield path, node


def lines(svg, stroke):
    """Corners of the lines of one colour in an SVG: lists of (x, y) in pixels."""
    paths = re.findall(rf'<path[^>]* d="(M[^"]*)"[^>]*stroke="{stroke}"', svg)
    return [[tuple(map(float, p.split(","))) for p in re.findall(r"-?[\d.]+,-?[\d.]+", path)] for path in paths]


def test_single_runs_and_means_are_where_the_board_has_them(board):
    spec = figures_of_boards.costs(board, lambda run: f"r/{run.page}", lambda row: f"m/{row.method}")
    rows = [row for table in board.tables for row in table.rows if row.track != "dense"]
    runs = [value for value in values(spec) if value["is"] == "run"]
    finished = {f"r/{run.page}" for row in rows for run in row.runs if run.wrong is not None}
    assert len(runs) == len(finished)
    assert {run["href"] for run in runs} == finished
    means = {(v["series"], v["budget"]): v for v in values(spec) if v["is"] == "row"}
    assert ("taylor", "keep 0.5 of the MACs") not in means  # a run failed: there is no mean
    for table in board.tables:
        for row in table.rows:
            if row.track != "dense" and row.top1:
                value = means[row.name, table.title]
                assert value["top1"] == pytest.approx(row.top1.mean, abs=1e-4)
                assert value["high"] - value["top1"] == pytest.approx(row.top1.half, abs=2e-4)
                assert value["macs"] == pytest.approx(row.macs_percent, abs=1e-4)
                assert (value["small"], value["large"]) == (None, None)  # nothing was measured
    run = Run("i", "p", "f", 0, "failed", None)
    without = with_row(large(1), runs=(run,), top1=None)
    assert values(figures_of_boards.costs(without)) == []
    assert [plate.name for plate in figure_list.of_board(without)] == []
    assert plot_style.band(99.8, 0.5) == {"half": 0.5, "low": 99.3, "high": 100.0}  # within what can be
    assert plot_style.band(0.2, 0.5) == {"half": 0.5, "low": 0.0, "high": 0.7}
    assert plot_style.band(50.0, None) == {"half": None, "low": 50.0, "high": 50.0}


def test_costs_can_be_chosen_where_they_were_measured(board):
    options = [
        figures_of_boards.costs(each)["params"][0]["bind"]["options"]
        for each in (board, with_row(large(1), speeds=(), cost=None))
    ]
    assert options == [["macs", "params", "cost"], ["macs", "params"]]


def test_front_is_what_no_cheaper_row_beats():
    base = large(3)
    table = base.tables[0]
    wanted = [(0.5, 90.0), (0.7, 85.0), (0.9, 95.0)]
    rows = tuple(
        replace(row, cost=cost, top1=Mean(top1, 0.1), runs=())
        for row, (cost, top1) in zip(table.rows, wanted, strict=True)
    )
    spec = figures_of_boards.costs(replace(base, tables=(replace(table, rows=rows),)))
    spec["params"][0]["value"] = "cost"
    front = next(line for line in lines(draw.svg(spec), plot_style.GREY) if len(line) > 2)
    assert len(front) == 3  # from the first, level to the third's cost, up to the third: the second is below
    (x1, y1), (x2, y2), (x3, y3) = front
    assert y1 == y2 > y3 and x1 < x2 == x3


def test_no_point_is_shifted(board):
    for spec in (figures_of_boards.costs(board), figures_of_boards.curves(board)):
        assert not [key for _, key in strings(spec) if key in ("shift", "xOffset", "yOffset")]


def test_curves_have_every_budget_and_dense_as_a_line(board):
    spec = figures_of_boards.curves(board)
    places = {(row.name, t.keep): row.macs_percent for t in board.tables for row in t.rows if t.kind == "macs"}
    points = {(v["series"], v["budget"]): v["keep"] for v in values(spec)}
    assert points == {(name, keep): pytest.approx(places[name, keep], abs=1e-4) for name in WRONG for keep in BUDGETS}
    (dense,) = [layer["data"]["values"][0]["dense"] for layer in spec["layer"] if layer["mark"]["type"] == "rule"]
    assert dense == pytest.approx(100 * (1 - 8.8 / 500), abs=1e-4)


def test_name_has_one_colour_and_shape_where_all_have_one(board):
    looks = {}
    profile = draw.profile(PROFILE, figures_of_boards.methods_of(board) | {"a": "a"})
    for spec in (figures_of_boards.costs(board), profile):
        for layer in spec["layer"]:
            for channel in ("color", "shape"):
                scale = layer["encoding"].get(channel, {}).get("scale")
                for name, look in zip(scale["domain"], scale["range"], strict=True) if scale else ():
                    assert looks.setdefault((channel, name), look) == look
    assert {looks["color", name] for name in ("random", "l1_norm", "uniform_thin")} == {plot_style.GREY}
    assert looks["color", "slimming"] != plot_style.GREY
    names = {f"m{n:02}": f"m{n:02}" for n in range(36)}
    scale = plot_style.series_of(names, names)
    assert len({*zip(scale["color"]["scale"]["range"], scale["shape"]["scale"]["range"], strict=True)}) == 36


def test_curves_have_six_rows_in_colour_the_least_errors_first():
    base = large(9)
    tables = [
        replace(base.tables[0], keep=keep, rows=tuple(replace(r, macs_percent=100 * keep) for r in base.tables[0].rows))
        for keep in (0.5, 0.25)
    ]
    rows = [
        replace(row, runs=tuple(run._replace(wrong=90 - n) for run in row.runs)) for n, row in enumerate(tables[0].rows)
    ]
    board = replace(base, tables=(replace(tables[0], rows=tuple(rows)), replace(tables[1], rows=tuple(rows))))
    spec = figures_of_boards.curves(board)
    chosen = spec["params"][0]["value"]
    assert chosen == [f"method_{n} share=0.{n}" for n in (8, 7, 6, 5, 4, 3)]
    shapes = [layer["encoding"]["shape"]["scale"]["domain"] for layer in spec["layer"] if "shape" in layer["encoding"]]
    assert shapes == [chosen]
    assert len({v["series"] for v in values(spec)}) == 9  # the others are there, in grey


def test_profile_and_ranks_need_eight_tables(board):
    assert not [plate for plate in figure_list.of_board(board) if plate.name in ("profile", "ranking")]
    assert figure_list.across([board] * 2) == []
    plates = figure_list.across([board] * 3)  # nine tables
    assert [plate.name for plate in plates] == ["profile", "ranking"]
    assert all("in all of them: ddrop, l1_norm, random, slimming, uniform_thin" in plate.caption for plate in plates)


def test_names_are_data_and_nothing_else():
    base = large(1)
    (row,) = base.tables[0].rows
    odd = replace(row, name=HOSTILE, method=HOSTILE, runs=(row.runs[0]._replace(page="p"),))
    board = replace(base, tables=(Table("macs", 0.5, (odd,), 1000, 100),))
    shown = HOSTILE.replace("\u202e", "")
    specs = [figures_of_boards.costs(board), draw.profile(Profile("x", ((HOSTILE, ((1.0, 1.0),)),)))]
    specs.append(draw.ranking(Ranking(((HOSTILE, 1.0), ("b", 2.0)), 2.0, ((HOSTILE, "b"),))))
    for spec in specs:
        places = {path[-2:] for path, text in strings(spec) if "alert" in text}
        assert {path[0] for path in places} <= {"values", "scale"}
        assert {path[-1] for path in places} <= {"series", "first", "domain", "values"}
        svg = draw.svg(spec)
        assert "<script" not in svg and "\u202e" not in svg
        assert any(text == shown for _, text in strings(spec))


def test_small_figures_can_be_drawn():
    for spec, words in [
        (draw.profile(PROFILE), ["error over the least", "share of tables", "random"]),
        (draw.ranking(RANKING), ["mean rank", "critical difference 1.60", "c"]),
        (figures_of_runs.training(EPOCHS), ["validation top-1, %", "finetune"]),
        (figures_of_runs.comparison(STANDING), ["this method", "thin from scratch", "0.1"]),
        (figures_of_runs.widths(WIDTHS), ["s1", "s2", "units kept, %"]),
    ]:
        drawn = draw.svg(spec)
        assert all(f">{word}</text>" in drawn for word in words), words
        assert draw.svg(spec) == drawn
        assert "aria-label" not in drawn
    drawn = draw.svg(draw.ranking(RANKING))  # bars span what is not significantly different
    bars = re.findall(
        r'<line transform="translate\(([\d.]+),([\d.]+)\)"[^>]* y2="(-?[\d.]+)"[^>]*stroke-width="3"', drawn
    )
    (x1, top1, down1), (x2, top2, down2) = [tuple(map(float, bar)) for bar in bars]
    assert x1 < x2 and top1 < top2 and down1 == pytest.approx(down2) == pytest.approx(17.0)


def test_figures_of_a_board_are_written_for_papers(board, tmp_path):
    small = replace(board, tables=board.tables[:1])
    paths = figure_list.write_all([small], tmp_path / "figures")
    assert [path.name for path in paths] == ["digits-net-costs.svg", "digits-net-costs.png"]
    assert "href" not in paths[0].read_text().replace("xlink:href", "")
    png = paths[1].read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    density = png[png.index(b"pHYs") + 4 :]
    assert int.from_bytes(density[:4], "big") == round(300 / 0.0254)  # pixels a metre


def test_spec_is_written_as_it_is(tmp_path):
    spec = draw.profile(PROFILE)
    draw.save(spec, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == spec
    with pytest.raises(UsageError, match=r"\.svg, \.png, \.json"):
        draw.save(spec, tmp_path / "a.pdf")
