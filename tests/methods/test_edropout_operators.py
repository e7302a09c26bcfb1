"""EDropout's energy, donors, mutation and crossover, each alone; numbers are those of the method's page."""

from itertools import product

import pytest
import torch

from methods.edropout import EDropout, cross, donors, energy_loss, mutate


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coins(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed)) < 0.5


def test_3g01_energy():
    logits = torch.tensor([[[2.0, 5.0, 1.0]]])
    assert energy_loss(logits, torch.tensor([1]), kappa=1).item() == -3
    assert energy_loss(logits, torch.tensor([1])).item() == -30
    assert energy_loss(logits, torch.tensor([0]), kappa=1).item() == 3
    some, y = torch.randn(4, 50, 10), torch.randint(10, (50,))
    torch.testing.assert_close(energy_loss(some + 100, y), energy_loss(some, y), rtol=1e-4, atol=1e-3)
    each = torch.stack([energy_loss(some[:, k : k + 1], y[k : k + 1]) for k in range(50)], dim=1)
    assert torch.equal(each < 0, some.argmax(dim=2) == y)
    torch.testing.assert_close(each.mean(dim=1), energy_loss(some, y))


def test_3g04_donors_are_three_others():
    for count in (4, 8, 20):
        seen = set()
        for seed in range(200):
            for i, three in enumerate(donors(count, generator(seed)).tolist()):
                assert len({i, *three}) == 4 and set(three) <= set(range(count))
                seen.add((i, *three))
        assert count > 4 or len(seen) == 4 * 6  # all of them come up


def test_3g05_settled_populations():
    same = coins(60).expand(8, 60)
    assert torch.equal(cross(same, mutate(same, "bde", 0.9, generator()), 0.9, generator(1)), same)
    ones = torch.ones(500, 2000, dtype=torch.bool)
    rng = generator()
    after = cross(ones, mutate(ones, "code", 0.9, rng), 0.9, rng)
    assert (~after).float().mean().item() == pytest.approx(0.09, abs=0.002)


def test_3g06_one_generation_of_coins():
    for op, crossover, ones, changed in (("code", 0.9, 0.4775, 0.45), ("bde", 0.5, 0.5, 0.25)):
        states, rng = coins(1000, 2000), generator(1)
        after = cross(states, mutate(states, op, 0.9, rng), crossover, rng)
        assert after.float().mean().item() == pytest.approx(ones, abs=0.003)
        assert (after != states).float().mean().item() == pytest.approx(changed, abs=0.003)


def test_3h06_donors_that_disagree():
    """Of three donors a, b and c: ours flips a where b and c differ, the code says 0 there."""
    rng = generator()
    for a, b, c in product([False, True], repeat=3):
        states = torch.tensor([a, b, c])[:, None].expand(3, 1)
        states = torch.cat([states, states[:1]])  # member 3's donors are 0, 1 and 2 in some order
        for _ in range(20):
            order = donors(4, torch.Generator().set_state(rng.get_state()))[3]
            x, y, z = states[order].flatten().tolist()
            keep = torch.Generator().set_state(rng.get_state())
            assert mutate(states, "bde", 1.0, keep)[3].item() == (not x if y != z else x)
            assert mutate(states, "code", 0.0, rng)[3].item() == (not x and y == z)
    assert EDropout.Config().op == "bde"
