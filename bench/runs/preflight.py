"""Whether a network can be run: one test in the situation of a run, before anything is trained.

Whatever is going to use a network asks :func:`fit`: a run, the lists of sites and architectures, and what rebuilds
networks from records. The dense network and a slice of every site are used as a run uses them: in its memory format
and precision, in eval and in training mode, on different images, for two steps of its optimizer, through the
re-estimation of batch norm, and from a file. A site whose slice fails is rejected. A network that fails is refused.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import ARCHITECTURE, RunFailed, UsageError
from bench.models.torch_state import undisturbed
from bench.pruning.cost_model import CostModel
from bench.pruning.site_discovery import find_sites
from bench.pruning.sites import Sites
from bench.runs.network_trial import Situation, Trial
from bench.spec.digest import digest

KEPT = 32
"""Networks whose result is remembered."""


@dataclass(frozen=True)
class Fit:
    """What a run needs to know of a network that can be run.

    Attributes:
        layout: the memory format it runs in, one of ``LAYOUTS``.
        note: why that is not channels-last; empty where it is.
        sites: its sites.
        model: its cost as a function of their widths.
        seconds: of CPU time for its sites, and for the model.
    """

    layout: str
    note: str
    sites: Sites
    model: CostModel
    seconds: tuple[float, float]


_known: OrderedDict[Any, Fit] = OrderedDict()


def fit(name: str, network: nn.Module, situation: Situation, images: Tensor | None = None) -> Fit:
    """Test ``network``; of one architecture once, as its weights are not what can fail.

    Args:
        name: of the architecture, for messages.
        network: on the CPU; left as it was.
        situation: how it will be used.
        images: used in addition to random ones, normalised.

    Raises:
        UsageError: it cannot be run, with the first line of the true error and its place.
    """
    shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items() if isinstance(tensor, Tensor)}
    key = name, digest([str(network), shapes, sorted(getattr(network, "whole", ()))]), situation
    if key not in _known:
        with undisturbed():
            torch.use_deterministic_algorithms(situation.device.type == "cpu")
            _known[key] = _examined(name, network, Trial(network, situation, images))
        while len(_known) > KEPT:
            _known.popitem(last=False)
    _known.move_to_end(key)
    found = _known[key]
    model = copy.copy(found.model)
    if situation.coupling != "full":
        model.wider = partial(_with_full, network, situation)
    return dataclasses.replace(found, sites=found.sites.bind(network), model=model)


def _with_full(network: nn.Module, situation: Situation) -> CostModel:
    """The costs of ``network`` with coupling ``full``."""
    shape = situation.shape
    return CostModel(network, find_sites(network, shape, "full", situation.units), shape)


def _examined(name: str, network: nn.Module, trial: Trial) -> Fit:
    try:
        note = trial.choose_layout()
        situation = trial.situation
        began = time.process_time()
        sites = find_sites(network, situation.shape, situation.coupling, situation.units)
        found = time.process_time()
        sites = trial.sound(sites)
        tried = time.process_time()
        model = CostModel(network, sites, situation.shape)
        seconds = found - began, time.process_time() - tried
    except RunFailed as error:
        raise UsageError(f"architecture '{name}': {error}", blame=ARCHITECTURE) from error
    return Fit(trial.layout, note, sites.bind(nn.Identity()), model, seconds)  # its weights are not kept
