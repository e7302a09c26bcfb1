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
