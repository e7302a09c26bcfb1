"""Methods that declare where they work."""

from bench.api import Method, importance, method, regularizer


@method("inner_only")
class InnerOnly(Method):
    """Works on widths with one producer."""

    starts_from = "base"
    couplings = ("inner",)


@method("convs_only")
class ConvsOnly(Method):
    """Works on convolutions."""

    starts_from = "base"
    kinds = ("conv",)


def few_units(site):
    return None if site.n_units <= 6 else f"it has {site.n_units} units, more than 6"


@importance("few_units_only", supports=few_units)
def few_units_only(site):
    """Works on small sites."""
    return site.rows().norm(dim=1)


@regularizer("few_units_penalty", supports=few_units)
def few_units_penalty(site):
    """Works on small sites."""
    return 1e-4 * site.rows().square().sum()


@method("no_such_coupling")
class NoSuchCoupling(Method):
    """Declares a coupling that does not exist."""

    couplings = ("outer",)


@method("one_kind_as_text")
class OneKindAsText(Method):
    """Declares a text in place of a tuple."""

    kinds = "conv"


def is_linear(site):
    return site.kind == "linear"


@importance("convs_alone", exempt=is_linear)
def convs_alone(site):
    """Works on maps, and leaves neurons whole."""
    return site.weights()[0].square().sum(dim=(1, 2, 3))  # fails for a linear layer


@regularizer("convs_penalty", exempt=is_linear)
def convs_penalty(site):
    """The same as a penalty."""
    return site.weights()[0].square().sum(dim=(1, 2, 3)).sum()


@importance("maps_only", needs="maps")
def maps_only(site):
    """Needs maps."""
    return site.rows().norm(dim=1)


@importance("maps_where_convolutions", needs=("activations", "maps"), exempt=is_linear, batches=2)
def maps_where_convolutions(site, activations):
    """Needs maps, and leaves neurons whole."""
    return activations.amax(dim=(2, 3)).mean(dim=0)


@method("needs_something")
class NeedsSomething(Method):
    """Needs what nobody knows."""

    needs = ("luck",)


@method("writes_anywhere")
class WritesAnywhere(Method):
    """Declares a hook in which nobody may write."""

    writes = ("on_batch_start",)


@importance("neurons_only", exempt=lambda site: site.kind == "conv")
def neurons_only(site):
    """Works on neurons, and leaves convolutions whole."""
    return site.rows().norm(dim=1)
