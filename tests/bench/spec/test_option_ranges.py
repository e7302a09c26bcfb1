"""Ranges of options: which values are in them, and what a user reads of one that is not."""

from types import SimpleNamespace

import pytest

from bench.spec.option_ranges import require_ranges

CASES = {
    "[0, 1]": ((0, 0.5, 1), (-0.1, 1.1), "from 0 to 1"),
    "[0, 1)": ((0, 0.9), (-0.1, 1), "at least 0 and below 1"),
    "(0, 1]": ((0.1, 1), (0, 1.1), "above 0 and at most 1"),
    "(0, 1)": ((0.1, 0.9), (0, 1), "above 0 and below 1"),
    "[1, inf)": ((1, 1e9), (0, float("inf"), float("nan")), "1 or more"),
    "(0, inf)": ((1e-9,), (0, -1), "above 0"),
}


def test_values_outside_are_refused_with_the_range_in_words():
    for text, (inside, outside, words) in CASES.items():
        for value in (*inside, None):
            require_ranges(SimpleNamespace(p=value, q=-1), p=text)
        for value in outside:
            with pytest.raises(ValueError, match=rf"^p {value}: {words}$"):
                require_ranges(SimpleNamespace(p=value), p=text)


def test_the_first_option_outside_is_named():
    config = SimpleNamespace(a=1, b=2, c=3)
    with pytest.raises(ValueError, match=r"^b 2: from 0 to 1$"):
        require_ranges(config, a="[0, 1]", b="[0, 1]", c="[0, 1]")


@pytest.mark.parametrize("text", ["0, 1", "[0 1]", "[0, 1", "[0,1]"])
def test_what_is_no_interval_is_said(text):
    with pytest.raises(ValueError, match="of p: an interval such as"):
        require_ranges(SimpleNamespace(p=0), p=text)
