"""What a prune gives: an ordinary network, and all that is known of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.deploy import carried, saved_file
from bench.deploy.apart import apart
from bench.deploy.carried import Carried
from bench.deploy.inputs import Inputs
from bench.deploy.known import Known
from bench.errors import RunFailed, SetupError, UsageError
from bench.files import write_atomic
from bench.measure.onnx_export import CHECKED_BATCHES, TOLERANCE, to_onnx
from bench.models.error_place import first_line
from bench.models.logits import with_logits
from bench.models.shared_parameters import copied
from bench.pruning.cost_model import CostModel
from bench.pruning.sites import Sites
from bench.spec.spec import Budget
from bench.spec.wording import plural

STEP, SHOWN, FEW = 8, 8, 10
"""Channels that runtimes compute together, at least; widths that a summary lists of those that are no multiples;
of a site that one unit in more than so many is left, it warns."""
CONTROLS = "dense, random, l1_norm, uniform_thin, uniform_thin_long"
"""Compulsory on a board (RULES.md, 9)."""


@dataclass(frozen=True)
class PrunedNetwork:
    """A sliced network.

    Attributes:
        network: an ordinary module of the class of the one that was given, without any hook of the suite.
        masks: site -> bool ``[units of the first dense network]``, True stays.
        widths: site -> units before and after, of the first dense network.
        sites: of ``network``, for a further prune.
        rejected: layer -> why it has no units that can be cut.
        cost: what it costs, ``dense`` and ``pruned``: ``macs``, ``by_operator``, ``params``, ``bytes``; what was
            ``asked``: a kind of budget and its share; for one of milliseconds ``latency``, as in records.
        difference: largest difference between the outputs of gated and sliced network, relative to the largest one
            where that exceeds 1.
        method: its name and options.
    """

    network: nn.Module
    masks: Mapping[str, Tensor]
    widths: Mapping[str, tuple[int, int]]
    sites: Sites
    rejected: Mapping[str, str]
    cost: Mapping[str, Any]
    difference: float
    method: Mapping[str, Any]
    _carried: Carried = field(repr=False)
    _known: Known = field(repr=False)
    _costs: CostModel = field(repr=False)
    _logits: Any = field(repr=False)

    def summary(self) -> str:
        """A text: one row a site, then the costs."""
        asked = ", ".join(f"{kind}={share:g}" for kind, share in self.cost["asked"].items())
        name = max(map(len, ["site", *self.widths]))
        lines = [f"{self.method['name']}, {asked}", f"{'site':{name}}  before  after"]
        lines += [f"{site:{name}}  {before:6}  {after:5}" for site, (before, after) in self.widths.items()]
        for what, unit in (("macs", "MACs"), ("params", "parameters"), ("bytes", "bytes")):
            before, after = self.cost["dense"][what], self.cost["pruned"][what]
            lines.append(f"{unit}: {before:,} -> {after:,} ({after / before:.4f})")
        if latency := self.cost.get("latency"):
            last = latency["rounds"][-1]
            share, asked = last["ms"] / last["dense_ms"], plural(len(latency["rounds"]), "measurement")
            predicted = f"{last['predicted']:.3f} predicted, {asked}"
            lines.append(f"ms: {last['dense_ms']:.3f} -> {last['ms']:.3f} ({share:.4f}); {predicted}")
        steps = self._known.costs.steps(Budget(round_to=STEP))
        odd = {after for name, (before, after) in self.widths.items() if after % steps[name] and after < before}
        if odd and "latency" not in self.cost:
            some = _first(map(str, sorted(odd)))
            lines.append(f"widths {some}: no multiples of {STEP} channels, which are often faster: see round_to")
        if thin := [site for site, (before, after) in self.widths.items() if FEW * after < before]:
            lines.append(f"{_first(thin)}: less than a tenth stays; ranking='layer' or min_keep spreads the cut")
        lines.append(f"largest difference between gated and sliced network: {self.difference:.2g}")
        lines.append(f"no row of a board: the controls are missing ({CONTROLS})")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """All but the network, as JSON holds it."""
        return {
            "method": dict(self.method),
            "widths": {site: list(pair) for site, pair in self.widths.items()},
            "masks": {site: "".join(str(int(kept)) for kept in mask.tolist()) for site, mask in self.masks.items()},
            "rejected": dict(self.rejected),
            "cost": dict(self.cost),
            "difference": self.difference,
            "coupling": self.sites.coupling,
            "shape": list(self._known.shape),
        }

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that :func:`bench.load` reads: weights, kept channels, outputs to compare with.

        Raises UsageError for another suffix than ``.safetensors``, SetupError when it cannot be written.
        """
        if Path(path).suffix != ".safetensors":
            raise UsageError(f"{path}: give it the suffix .safetensors")
        with apart():
            saved_file.save(Path(path), self.network, self._known.cut(self.masks), self.as_dict())

    def export(self, path: str | Path, replace: bool = False) -> None:
        """Write the network as ``.onnx`` or, by ``torch.export``, ``.pt2``, after comparing the outputs.

        Its input is float32 ``[batch, ...]`` of any batch. With ``logits`` an ONNX file has these alone.

        Raises:
            UsageError: another suffix, or the file is there and is not to be replaced.
            SetupError: a package is missing, or the file cannot be written.
            RunFailed: the network cannot be exported, or the file computes something else.
        """
        path = Path(path)
        if path.suffix not in (".onnx", ".pt2"):
            raise UsageError(f"{path}: the file's suffix says what it is, .onnx or .pt2")
        network, known = copied(self.network), self._known
        if path.suffix == ".onnx" and known.inputs:
            raise UsageError(f"{path}: networks of several inputs are written as .pt2 alone")
        if os.path.exists(path) and not replace:  # pathlib raises for a name that is too long
            raise UsageError(f"{path} is already there: choose another name, or replace=True")
        with apart():
            if path.suffix == ".onnx":
                to_onnx(with_logits(network, self._logits), known.shape, path, replace=replace)
            else:
                _to_program(network, known.shape, known.inputs, path)

    def optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer of the network that was given, for this one: momentum and moments of what was kept."""
        return carried.mapped(self._carried, self.network, optimizer)

    def follow(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``tensors`` (name of a parameter or buffer -> tensor of its shape, an average say), cut like the network."""
        return carried.follow(self._carried, tensors)


def _first(words: Iterable[str]) -> str:
    """The first words, and a sign that there are more."""
    first, more = (found := list(words))[:SHOWN], len(found) > SHOWN
    return ", ".join(first) + ", ..." * more


def _to_program(network: nn.Module, shape: tuple[int, ...], inputs: Inputs | None, path: Path) -> None:
    """Write ``network`` by ``torch.export``, in eval mode and float32 on the CPU; it is changed."""
    network = network.cpu().float().eval().requires_grad_(False)
    x, batch = torch.zeros(2, *shape), {0: torch.export.Dim("batch")}
    args, named = inputs.arguments(x) if inputs else ((x,), {})
    sizes = dict.fromkeys(named, batch) or (batch,) * len(args)
    try:
        program = torch.export.export(network, args, named, dynamic_shapes=sizes)
    except Exception as error:  # whatever the exporter raises
        raise RunFailed(f"torch.export fails: {first_line(error)}") from error
    try:
        write_atomic(path, lambda part: _checked_program(program, network, shape, inputs, part))
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}; choose another place") from error


def _checked_program(
    program: Any, network: nn.Module, shape: tuple[int, ...], inputs: Inputs | None, path: Path
) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        loaded = torch.export.load(file).module()
    for size in CHECKED_BATCHES:
        x = torch.randn(size, *shape, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            outputs = (saved_file.outputs_of(one, x, inputs) for one in (network, loaded))
            difference = saved_file.difference(*outputs)
        if not difference <= TOLERANCE:
            raise RunFailed(f"the exported program's outputs differ by {difference:.2g} from the network's")
