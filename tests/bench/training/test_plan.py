"""Plans that several methods have."""

from bench.api import PRUNE, Phase, search_plan


def test_search_plan_has_all_epochs_and_the_prune_after_a_share():
    assert search_plan(5, 0.5) == (Phase(2, "finetune"), PRUNE, Phase(3, "finetune"))
    for epochs in (0, 1, 7):
        search, prune, rest = search_plan(epochs, 0.8)
        assert (search.epochs, prune, search.epochs + rest.epochs) == (round(0.8 * epochs), PRUNE, epochs)
