"""Gates drawn at random by ``ctx.keep_at_random``."""

import pytest
import torch
from support.networks import GREY, three_sites


def gates_of(ctx, *args, **settings):
    """What a method's gates multiply, read off the network by gating ones."""
    ctx.keep_at_random(*args, **settings)
    values = {n: v.clone() for n, v in ctx._model.gates.values.items()}
    ctx._model.after_step()
    return values


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("per_example", [True, False])
def test_units_are_kept_with_their_chances(make_ctx, per_example, rescale):
    ctx = make_ctx(arch=three_sites(), shape=GREY)
    ctx._now.x = torch.zeros(20, *GREY)
    chances = {n: torch.linspace(0.1, 1, s.n_units) for n, s in ctx.sites.items()}
    drawn = [
        gates_of(ctx, chances, per_example=per_example, rescale=rescale) for _ in range(100 if per_example else 2000)
    ]
    for name, chance in chances.items():
        values = torch.cat([d[name] for d in drawn])
        assert len(values) == 2000
        assert set(values[:, -1].tolist()) == {1.0}
        rate = (values != 0).float().mean(dim=0)
        assert ((rate - chance).abs() <= 4 * (chance * (1 - chance) / 2000).sqrt() + 1e-6).all()
        expected = 1 / chance if rescale else torch.ones_like(chance)
        torch.testing.assert_close(values.max(dim=0).values, expected)
        if rescale:
            sigma = ((1 - chance) / chance / 2000).sqrt()
            assert ((values.mean(dim=0) - 1).abs() <= 4 * sigma + 1e-6).all()


def test_random_gates_obey_masks_and_reach_the_network(make_ctx):
    ctx = make_ctx(arch=three_sites(), shape=GREY)
    ctx._now.x = torch.rand(6, *GREY, generator=torch.Generator().manual_seed(0))
    ctx._model.network.eval()
    zero = gates_of(ctx, {"0": torch.zeros(12)}, rescale=True)["0"]
    assert zero.shape == (6, 12)
    assert zero.abs().max() == 0
    kept = {"0": torch.full((12,), 0.5)}
    rng = ctx.rng.get_state()
    gates = gates_of(ctx, kept)["0"]
    ctx.rng.set_state(rng)
    ctx.keep_at_random(kept)
    with torch.no_grad():
        together = ctx._model.network(ctx.x)
        ctx._model.after_step()
        for k in range(6):
            alone = ctx.evaluate({"0": gates[k : k + 1]}, ctx.x[k : k + 1])
            torch.testing.assert_close(together[k : k + 1], alone[0], rtol=1e-4, atol=1e-5)
    ctx.masks = {n: torch.arange(s.n_units) % 2 == 0 for n, s in ctx.sites.items()}
    ones = gates_of(ctx, {"0": torch.ones(12)})["0"]
    assert torch.equal(ones, ctx.masks["0"].float().expand(6, -1))
