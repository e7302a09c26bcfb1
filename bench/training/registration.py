"""Decorators that register a method: a class with hooks, a score of sites, or a penalty on sites."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partialmethod
from typing import Any, Literal

import torch
from torch import Tensor

from bench.pruning.masks import Scores
from bench.pruning.sites import Site
from bench.spec.entries import Paper
from bench.spec.option_scan import LOOKS
from bench.spec.registry import METHODS
from bench.training.context import Context
from bench.training.method import Method


def method(name: str, *, paper: Paper | None = None) -> Callable[[type[Method]], type[Method]]:
    """Register a :class:`Method` subclass as ``name``."""

    def decorate(cls: type[Method]) -> type[Method]:
        cls.name, cls.paper = name, paper
        METHODS.register(name, cls, f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}")
        return cls

    return decorate


def importance(
    name: str,
    *,
    paper: Paper | None = None,
    ranking: Literal["layer", "global"] = "layer",
    needs: str | tuple[str, ...] | None = (),
    supports: Callable[[Site], str | None] | None = None,
    exempt: Callable[[Site], bool] | None = None,
    kinds: tuple[str, ...] = Method.kinds,
    **options: Any,
) -> Callable[[Callable], Callable]:
    """Register ``function(site, **options) -> [n_units]`` as a method that starts from the base and prunes once.

    Larger is more worth keeping. ``ranking`` says whether scores compare within a site or over all of them.
    ``options`` are its configuration and their defaults. Where ``needs`` has ``activations`` or ``gate_gradients`` the
    function is called as ``function(site, values, **options)`` with the activations ``[B, n_units, ...]`` or the gates'
    gradients ``[B, n_units]`` of every training batch, and the score is the mean (see ``Context.mean``); an option
    ``batches`` then limits how many. With ``block_io`` it is called for each block with its input and output
    ``[2, B, ...]`` and gives a number. Further ``needs``, ``supports``, ``exempt`` and ``kinds`` are those of
    :class:`Method`; the function is not called for an exempt site.
    """
    asked = (needs,) if isinstance(needs, str) else needs or ()
    looks: Any = next((each for each in asked if each in LOOKS), None)
    if looks:
        options = {"batches": None, **options}

    def decorate(function: Callable) -> Callable:
        def scores(self: Method, ctx: Context) -> Scores:
            given = dataclasses.asdict(self.config)
            if looks:
                batches = given.pop("batches")

                def score(site: Site, values: Tensor) -> Tensor:
                    if self.exempt(site):
                        return torch.zeros(site.n_units, device=values.device)
                    return function(site, values.float(), **given)

                return ctx.mean(score, looks, batches)
            ranked = {n: site for n, site in ctx.sites.items() if site.kind in kinds and not self.exempt(site)}
            return {name: function(site, **given).detach() for name, site in ranked.items()}

        body = {"starts_from": "base", "ranking": ranking, "scores": scores, "kinds": kinds}
        body["needs"] = tuple(each for each in asked if each not in LOOKS)
        _register(name, paper, function, options, body | _declared(supports=supports, exempt=exempt))
        return function

    return decorate


def regularizer(
    name: str,
    *,
    paper: Paper | None = None,
    supports: Callable[[Site], str | None] | None = None,
    exempt: Callable[[Site], bool] | None = None,
    kinds: tuple[str, ...] = Method.kinds,
    **options: Any,
) -> Callable[[Callable], Callable]:
    """Register ``function(site, **options) -> scalar`` as a method that trains with its sum over sites as penalty.

    It prunes by the l2 norm of the units' weights, the same share of every site, unless composed with an
    importance (``name+importance``). ``supports``, ``exempt`` and ``kinds`` are those of :class:`Method`; an exempt
    site has no penalty.
    """

    def decorate(function: Callable) -> Callable:
        def penalty(self: Method, ctx: Context) -> Tensor | float:
            given = dataclasses.asdict(self.config)
            return sum(function(site, **given) for site in ctx.sites.values() if not self.exempt(site))

        body = {"penalty": penalty, "kinds": kinds}
        _register(name, paper, function, options, body | _declared(supports=supports, exempt=exempt))
        return function

    return decorate


def _declared(**given: Callable[[Site], Any] | None) -> dict[str, Any]:
    """Functions of a site as methods of a class, those that were given."""
    return {name: partialmethod(_asked, function) for name, function in given.items() if function}


def _asked(self: Method, function: Callable[[Site], Any], site: Site) -> Any:
    return function(site)


def _register(name: str, paper: Paper | None, function: Callable, options: dict[str, Any], body: dict) -> None:
    fields = [
        (key, int | None if key == "batches" else type(value), dataclasses.field(default=value))
        for key, value in options.items()
    ]
    config = dataclasses.make_dataclass("Config", fields, frozen=True)
    config.__module__ = function.__module__
    facts = {"__doc__": function.__doc__, "__module__": function.__module__, "name": name, "paper": paper}
    cls = type(name, (Method,), facts | {"Config": config} | body)
    METHODS.register(name, cls, f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}")
