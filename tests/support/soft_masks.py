"""Trainings of methods that learn soft masks from a base."""

import torch
from support.networks import GREY, three_sites
from support.plans import carry_out, state_of

from bench.api import Phase
from methods.gal import SoftMaskFista

KEEP = {"width": 0.5, "depth": 0.7}


def start(make_training, method=SoftMaskFista, checkpoint=None, arch=None, units="width", **options):
    """A training from a base that was trained for an epoch."""
    torch.manual_seed(0)
    network = arch or three_sites()
    base = make_training(None, arch=network, shape=GREY, units=units)
    carry_out(base, (Phase(1),))
    base.model.remove_hooks()
    options = {"mask_every": 1, **options}

    class FromBase(method):
        def prepare(self, ctx):
            ctx._model.snapshots["base"] = state_of(ctx._model.network)
            super().prepare(ctx)

    FromBase.Config = method.Config
    method = FromBase(method.Config(**options))
    return make_training(method, arch=network, shape=GREY, checkpoint=checkpoint, units=units, keep=KEEP[units])
