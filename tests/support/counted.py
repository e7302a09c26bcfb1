"""MACs of single functions, for tests of the counters."""

import torch
from torch import nn

from bench.measure import flops

SHAPE = (3, 8, 8)


class Applied(nn.Module):
    """Calls a function; holds a parameter of a shape, if given one."""

    def __init__(self, function, *shape):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(shape)) if shape else None

    def forward(self, x):
        return self.function(x) if self.weight is None else self.function(x, self.weight)


def products(function, *shape, before=nn.Identity):
    return flops.count(nn.Sequential(before(), Applied(function, *shape)), SHAPE).products
