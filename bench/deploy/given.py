"""What a user gives: a network, possibly wrapped, and an example of its input; checked before anything is copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from bench.deploy.inputs import Inputs, inputs_of, with_inputs
from bench.errors import UsageError
from bench.models.error_place import first_line
from bench.models.logits import with_logits
from bench.models.shared_parameters import copied, twins
from bench.models.torch_state import evaluating
from bench.spec.near_names import NEAR, near_matches

QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "torchao")
"""Where classes of quantized layers and tensors are defined."""
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Given:
    """A network as the user has it.

    Attributes:
        network: their own, without wrappers; never changed.
        kind: its class.
        example: one batch of its input, on its device; several inputs side by side, ``[B, n]``.
        device: where both are.
        group: processes that train it together, by ``DistributedDataParallel``; None for this one alone.
        inputs: what lies where in ``example``; None for a single input.
    """

    network: nn.Module
    kind: type[nn.Module]
    example: Tensor
    device: torch.device
    group: Any = None
    inputs: Inputs | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input, without the batch axis."""
        return tuple(self.example.shape[1:])

    def require_taken(self, x: Tensor, what: str) -> None:
        """Raise UsageError where a network of one input does not take ``x``, a batch of ``what``."""
        work = _widened(copied(self.network))
        work.__class__ = self.kind
        _tried(work, x, f"{what}: ", f"; example is {_size(self.example)}")

    @torch.no_grad()
    def restore(self, made: nn.Module) -> nn.Module:
        """``made``, a slice of a copy to work on, as the network itself is: class, dtypes, modes, what is trained."""
        made.__class__ = self.kind
        vars(made).pop("whole", None)
        if "whole" in vars(self.network):
            vars(made)["whole"] = vars(self.network)["whole"]
        tensors = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        for name, tensor in (*made.named_parameters(), *made.named_buffers()):
            tensor.data = tensor.data.to(tensors[name].dtype)
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(tensors[name].requires_grad)
        modes = {name: module.training for name, module in self.network.named_modules()}
        for name, module in made.named_modules():
            module.training = modes.get(name, self.network.training)
        return made


def given(
    network: Any, example: Any, logits: Callable[[Any], Any] | None = None, whole: Iterable[str] = ()
) -> tuple[Given, nn.Module]:
    """Both, checked, and a copy to work on; raises UsageError for what cannot be pruned. Random numbers may be drawn.

    The copy is at least in float32; its input is one tensor, and its output logits.

    Args:
        network: whatever a user gives.
        example: the same.
        logits: picks logits from its output; None where that is the logits.
        whole: names of layers to leave alone.
    """
    network, group = unwrapped(network)
    _require_plain(network)
    example, inputs = inputs_of(example)
    devices = dict.fromkeys(p.device for p in network.parameters())
    if not devices:
        raise UsageError("the network has no parameters: nothing can be cut")
    if len(devices) > 1:
        raise UsageError(f"the network's parameters are on {' and '.join(map(str, devices))}: put them on one device")
    (device,) = devices
    if example.device != device:
        raise UsageError(f"example is on {example.device}, the network on {device}")
    if device.type == "meta":
        raise UsageError("the network's tensors have no memory (device meta): put it on a device and load its weights")
    if same := twins(network):
        raise UsageError(f"{' and '.join(same)} share their memory: make them one Parameter")
    kind, names = type(network), {name for name, _ in network.named_modules()}
    for name in whole:
        if name not in names:
            near = near_matches(name, names - {""}) or sorted(names - {""})[:NEAR]
            raise UsageError(f"whole: '{name}' is no layer of the network: did you mean {' or '.join(near)}?")
    work = with_inputs(with_logits(copied(network), logits), inputs)
    batch = "" if inputs else f"; example is {list(example.shape)}, whose first axis is the batch"
    out = _tried(work, example, "", batch, inputs)
    if not isinstance(out, Tensor):
        raise UsageError(f"the network gives a {type(out).__name__}, no tensor: bench.prune(logits=) picks its logits")
    if broken := [name for name, tensor in work.named_parameters() if not bool(tensor.isfinite().all())]:
        raise UsageError(f"{broken[0]} is not finite: nothing can be said of its units; load weights from before that")
    if not bool(out.isfinite().all()):
        raise UsageError("the network's output for example is not finite: give an example that it works on")
    vars(work)["whole"] = (*getattr(work, "whole", ()), *whole)
    if example.dtype in HALF:
        example = example.float()
    example = example.clone() if example.is_inference() else example.detach()
    return Given(network, kind, example, device, group, inputs), _widened(work)


def _widened(work: nn.Module) -> nn.Module:
    """``work`` itself, at least in float32."""
    for tensor in (*work.parameters(), *work.buffers()):
        if tensor.dtype in HALF:
            tensor.data = tensor.data.float()
    return work


def _tried(work: nn.Module, x: Tensor, before: str, after: str, inputs: Inputs | None = None) -> Any:
    """What a copy gives for two of ``x``; its buffers stay. Raises UsageError: ``before``, the cause, ``after``."""
    kept = [(buffer, buffer.clone()) for buffer in work.buffers()]
    try:
        with torch.no_grad(), evaluating(work):
            out = work(x[:2])
            for buffer, value in kept:
                buffer.copy_(value)
    except UsageError:  # logits fails
        raise
    except Exception as error:  # whatever a network's own code raises
        why = f"the network does not take {inputs or _size(x)}: {first_line(error)}"
        raise UsageError(f"{before}{why}{after}") from error
    return out


def _size(batch: Tensor) -> str:
    of = "" if batch.is_floating_point() else f" of {batch.dtype}"
    return "x".join(map(str, batch.shape[1:])) + of


def unwrapped(network: Any) -> tuple[nn.Module, Any]:
    """The network inside of wrappers (DDP, DataParallel, a compiled one), and the processes that train it together."""
    group = None
    while True:
        if isinstance(network, DistributedDataParallel):
            group = network.process_group
        if isinstance(network, (DistributedDataParallel, DataParallel)):
            network = network.module
        elif type(network).__name__ == "OptimizedModule":  # of torch.compile, whose module takes a second to import
            network = network._orig_mod
        elif isinstance(network, torch.jit.ScriptModule):
            raise UsageError(f"the network is a {type(network).__name__}: prune the module that torch.jit compiled")
        elif isinstance(network, nn.Module):
            return network, group
        else:
            raise UsageError(f"the network is a {type(network).__name__}: give a torch.nn.Module")


def _require_plain(network: nn.Module) -> None:
    """Raise UsageError for parameters that are lazy, quantized or sharded."""
    for name, module in network.named_modules():
        where = name or type(module).__name__
        if type(module).__name__ == "FullyShardedDataParallel":
            raise UsageError(f"'{where}' is sharded (FSDP): prune first, then wrap")
        own = [parameter for _, parameter in module.named_parameters(recurse=False)]
        if any(is_lazy(p) for p in own):
            raise UsageError(f"layer '{where}' has no shape yet: run one batch first")
        kinds = [type(module).__module__, *(type(p.data).__module__ for p in own)]
        if any(kind.startswith(QUANTIZED) for kind in kinds) or any(p.is_quantized for p in own):
            raise UsageError(f"'{where}' is quantized: prune first")
        if any(type(p.data).__name__ == "DTensor" for p in own):
            raise UsageError(f"'{where}' is sharded (FSDP): prune first, then wrap")
