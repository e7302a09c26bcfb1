"""A sliced network as one safetensors file: its weights, and which channels of which layer they are of.

How many channels a layer keeps is not enough: a shortcut that pads channels (:class:`bench.models.layers.ChannelPad`)
depends on which ones. So a file holds, for each cut layer and side, the channels that stay, and loading slices a fresh
dense network by them. The outputs for seeded inputs are in the file, too, and are compared after loading.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench import __version__
from bench.deploy.inputs import Inputs, called
from bench.errors import RunFailed, SetupError, UsageError
from bench.models.error_place import first_line
from bench.models.shared_parameters import copied
from bench.models.torch_state import undisturbed
from bench.pruning.blocks import Block, remove
from bench.pruning.slicing import ChannelSlice, Number, channels, part, slice_network
from bench.records import bits
from bench.spec.digest import digest
from bench.training.checkpoint import load_metadata, load_tensors, save_tensors

KEY, HASH = "bench", "bench_sha256"
"""Of the file's metadata: JSON of what it is, and its hash."""
FORMAT = 1
OUTPUTS = "bench.outputs."
"""Begins the names of the tensors that are outputs for seeded inputs."""
BATCH = 2
SAME = 1e-4
"""Largest difference between outputs, as a share of the largest one."""


@dataclass(frozen=True)
class Shape:
    """How a sliced network is made of a dense one.

    Attributes:
        input: shape of one input.
        whole: parameter or buffer of the dense network -> its shape.
        kept: layer -> side -> bool ``[channels]``, True stays.
        numbers: what counts units, each with how many stay.
        inputs: what lies where in ``input``, where there are several.
        blocks: that are removed whole.
    """

    input: tuple[int, ...]
    whole: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, Mapping[str, Tensor]]
    numbers: tuple[tuple[Number, int], ...]
    inputs: Inputs | None = None
    blocks: tuple[Block, ...] = ()


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name of a parameter or buffer that is saved -> its shape."""
    return {name: tuple(t.shape) for name, t in network.state_dict().items() if isinstance(t, Tensor)}


def save(path: Path, network: nn.Module, shape: Shape, facts: Mapping[str, Any]) -> None:
    """Write ``network``, made as ``shape`` says; ``facts`` are kept as they are. Raises SetupError."""
    kept = {
        layer: {side: [len(mask), bits.pack(mask.numpy())] for side, mask in sides.items()}
        for layer, sides in shape.kept.items()
    }
    described = {
        "format": FORMAT,
        "versions": {"bench": __version__, "torch": str(torch.__version__)},
        "input": list(shape.input),
        "inputs": None if shape.inputs is None else [list(map(list, shape.inputs.shapes)), list(shape.inputs.names)],
        "whole": {name: list(size) for name, size in shape.whole.items()},
        "kept": kept,
        "numbers": [[*dataclasses.astuple(number), units] for number, units in shape.numbers],
        "blocks": [dataclasses.astuple(block) for block in shape.blocks],
        "facts": dict(facts),
    }
    outputs = _outputs(network, shape.input, shape.inputs)
    tensors = {**network.state_dict(), **{f"{OUTPUTS}{k}": out for k, out in enumerate(outputs)}}
    try:
        save_tensors(path, tensors, {KEY: json.dumps(described, sort_keys=True), HASH: digest(described)})
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}; choose another place") from error


def load(path: Path, build: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a file of :func:`save`, on the CPU in eval mode, and what the file says of it.

    Args:
        path: of the file.
        build: makes the dense network; its weights do not matter.

    Raises:
        UsageError: no such file, another one, or ``build`` makes another network.
        RunFailed: the file is damaged, or the network computes something else than the saved one.
    """
    if isinstance(build, nn.Module) or not callable(build):
        raise UsageError(f"build is a {type(build).__name__}: give a function or class that makes the dense network")
    described, tensors = _read(path)
    try:
        shape, facts = _shape_of(described), {**described["facts"], "versions": described["versions"]}
    except Exception as error:  # whatever such a text leads to
        raise RunFailed(f"{path} says of channels what cannot be: {first_line(error)}") from error
    with undisturbed():
        try:
            network = build()
        except Exception as error:  # whatever the user's own code raises
            raise UsageError(f"build fails: {first_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"build gives a {type(network).__name__}, not the dense network")
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        raise UsageError("build gives tensors without memory (device meta): build the network on the CPU")
    _require_same(shapes_of(network), shape.whole)
    outputs = [tensors.pop(name) for name in [f"{OUTPUTS}{k}" for k in range(len(tensors))] if name in tensors]
    try:
        network = _sliced(network.cpu(), shape)
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            if name in tensors:
                tensor.data = tensor.data.to(tensors[name].dtype)
        network.load_state_dict(tensors)
        found = _outputs(network.eval(), shape.input, shape.inputs)
    except UsageError:
        raise
    except Exception as error:  # torch's for other keys and sizes; whatever the network's own code raises
        raise RunFailed(f"{path}: the network of build does not take the file: {first_line(error)}") from error
    worst = difference(outputs, found)
    if not worst <= (SAME if all(out.dtype in (torch.float32, torch.float64) for out in outputs) else 100 * SAME):
        raise RunFailed(
            f"{path}: the loaded network's outputs differ by {worst:.2g} of the largest from the saved one's: "
            "build makes another network, or the file was changed"
        )
    return network, facts


def _shape_of(described: Mapping[str, Any]) -> Shape:
    """What :func:`save` was given."""
    several = described["inputs"]
    kept = {
        layer: {side: torch.from_numpy(bits.unpack(packed, count)) for side, (count, packed) in sides.items()}
        for layer, sides in described["kept"].items()
    }
    return Shape(
        input=tuple(described["input"]),
        whole={name: tuple(size) for name, size in described["whole"].items()},
        kept=kept,
        numbers=tuple((Number(*number), units) for *number, units in described["numbers"]),
        inputs=Inputs(tuple(map(tuple, several[0])), tuple(several[1])) if several else None,
        blocks=tuple(Block(name, tuple(e), tuple(norms), after) for name, e, norms, after in described["blocks"]),
    )


def _sliced(network: nn.Module, shape: Shape) -> nn.Module:
    """A dense network, cut in place."""
    cuts = []
    for layer, sides in shape.kept.items():
        n_in, n_out = channels(part(network, layer))
        for side, mask in sides.items():
            if len(mask) != (n_in if side == "in" else n_out):
                raise UsageError(f"{layer}: {len(mask)} channels in the file, {n_in if side == 'in' else n_out} here")
            every = torch.arange(len(mask))
            cuts.append((ChannelSlice(layer, side, every, every), mask))
    return remove(slice_network(network, cuts, shape.numbers, in_place=True), shape.blocks)


def outputs_of(network: nn.Module, x: Tensor, inputs: Inputs | None = None) -> list[Tensor]:
    """All tensors of the network's output."""
    return [leaf for leaf in tree_leaves(called(network, inputs, x)) if isinstance(leaf, Tensor)]


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    """Largest difference between two outputs, as a share of the largest number; infinite for other shapes."""
    if [t.shape for t in one] != [t.shape for t in other]:
        return float("inf")
    pairs = [(a.double(), b.double()) for a, b in zip(one, other, strict=True) if a.numel()]
    largest = max([float(a.abs().max()) for a, _ in pairs], default=0.0)
    return max([float((a - b).abs().max()) for a, b in pairs], default=0.0) / (largest or 1.0)


def _outputs(network: nn.Module, shape: tuple[int, ...], inputs: Inputs | None) -> list[Tensor]:
    """Outputs of a copy on the CPU in eval mode, for seeded inputs."""
    with undisturbed(), torch.no_grad():
        copy = copied(network).cpu().eval()
        dtype = next((p.dtype for p in copy.parameters() if p.is_floating_point()), torch.float32)
        x = torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        return [out.detach().clone() for out in outputs_of(copy, x, inputs)]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if path.suffix in (".pt", ".pth"):
        raise UsageError(f"{path}: such files run code when loaded; save it as .safetensors")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        tensors, metadata = load_tensors(path), load_metadata(path)
    except RunFailed as error:
        raise RunFailed(f"{path} cannot be read: it is damaged, or no safetensors file") from error
    if KEY not in metadata:
        raise UsageError(f"{path} says of no channels which ones stay: it is not of PrunedNetwork.save")
    try:
        described = json.loads(metadata[KEY])
    except (ValueError, RecursionError):
        described = None
    if not isinstance(described, dict) or digest(described) != metadata.get(HASH):
        raise RunFailed(f"{path} was changed since it was saved: what it says of channels has another hash")
    if described.get("format") != FORMAT:
        raise UsageError(f"{path} has format {described.get('format')}, this version reads {FORMAT}")
    return described, tensors


def _require_same(here: Mapping[str, tuple[int, ...]], there: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UsageError unless the dense network has the tensors that the file's had."""
    for name, size in there.items():
        if name not in here:
            raise UsageError(f"{name}: in the file, not in the network of build")
        if here[name] == size:
            continue
        places = [k for k in range(min(len(size), len(here[name]))) if size[k] != here[name][k]]
        if len(size) == len(here[name]) and places in ([0], [1]):
            k = places[0]
            raise UsageError(f"{name}: {size[k]} channels in the file, {here[name][k]} here")
        raise UsageError(f"{name}: {list(size)} in the file, {list(here[name])} here")
    if more := [name for name in here if name not in there]:
        raise UsageError(f"{more[0]}: in the network of build, not in the file")
