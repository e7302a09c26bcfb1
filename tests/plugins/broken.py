"""Methods that break the contract, each in one way."""

import torch

from bench.api import Method, importance, method


@importance("nan_scores")
def nan_scores(site):
    """Not numbers."""
    return site.rows().sum(dim=1) * float("nan")


@importance("wrong_shape")
def wrong_shape(site):
    """One score too few."""
    return site.rows().sum(dim=1)[1:]


@method("empty_masks")
class EmptyMasks(Method):
    """Keeps nothing."""

    starts_from = "base"

    def select(self, ctx, budget):
        return {name: torch.zeros(site.n_units, dtype=torch.bool) for name, site in ctx.sites.items()}


@method("over_budget")
class OverBudget(Method):
    """Keeps everything, whatever was asked."""

    starts_from = "base"

    def select(self, ctx, budget):
        return ctx.masks


@method("float_masks")
class FloatMasks(Method):
    """Masks that are not boolean."""

    starts_from = "base"

    def select(self, ctx, budget):
        return {name: torch.ones(site.n_units) for name, site in ctx.sites.items()}


@method("missing_site")
class MissingSite(Method):
    """Forgets a site."""

    starts_from = "base"

    def scores(self, ctx):
        return {name: torch.ones(site.n_units) for name, site in list(ctx.sites.items())[1:]}


@method("wants_test")
class WantsTest(Method):
    """Asks for the test set."""

    def on_epoch_end(self, ctx):
        next(ctx.batches("test"))


@method("diverges")
class Diverges(Method):
    """Makes the loss infinite."""

    def penalty(self, ctx):
        return torch.tensor(float("inf")) * next(iter(ctx.sites.values())).rows().sum()


class Raises(Method):
    """Raises in the hook ``where``, with everything a method can put on a network in place."""

    where = ""

    def prepare(self, ctx):
        name = next(iter(ctx.sites))
        self.layer = torch.nn.Dropout(0.1)
        ctx.insert(name, self.layer)
        ctx.track(name, lambda values: values.mean(dim=1), 0.9)

    def on_batch_start(self, ctx):
        ctx.gate({name: torch.ones(site.n_units) for name, site in ctx.sites.items()})
        self._raise("on_batch_start")

    def _raise(self, where):
        if self.where == where:
            raise ZeroDivisionError(f"on purpose in {where}")


def raising(hook):
    def raise_in(self, *args):
        self._raise(hook)

    return raise_in


for hook in ("on_phase_start", "penalty", "on_backward_end", "on_step_end", "on_epoch_end", "on_phase_end"):
    setattr(Raises, hook, raising(hook))
Raises.penalty = lambda self, ctx: self._raise("penalty") or 0.0


@method("raises_prepare")
class RaisesPrepare(Raises):
    """Raises in prepare."""

    def prepare(self, ctx):
        super().prepare(ctx)
        raise ZeroDivisionError("on purpose in prepare")


@method("raises_plan")
class RaisesPlan(Raises):
    """Raises in plan."""

    def plan(self, ctx):
        raise ZeroDivisionError("on purpose in plan")


@method("raises_on_phase_start")
class RaisesPhaseStart(Raises):
    """Raises in on_phase_start."""

    where = "on_phase_start"


@method("raises_on_batch_start")
class RaisesBatchStart(Raises):
    """Raises in on_batch_start."""

    where = "on_batch_start"


@method("raises_penalty")
class RaisesPenalty(Raises):
    """Raises in penalty."""

    where = "penalty"


@method("raises_on_backward_end")
class RaisesBackwardEnd(Raises):
    """Raises in on_backward_end."""

    where = "on_backward_end"


@method("raises_on_step_end")
class RaisesStepEnd(Raises):
    """Raises in on_step_end."""

    where = "on_step_end"


@method("raises_on_epoch_end")
class RaisesEpochEnd(Raises):
    """Raises in on_epoch_end."""

    where = "on_epoch_end"


@method("raises_on_phase_end")
class RaisesPhaseEnd(Raises):
    """Raises in on_phase_end."""

    where = "on_phase_end"


@method("raises_scores")
class RaisesScores(Raises):
    """Raises in scores."""

    def scores(self, ctx):
        raise ZeroDivisionError("on purpose in scores")


@method("raises_select")
class RaisesSelect(Raises):
    """Raises in select."""

    def select(self, ctx, budget):
        raise ZeroDivisionError("on purpose in select")


@method("raises_finalize")
class RaisesFinalize(Raises):
    """Raises in finalize."""

    def finalize(self, ctx):
        raise ZeroDivisionError("on purpose in finalize")
