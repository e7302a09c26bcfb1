"""The linter on tables of others: what such a table says is held against itself."""

import pytest

from leaderboard.lint import check

GOOD = """
| Rank | Method | Base | Pruned | Δ Acc | Params | Speed-up |
|---|---|---|---|---|---|---|
| 1 | Method A | 75.61 | 75.93 | +0.32 | 5.40 M (46.19 %) | 2.00x |
| 2 | Method B | 75.61 | 75.60 | -0.01 | 5.61 M (47.99 %) | 2.01x |
| 3 | Method C | 75.61 | 74.01 | -1.60 | 4.56 M (39.01 %) | 2.05x |
| 4 | Method D | 75.61 | 72.10 | -3.51 | 5.00 M (42.77 %) | 2.00x |
"""


def test_a_true_table_of_others_is_clean():
    assert check.check_text(GOOD, "markdown") == []


@pytest.mark.parametrize(
    ("old", "new", "code", "row"),
    [
        ("+0.32", "+0.38", "difference", "Method A"),
        ("74.01 | -1.60", "74.01 | 1.60", "difference", "Method C"),
        ("74.01", "75.01", "difference", "Method C"),
        ("| 2 | Method B", "| 3 | Method B", "rank", "Method B"),
        ("5.61 M (47.99 %)", "17.56 M (150.2 %)", "above-dense", "Method B"),
        ("5.61 M (47.99 %)", "5.61 M (74.99 %)", "percent", "Method B"),
        ("| 75.61 | 74.01 | -1.60", "| 75.51 | 74.01 | -1.50", "mixed-base", "Method C"),
        ("75.93 | +0.32", "175.93 | +100.32", "accuracy-range", "Method A"),
    ],
)
def test_faults_in_tables_of_others(old, new, code, row):
    text = GOOD.replace(old, new)
    if code == "rank":
        text = text.replace("| 3 | Method C", "| 2 | Method C")
    assert code in {f.code for f in check.check_text(text, "markdown") if f.row == row}


def test_a_table_as_in_a_readme():
    text = "\n".join(
        [
            "| Method | Base (%) | Pruned (%) | $\\Delta$ Acc (%) | FLOPs ↓ | Speed Up |",
            "|:--    |:--:  |:--:    |:--: |:--: |:--:      |",
            "| Paper [[1]](#1)  | -    | -      |-0.03 | 43.1 % | 1.76x    |",
            "| One [[2]](#2) | 93.26 | 92.17 | -0.09 | 50 % |2.00x |",
            "| Two [[3]](#3)  | 93.26 | 93.03 | +0.23 | 50 % |2.11x |",
            "||",
            "| Ours-L1 | 93.26 | 92.66 | \u22120.60 | 52 % | 2.12x |",
            "| **Ours** | 93.53 | 93.77 | **+0.38** | 52 % | 2.13x |",
        ]
    )
    found = [(f.line, f.row.split(" [")[0], f.code) for f in check.check_text(text, "markdown")]
    assert found == [
        (4, "One", "difference"),
        (5, "Two", "difference"),
        (8, "Ours", "difference"),
        (8, "Ours", "mixed-base"),
    ]


def test_every_operating_point_has_ranks_of_its_own():
    text = "Method,Pruned Acc,Rank\nA,75.9,1\nB,75.1,2\nB,72.0,1\nA,71.0,3\nC,71.5,2\nD,72.5,4\n"
    assert {(f.line, f.row, f.code) for f in check.check_text(text, "csv")} == {(7, "D", "rank")}


def test_params_above_those_of_the_dense_row():
    text = "Method,Accuracy,Params (M),FLOPs (M),Speed-up\n"
    text += "dense,75.61,11.69,1820,1.00\nA,74.0,17.56,910,2.00\nB,73.0,5.1,700,2.00\n"
    assert {("A", "above-dense"), ("B", "speed-ratio")} == {(f.row, f.code) for f in check.check_text(text, "csv")}
    assert [f.line for f in check.check_text(text, "csv")] == [3, 4]


def test_a_drop_counts_the_other_way():
    text = "Method,Baseline,Pruned,Acc drop\nA,93.53,93.00,0.53\nB,93.53,93.77,-0.24\nC,93.53,93.10,-0.43\n"
    assert [(f.row, f.code) for f in check.check_text(text, "csv")] == [("C", "difference")]


def test_settings_have_bases_of_their_own():
    text = "Network,Method,Base,Pruned,Delta\n"
    text += "ResNet-56,A,93.53,93.77,0.24\nVGG-19,A,73.50,70.39,-3.11\nVGG-19,B,73.60,70.39,-3.21\n"
    assert [(f.row, f.code) for f in check.check_text(text, "csv")] == [("B", "mixed-base")]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "| option | meaning |\n|---|---|\n| `--out` | where |\n"])
def test_other_tables_are_left_alone(text):
    assert check.check_text(text, "csv" if "," in text else "markdown") == []
