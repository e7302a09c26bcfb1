"""Networks defined elsewhere: torchvision's classifiers by name, and a function in a user's own file.

Their weights are drawn by their own code, under the run's seed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bench.errors import ARCHITECTURE, BenchError, RunFailed, SetupError, UsageError
from bench.models.layers import Attention
from bench.models.logits import PICK, with_logits
from bench.spec import registry
from bench.spec.near_names import unknown

Make = Callable[..., nn.Module]
"""``make(shape, num_classes, download=False)``."""


def torchvision_names() -> list[str]:
    """Every classification model that torchvision lists."""
    from torchvision import models

    return [str(name) for name in models.list_models(module=models)]


def torchvision_model(rest: str) -> Make:
    """``NAME`` with fresh weights, or ``NAME:WEIGHTS`` with torchvision's pretrained ones; raises UsageError.

    Adapted: a network for grey images has the sum of its first layer's weights over the colours (a grey image
    thus counts as three equal channels); pretrained weights get a new last layer for another number of classes;
    auxiliary classifiers go; attention is :class:`bench.models.layers.Attention`, whose heads are sites.
    """
    from torchvision import models

    name, _, which = rest.partition(":")
    if name not in torchvision_names():
        raise unknown("torchvision model", name, torchvision_names())
    weights = None
    if which:
        known = {each.name: each for each in models.get_model_weights(name)}  # no DEFAULT, which moves on
        if which not in known:
            raise unknown(f"weights of {name}", which, known)
        weights = known[which]

    def make(shape: tuple[int, int, int], num_classes: int, download: bool = False) -> nn.Module:
        options: dict[str, Any] = {}
        if name.startswith("vit_"):
            options["image_size"] = shape[1]
        if name == "maxvit_t":
            options["input_size"] = shape[1:]
        if name in ("googlenet", "inception_v3"):
            options |= {"aux_logits": weights is not None, "init_weights": weights is None}
        if weights is None:
            network = models.get_model(name, num_classes=num_classes, **options)
        else:
            network = _pretrained(rest, partial(models.get_model, name, weights=weights, **options), weights, download)
            _replace_last_layer(network, len(weights.meta["categories"]), num_classes)
        for auxiliary in ("aux1", "aux2", "AuxLogits"):
            if hasattr(network, auxiliary):
                setattr(network, auxiliary, None)
                network.aux_logits = False
        if name.startswith("mnasnet"):  # its own loader refuses weights without the version that only torch.save keeps
            vars(network)["_load_from_state_dict"] = partial(nn.Module._load_from_state_dict, network)
        return adapted(network, shape[0])

    return make


def adapted(network: nn.Module, in_channels: int) -> nn.Module:
    """``network``, made for colour images, for ``in_channels`` 1 or 3, and with attention that can be sliced."""
    if in_channels == 1:
        name, first = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
        first.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))
        first.in_channels = 1
    elif in_channels != 3:
        raise UsageError(f"images of {in_channels} channels: this network takes grey or colour images")
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.MultiheadAttention):
            parent = network.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], Attention.like(module))
    return network


def _pretrained(rest: str, make: Make, weights: Any, download: bool) -> nn.Module:
    """The network with its published weights; raises SetupError when they cannot be had."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not download and not file.is_file():
        raise SetupError(
            f"weights of torchvision:{rest} are not here: use --download, or put {file.name} in {file.parent}"
        )
    try:
        return make()
    except ValueError as error:  # another image size than the weights', say
        raise UsageError(f"torchvision:{rest}: {error}") from error
    except Exception as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0]
        raise SetupError(f"weights of torchvision:{rest} cannot be loaded from {file} ({why})") from error


def _replace_last_layer(network: nn.Module, classes: int, wanted: int) -> None:
    """Give the layer that makes ``classes`` logits fresh weights for ``wanted``, unless that is as many."""
    if classes == wanted:
        return
    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    name, last = next((n, m) for n, m in reversed(layers) if classes in m.weight.shape[:1])
    linear = isinstance(last, nn.Linear)
    new = nn.Linear(last.in_features, wanted) if linear else nn.Conv2d(last.in_channels, wanted, 1)
    setattr(network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], new)


def from_file(rest: str) -> Make:
    """``FILE:FUNCTION#HASH``: a function that returns a network, in a file made known before.

    It is given ``shape``, ``num_classes`` or ``in_channels`` where it has parameters of these names. Its attribute
    ``logits``, if it has one, picks the logits from the network's output. Raises UsageError.
    """
    file, function = registry.model_file(rest)
    factory = getattr(registry.import_file(file), function, None)
    if not callable(factory):
        raise UsageError(f"file:{rest}: {file.name} has no function '{function}'")
    parameters = inspect.signature(factory).parameters

    def make(shape: tuple[int, int, int], num_classes: int, download: bool = False) -> nn.Module:
        offered = {"shape": shape, "num_classes": num_classes, "in_channels": shape[0]}
        needed = [
            n for n, p in parameters.items() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if not set(needed) <= set(offered):
            odd = ", ".join(n for n in needed if n not in offered)
            raise UsageError(f"file:{rest}: '{function}' needs {odd}; it is given {', '.join(offered)} only")
        network = factory(**{n: value for n, value in offered.items() if n in parameters})
        if not isinstance(network, nn.Module):
            why = f"file:{rest}: '{function}' returned {type(network).__name__}, not a torch.nn.Module"
            raise RunFailed(why, blame=ARCHITECTURE)
        return with_logits(network, getattr(factory, "logits", None))

    return make


GREY = (
    "; the images are grey: save them as RGB, or begin a network for colours with a layer that repeats the channel, "
    "x.expand(-1, 3, -1, -1)"
)


WRAPPERS = ("OptimizedModule", "DataParallel", "DistributedDataParallel")


def _unusable(network: nn.Module) -> str | None:
    """What no run can use, as the end of a sentence; None where there is nothing of the kind."""
    if type(network).__name__ in WRAPPERS or isinstance(network, torch.jit.ScriptModule):
        return f"is of class {type(network).__name__}: return the module that it was made of"
    parameters = dict(network.named_parameters())
    for name, parameter in parameters.items():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            return f"has {name} in {parameter.dtype}: return it in float32, network.float()"
        if not (is_lazy(parameter) or parameter.is_meta or bool(parameter.isfinite().all())):
            return f"has weights that are not finite ({name}): load others"
    if parameters and not any(parameter.requires_grad for parameter in parameters.values()):
        return "has no parameter that can be trained: return it with requires_grad_(True)"
    return None


def require_fit(name: str, network: nn.Module, shape: tuple[int, int, int], num_classes: int) -> None:
    """Raise UsageError unless ``network`` maps images of ``shape`` to ``num_classes`` logits."""
    if why := _unusable(network):
        raise UsageError(f"architecture '{name}' {why}", blame=ARCHITECTURE)
    network.eval()
    try:
        with torch.no_grad():
            out = network(torch.zeros(2, *shape))
    except BenchError as error:
        raise UsageError(f"architecture '{name}': {error}", error.blame) from error
    except Exception as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0]
        raise UsageError(
            f"architecture '{name}' does not take images of {'x'.join(map(str, shape))} ({why}): "
            f"choose another data set or architecture{GREY if shape[0] == 1 else ''}"
        ) from error
    finally:
        network.train()
    found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
    if found != (2, num_classes):
        remedy = "" if isinstance(out, torch.Tensor) else PICK
        raise UsageError(f"architecture '{name}' gives {found} for two images, not logits (2, {num_classes}){remedy}")
