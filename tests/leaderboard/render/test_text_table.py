"""Tables and sentences within any width: nothing is wider, nothing that stays is lost."""

from hypothesis import given
from hypothesis import strategies as some

from leaderboard.render.text_table import Column, fold, sentences, table, wide

COLUMNS = (
    Column("name"),
    Column("options", wrap=True, drop=1),
    Column("defined in", drop=2),
    Column("what", wrap=True),
    Column("MACs", right=True),
)
ROWS = (
    {"name": "ddrop", "options": "schedule=cosine, p_min=0.1, p_max=0.9", "defined in": "methods/ddrop.py:44"}
    | {"what": "Drops units while training, with a probability that falls.", "MACs": "1,234,567"},
    {"name": "\u6f22\u5b57", "options": None, "defined in": "x", "what": "y" * 90, "MACs": 5},
)


def widest(text):
    return max(map(wide, text.split("\n")))


def test_without_a_width_a_row_is_a_line():
    text = table(COLUMNS, ROWS)
    assert text.split("\n")[0].split() == ["name", "options", "defined", "in", "what", "MACs"]
    assert len(text.split("\n")) == 4
    assert "y" * 90 in text
    assert text.split("\n")[2].endswith("1,234,567")
    assert text.split("\n")[3].endswith("        5")


def test_columns_that_matter_least_go_first_and_are_named():
    assert table(COLUMNS[:1], []) == "name\n----"
    assert "not shown" not in table(COLUMNS, ROWS, 100)
    at_72 = table(COLUMNS, ROWS, 72)
    assert at_72.endswith("not shown: defined in; --wide shows all")
    assert "options" in at_72
    assert table(COLUMNS, ROWS, 50).endswith("not shown: options, defined in; --wide shows all")
    for width in (200, 120, 100, 80, 60, 40, 25):
        assert widest(table(COLUMNS, ROWS, width)) <= width


def test_letters_of_two_columns_and_of_none_are_counted():
    assert (wide("abc"), wide("\u6f22\u5b57"), wide("e\u0301"), wide("\uff41")) == (3, 4, 1, 2)
    lines = table(COLUMNS, ROWS, 120).split("\n")
    assert wide(lines[2].split("schedule")[0]) == wide(lines[1].split("  ")[0]) + 2


@given(
    some.lists(some.text(some.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cf"]), max_size=60), min_size=1),
    some.integers(12, 90),
)
def test_any_texts_fit_any_width(texts, width):
    columns = [Column("a", wrap=True), Column("b", right=True, drop=1), Column("c")]
    rows = [dict(zip("abc", (text, text[:9], text[:5]), strict=True)) for text in texts]
    made = table(columns, rows, width)
    assert widest(made) <= width
    for text in texts:
        assert wide("".join(text.split())) <= wide("".join(made.split()))


@given(some.text(some.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cf"])), some.integers(2, 60))
def test_folding_keeps_every_letter(text, width):
    lines = fold(text, width)
    assert max(map(wide, lines)) <= max(width, 2)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_folded_lines_keep_their_indentation_and_words():
    assert sentences("  one two three\nfour", 9) == "  one two\n  three\nfour"
    assert fold("record: results/records/digits/lenet", 20) == ["record:", "results/records/", "digits/lenet"]
