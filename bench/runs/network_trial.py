"""One network and its slices, used as a run uses them: which memory format it takes, and which sites can be cut."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import BenchError, RunFailed
from bench.measure import flops
from bench.measure.environment import autocast
from bench.models.error_place import first_line, innermost_layer, place_in_network
from bench.models.logits import PICK
from bench.models.memory_format import LAYOUTS, laid_out, place
from bench.models.shared_parameters import copied, twins
from bench.models.torch_state import drawn, seed_generators
from bench.pruning.site_discovery import no_site
from bench.pruning.sites import Site, Sites
from bench.spec.recipe import Recipe, Stage
from bench.spec.spec import WIDTH
from bench.training.batchnorm import reestimate
from bench.training.checkpoint import load_tensors, save_tensors
from bench.training.optimizer import make_optimizer

BATCH = 4
"""Most images at once."""
DRAWS = 16
"""Further forwards while training of a network that draws random numbers there, such as one of random depth."""
STAGE = Stage(epochs=1, lr=1e-3)
SAME = 1e-4
"""Largest difference between equal outputs, relative to the largest one."""


@dataclass(frozen=True)
class Situation:
    """How a run uses its network; equal situations have equal results.

    Attributes:
        shape: of one image.
        classes: logits of one image.
        coupling: of its sites.
        recipe: as far as it matters here.
        device: where it runs.
        precision: ``fp32`` or ``bf16``, of its training.
        units: kinds of its units: ``width``, ``depth`` or ``both``.
    """

    shape: tuple[int, int, int]
    classes: int
    coupling: str
    recipe: Recipe
    device: torch.device
    precision: str
    units: str = WIDTH

    def __post_init__(self) -> None:
        given = self.recipe
        recipe = Recipe(
            "",
            STAGE,
            STAGE,
            batch_size=min(given.batch_size, BATCH),
            momentum=given.momentum,
            nesterov=given.nesterov,
            weight_decay=given.weight_decay,
            label_smoothing=given.label_smoothing,
            recalibrate=min(given.recalibrate, 1),
        )
        object.__setattr__(self, "recipe", recipe)
        object.__setattr__(self, "shape", tuple(self.shape))


class Trial:
    """A network and its slices in the situation of a run."""

    def __init__(self, network: nn.Module, situation: Situation, images: Tensor | None) -> None:
        self.network, self.situation = network, situation
        self.layout = next(iter(LAYOUTS))
        self.when = ""  # what is being done with it
        self.used = network
        self.evaluated: set[str] = set()  # layers that eval mode uses
        generator, batch = torch.Generator().manual_seed(0), situation.recipe.batch_size
        noise = torch.randn(batch, *situation.shape, generator=generator)
        bright = 2 * noise.abs()
        given = [] if images is None else [images[:batch].cpu()]
        self.images = [noise, bright, -bright, *given]

    def choose_layout(self) -> str:
        """Use the dense network, in the first layout that it takes; returns why that is not channels-last.

        Raises RunFailed where it takes none.
        """
        same = twins(self.network)
        if same:
            raise RunFailed(f"{' and '.join(same)} share their memory: make them one Parameter")
        causes: list[str] = []
        for self.layout in LAYOUTS:
            error = self.failure(lambda: copied(self.network))
            if error is None:
                self._require_fixed_cost()
                return causes[0] if causes else ""
            causes.append(self._cause(error))
        raise RunFailed(causes[-1])

    def sound(self, sites: Sites) -> Sites:
        """``sites`` without those whose slice fails; raises RunFailed where none is left."""
        kept, rejected = dict(sites), dict(sites.rejected)
        while kept:
            bad = self._failing(kept, sites.coupling)
            if not bad:
                return Sites(kept, rejected, sites.coupling)
            rejected |= bad
            kept = {name: site for name, site in kept.items() if name not in bad}
        raise no_site(self.network, rejected)

    def failure(self, make: Callable[[], nn.Module]) -> Exception | None:
        """What fails when the networks of ``make``, which are equal, are used as in a run."""
        try:
            self.used = network = self._place(make())
            self._evaluate(network)
            self._train(network)
            self._reload(network, self._place(make()))
        except Exception as error:  # whatever a network's own code raises
            return error
        return None

    # --- what a run does -----------------------------------------------------------------------------------------

    def _evaluate(self, network: nn.Module) -> None:
        """Use it as evaluation and latency do."""
        self.when = "in eval mode"
        network.eval()
        with torch.inference_mode(), self._watched(network):
            logits = [self._logits(network, x) for x in self._placed()]
            again = self._logits(network, next(self._placed()))
            if not all(bool(each.isfinite().all()) for each in logits):
                raise RunFailed("its logits are not finite in eval mode")
            if not _equal(logits[0], again):
                raise RunFailed("two passes over the same images give different logits in eval mode")
            one = network(next(self._placed())[:1])
        if one.numel() != self.situation.classes:
            raise RunFailed(f"it gives {_format_output(one)} for one image, not {self.situation.classes} logits")

    def _train(self, network: nn.Module) -> None:
        """Two steps of the optimizer on different images, then forwards that draw other random numbers."""
        recipe, classes = self.situation.recipe, self.situation.classes
        self.when = "while training" + " with batch_size=1" * (recipe.batch_size == 1)
        optimizer = make_optimizer(network.parameters(), STAGE, recipe)
        network.train()
        for step, x in enumerate(list(self._placed())[-2:]):
            seed_generators(step)
            before = drawn()
            with autocast(self.situation.device, self.situation.precision):
                logits = self._logits(network, x)
            labels = torch.arange(len(x), device=x.device) % classes
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
            if step == 0 and not bool(loss.isfinite()):
                raise RunFailed(f"its loss is {loss.item()} before any training")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        random = drawn() != before
        with torch.no_grad(), autocast(self.situation.device, self.situation.precision):
            for draw in range(DRAWS if random else 0):
                seed_generators(len(self.images) + draw)
                self._logits(network, list(self._placed())[draw % len(self.images)])
        if recipe.recalibrate:
            self.when = "while batch norm is re-estimated"
            reestimate(network, self._placed(), lambda: autocast(self.situation.device, self.situation.precision))

    def _reload(self, network: nn.Module, other: nn.Module) -> None:
        """Write its state to a file and read it into the other one: the same outputs."""
        self.when = "when it is saved and loaded"
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            file = Path(folder) / "network.safetensors"
            save_tensors(file, network.state_dict())
            other.load_state_dict(load_tensors(file))
        with torch.inference_mode():
            before, after = (each.eval()(next(self._placed())) for each in (network, other))
        if not _equal(before, after):
            raise RunFailed("saved and loaded again it gives other logits: its state_dict lacks something")

    def _require_fixed_cost(self) -> None:
        """Raise RunFailed where the MACs depend on the image: a count on one would say nothing of others."""
        none = torch.zeros(1, *self.situation.shape)  # what is counted
        counts = sorted(set(flops.products(self.network, [none, *self.images])))
        if len(counts) > 1:
            raise RunFailed(
                f"its forward takes {counts[0]:,} MACs for some images and {counts[-1]:,} for others: "
                "they have to be the same for all"
            )

    # --- details -------------------------------------------------------------------------------------------------

    def _place(self, network: nn.Module) -> nn.Module:
        return place(network, self.situation.device, self.layout)

    def _placed(self) -> Iterator[Tensor]:
        for x in self.images:
            yield laid_out(x.to(self.situation.device), self.layout)

    def _logits(self, network: nn.Module, x: Tensor) -> Tensor:
        logits = network(x)
        wanted = len(x), self.situation.classes
        if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
            given, remedy = _format_output(logits), "" if isinstance(logits, Tensor) else PICK
            raise RunFailed(f"it gives {given} for {len(x)} images {self.when}, not logits {wanted}{remedy}")
        return logits

    @contextlib.contextmanager
    def _watched(self, network: nn.Module) -> Iterator[None]:
        """Within the block, layers that are called are noted."""
        handles = [
            module.register_forward_pre_hook(lambda *_, name=name: self.evaluated.add(name))
            for name, module in network.named_modules()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _failing(self, sites: dict[str, Site], coupling: str) -> dict[str, str]:
        """Site -> why its slice fails, by halving: one test when all is well."""
        some = Sites(sites, {}, coupling)
        generator = torch.Generator().manual_seed(0)
        masks = {n: torch.randperm(w, generator=generator) < (w + 1) // 2 for n, w in some.widths.items()}
        masks = some.settled(masks)
        error = self.failure(lambda: some.slice(self.network, masks))
        if error is None:
            return {}
        why, names = self._cause_at_site(error), list(sites)
        if len(names) == 1:
            return {names[0]: why}
        half = len(names) // 2
        found: dict[str, str] = {}
        for part in (names[:half], names[half:]):
            found |= self._failing({name: sites[name] for name in part}, coupling)
        return found or dict.fromkeys(names, why)  # they fail together only

    def _cause(self, error: Exception) -> str:
        """What fails, when and where, in one line."""
        if isinstance(error, BenchError):
            return first_line(error)
        where = place_in_network(error, self.used)
        return f"it fails {self.when} with {first_line(error)}" + (f" ({where})" if where else "")

    def _cause_at_site(self, error: Exception) -> str:
        """What fails in a slice, in one line."""
        layer = innermost_layer(error, self.used)
        if layer and layer not in self.evaluated:
            where = place_in_network(error, self.used)
            return f"a layer that only training uses reads it: {first_line(error)} ({where})"
        return f"without half of its units {self._cause(error)}"


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs are equal but for rounding; what is not a number equals itself."""
    finite = one[one.isfinite()].abs()
    largest = float(finite.max()) if len(finite) else 0.0
    return torch.allclose(one.float(), other.float(), rtol=0, atol=SAME * largest, equal_nan=True)


def _format_output(output: Any) -> str:
    """What a network returned, for a message."""
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} of {', '.join(map(str, output))}"
    if isinstance(output, Sequence):
        return f"a {kind} of {' and '.join(map(_format_output, output))}"
    return f"a {kind}"
