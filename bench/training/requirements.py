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


NEEDS: Mapping[str, Callable[[Site], str | None]] = {
    "scaled_norm": lacks_scaled_norm,
    "maps": lacks_maps,
    "foldable": lambda site: site.unfoldable(),
}
"""Name of a need -> function that says why a site does not meet it, None where it does."""
