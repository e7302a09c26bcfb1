"""What a method may need of the sites that it works on, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.pruning.sites import Site


def lacks_scaled_norm(site: Site) -> str | None:
    """For ``supports`` of methods that rank by the scales of batch norms."""
    return "it has no batch norm with a scale" if site.gamma() is None else None


def lacks_maps(site: Site) -> str | None:
    """For methods that look at an activation as an image."""
    return None if site.kind == "conv" else f"its activations are no maps, it is of kind {site.kind}"


POSITIVE = {"ReLU", "LeakyReLU", "RReLU", "PReLU", "ELU", "CELU"}
"""Activation modules that leave what is not negative as it is."""
PLACES = ("activation", "normalization", "instancenorm")
"""Modules of torch with activations, and with norms of single images."""


def lacks_relu(site: Site) -> str | None:
    """For methods that follow numbers which are not negative through the network."""
    modules = {name: type(m) for name, m in site.network.named_modules() if type(m).__module__.endswith(PLACES)}
    odd = next((f"{kind.__name__} ({n})" for n, kind in modules.items() if kind.__name__ not in POSITIVE), None)
    return f"the network has {odd}, which does not leave what is positive as it is" if odd else None


NEEDS: Mapping[str, Callable[[Site], str | None]] = {
    "scaled_norm": lacks_scaled_norm,
    "maps": lacks_maps,
    "relu": lacks_relu,
    "foldable": lambda site: site.unfoldable(),
}
"""Name of a need -> function that says why a site does not meet it, None where it does."""
