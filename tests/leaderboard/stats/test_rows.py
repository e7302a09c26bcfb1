"""What a table says of a row before it is compared with others."""

from types import SimpleNamespace

from leaderboard.stats.ranking import expected_epochs
from leaderboard.stats.rows import short_of_budget


def row(name, track, epochs, planned=False):
    return SimpleNamespace(name=name, track=track, epochs=epochs, planned=planned)


def test_expected_epochs_are_those_of_random_else_of_most_pruned_rows():
    rows = [row("dense", "dense", 16), row("dense epochs=16", "dense", 16), row("a", "matched", 8)]
    assert expected_epochs(rows) == 8
    assert expected_epochs([*rows, row("b", "matched", 8), row("random", "matched", 4)]) == 4
    assert expected_epochs([*rows, row("b", "matched", 5, planned=True)]) == 5
    assert expected_epochs(rows[:2]) is None


def test_short_of_budget_is_that_of_the_smallest_network():
    def run(final, kind="macs"):
        costs = {
            f"{which}_{what}": cost for which, cost in (("final", final), ("dense", 100)) for what in ("macs", "params")
        }
        return SimpleNamespace(kind=kind, keep_share=0.5, coupling="inner", **costs)

    assert abs(short_of_budget([run(50), run(48), run(49, "params")]) - 0.02) < 1e-12
    assert short_of_budget([run(48, "native")]) == short_of_budget([]) == 0.0
