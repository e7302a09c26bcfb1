"""Parameters that a slice cannot cut, because they are shared or computed; copies of networks that have some."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.utils._pytree import tree_leaves


def uncut(network: nn.Module) -> dict[str, str]:
    """Layer -> why its tensors cannot be sliced, as a clause that follows "its": ``weight is also conv2's``."""
    return _shared(network) | _computed(network)


def twins(network: nn.Module) -> list[str]:
    """Names of Parameters that share their memory with another one; a copy of the network would part them.

    Layers with one and the same Parameter are no twins.
    """
    owner: dict[int, str] = {}
    for name, parameter in network.named_parameters():
        first = owner.setdefault(parameter.data_ptr(), name) if parameter.numel() else name
        if first != name:
            return [first, name]
    return []


def copied(network: nn.Module) -> nn.Module:
    """A deep copy; the network itself is left alone.

    Torch copies no tensor that was computed from others with gradients, such as the weight of a layer under
    ``weight_norm`` or a feature map that a forward kept. The copy has its value.
    """
    kept = [t for module in network.modules() for t in tree_leaves(_contents(module)) if isinstance(t, Tensor)]
    return copy.deepcopy(network, {id(t): t.detach().clone() for t in kept if not t.is_leaf})


def _contents(module: nn.Module) -> list[Any]:
    """What a module holds other than Parameters and modules. Most of its tables are empty: walking them is slow."""
    values = [value for name, value in vars(module).items() if name not in ("_parameters", "_modules")]
    return [value for value in values if not (isinstance(value, dict | list | tuple) and not value)]


def shared(network: nn.Module) -> nn.Module:
    """A shallow copy, with the tensors of ``network`` itself, for a temporary slice."""
    tensors = (*network.parameters(), *network.buffers())
    return copy.deepcopy(network, {id(t): t for t in tensors})


@torch.no_grad()
def plain(network: nn.Module) -> nn.Module:
    """``network`` in eval mode with every computed weight made a parameter, in place: the same function of images."""
    for module in list(network.eval().modules()):
        if parametrize.is_parametrized(module):  # remove_parametrizations would change the class of every copy
            of: Any = module.parametrizations
            made = {name: getattr(module, name) for name in of}
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, value in made.items():
                setattr(module, name, nn.Parameter(value))
        for key, hook in list(module._forward_pre_hooks.items()):
            name = next((n for n in ("weight", "bias") if _serves(hook, n) and n in vars(module)), None)
            if name is not None:
                hook(module, ())  # the tensor may be older than what it is made of
                del module._forward_pre_hooks[key]
                setattr(module, name, nn.Parameter(vars(module).pop(name)))
    return network


def _shared(network: nn.Module) -> dict[str, str]:
    """Layers with a tensor whose memory belongs to another layer too."""
    owners: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for layer, module in network.named_modules():
        tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, tensor in dict(tensors).items():
            if tensor.numel():
                owners[tensor.data_ptr()].append((layer, name))
    found = {}
    for same in owners.values():
        for layer, name in same:
            other = next((each for each in same if each[0] != layer), None)
            if other:
                found[layer] = f"{name} is also {_possessive(*other, name)}"
    return found


def _possessive(layer: str, name: str, known: str) -> str:
    owner = f"{layer}'s" if layer else "the network's"
    return owner if layer and name == known else f"{owner} {name}"


def _computed(network: nn.Module) -> dict[str, str]:
    """Layers with a weight or bias that is made of other parameters before each forward."""
    found = {}
    for layer, module in network.named_modules():
        for name in ("bias", "weight"):
            maker = _maker(module, name)
            if maker:
                found[layer] = f"{name} is parametrized ({maker[0]}); {maker[1]} first"
    return found


def _maker(module: Any, name: str) -> tuple[str, str] | None:
    """What computes the tensor ``name`` of ``module``, and what makes it a plain parameter; None where it is one."""
    if parametrize.is_parametrized(module, name):
        return _function(module.parametrizations[name][0]), "remove_parametrizations"
    if name in module._parameters or name in module._buffers or not isinstance(vars(module).get(name), Tensor):
        return None
    hook = next((h for h in module._forward_pre_hooks.values() if _serves(h, name)), None)
    if hook is None:
        return "set as a plain tensor", "make it a Parameter"
    if isinstance(hook, prune.BasePruningMethod):
        return "prune", "prune.remove"
    return _function(hook), f"remove_{_function(hook)}"


def _serves(hook: Any, name: str) -> bool:
    return name in (getattr(hook, "name", None), getattr(hook, "_tensor_name", None))


def _function(maker: Any) -> str:
    """The function that users call for a class of torch's: ``spectral_norm`` for ``_SpectralNorm``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(maker).__name__.strip("_")).lower()
