"""EDropout: a population of pruning states searches by energy while the best one's network is trained.

The full text was not available: equations follow the abstract and the code at github.com/sparsifai/epruning (commit
d660cc4, which says that it is not the official one); docs/methods/edropout.md lists what is whose.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from bench.api import Method, method, require_ranges
from methods.papers import EDROPOUT


def energy_loss(logits, y, kappa=10.0):
    """``-kappa`` times the mean margin of the right class over the best wrong one: ``[P, B, K], [B] -> [P]``.

    It is the difference of energies ``E(x, y) = -z_y``; negative on an example if that is classified correctly.
    """
    index = y.expand(len(logits), -1).unsqueeze(2)
    right, wrong = logits.gather(2, index), logits.scatter(2, index, -torch.inf).amax(dim=2, keepdim=True)
    return -kappa * (right - wrong).mean(dim=(1, 2))


def donors(count, generator):
    """For each of ``count`` members three other, distinct ones: int64 ``[count, 3]``."""
    order = torch.rand(count, count, generator=generator, device=generator.device)
    return order.fill_diagonal_(2.0).argsort(dim=1)[:, :3]


def mutate(states, op, factor, generator):
    """Mutants ``[P, D]`` of the states: binary differential evolution (``bde``), or what the code does."""
    a, b, c = states[donors(len(states), generator)].unbind(dim=1)
    chosen = torch.rand(states.shape, generator=generator, device=states.device) < factor
    return torch.where(chosen & (b != c), ~a, a) if op == "bde" else torch.where(chosen, a, ~a & (b == c))


def cross(states, mutants, rate, generator):
    """Children: each gene from the mutant with probability ``rate``, else from the state itself."""
    return torch.where(torch.rand(states.shape, generator=generator, device=states.device) < rate, mutants, states)


@method("edropout", paper=EDROPOUT)
class EDropout(Method):
    """Evolve masks by the energy of their networks' answers, train the best one's, until the population settles."""

    native = True

    @dataclass(frozen=True)
    class Config:
        """Options."""

        population: int = 8  # pruning states, at least 4 (code)
        op: Literal["bde", "code"] = "bde"  # mutation: binary differential evolution, or the code's reading (ours)
        factor: float = 0.9  # of the mutation (code)
        crossover: float = 0.9  # probability of a mutant's gene (code)
        p0: float = 0.5  # native track: chance of a unit to be in a first state (code)
        early: float = 0.5  # share of the epochs after which evolution stops at the latest (code: 100 of 200)
        patience: int = 100  # batches without a change of the best state in a settled population (ours)
        stale_costs: bool = False  # keep a parent's cost from the batch it was born on (code)
        share: float = 1.0  # of the batch that states are evaluated on (ours)
        statistics: Literal["batch", "running"] = "batch"  # what norms use while states are evaluated (ours)

        def __post_init__(self):
            if self.population < 4:
                raise ValueError(f"population {self.population}: at least 4, a mutant needs three others")
            require_ranges(self, factor="[0, 1]", crossover="[0, 1]", p0="[0, 1]", early="[0, 1]")
            require_ranges(self, share="(0, 1]", patience="[1, inf)")

    def prepare(self, ctx):
        """First states at random: each unit with chance ``p0``, then as many as the budget allows."""
        c = self.config
        self.register_buffer("states", ctx.repair(ctx.flat(ctx.draw(c.population)) < c.p0))
        self.register_buffer("costs", torch.full((c.population,), torch.inf, device=ctx.device))
        self.register_buffer("calm", torch.zeros((), dtype=torch.int64, device=ctx.device))

    def on_batch_start(self, ctx):
        """One generation on this batch, then train the best state's network on it."""
        c = self.config
        if self.calm < c.patience and ctx.epoch < c.early * ctx.recipe.train.epochs:
            self.evolve(ctx)
        ctx.masks = self.select(ctx, ctx.budget)

    def evolve(self, ctx):
        """Children replace their parents where their cost is lower."""
        c, count, before = self.config, len(self.states), self.states[self.costs.argmin()].clone()
        mutants = mutate(self.states, c.op, c.factor, ctx.rng)
        children = ctx.repair(cross(self.states, mutants, c.crossover, ctx.rng))
        fresh = c.stale_costs and bool(self.costs.isfinite().all())  # parents' costs need no second look
        candidates = children if fresh else torch.cat([self.states, children])
        some = slice(max(1 + (c.statistics == "batch"), round(c.share * len(ctx.x))))  # one image has no deviation
        ctx.masks = ctx.sites.ones()  # or no candidate would be evaluated with units that the best state lacks
        logits = ctx.evaluate(ctx.split(candidates), ctx.x[some], c.statistics == "batch")
        costs = energy_loss(logits, ctx.y[some])
        parents = self.costs if fresh else costs[:count]
        better = costs[-count:] < parents
        self.states.copy_(torch.where(better[:, None], children, self.states))
        self.costs.copy_(torch.where(better, costs[-count:], parents))
        calm = torch.equal(before, self.states[self.costs.argmin()]) and (self.costs - self.costs.min()).mean() < 1e-6
        self.calm.copy_((self.calm + 1) * calm)
        ctx.log(energy=self.costs.min(), energy_mean=self.costs.mean(), density=self.states.float().mean())

    def select(self, ctx, budget):
        """The best state's masks."""
        return ctx.split(self.states[self.costs.argmin()])
