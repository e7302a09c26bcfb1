"""A user's batches as a method sees training data: in the user's order, and the same in every pass."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map

from bench.data.image_set import Decoded, ImageSet
from bench.deploy.given import Given
from bench.deploy.inputs import packed
from bench.errors import DATA, BenchError, RunFailed, UsageError
from bench.models.error_place import first_line
from bench.models.torch_state import seed_generators
from bench.spec.digest import derive_seed

DEFAULT_BATCH = 128
"""Size of batches where there are none."""
PAIRS = "batches must be (inputs, targets)"
END = object()
"""In place of a batch after the last one."""


class NoTargets(Tensor):
    """In place of targets that a batch does not have: whatever is computed of it fails."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See the class."""
        raise UsageError(PAIRS)


class Targets(Tensor):
    """Targets of a batch, whose cross-entropy fails with what is wrong with them; all else of them is plain.

    Looked at before torch does: on a GPU a label that is out of range ends the process's use of it.
    """

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See the class."""
        with torch._C.DisableTorchFunctionSubclass():
            if function is not cross_entropy:
                return function(*args, **(kwargs or {}))
            logits, y = args[:2]
            if not y.is_floating_point() and logits.dim() > 1:
                wrong = y[(y != (kwargs or {}).get("ignore_index", -100)) & ((y < 0) | (y >= logits.shape[1]))]
                if len(wrong):
                    raise UsageError(f"label {int(wrong[0])}: the logits are of {logits.shape[1]} classes, from 0 on")
            try:
                return function(*args, **(kwargs or {}))
            except Exception as error:
                given = f"logits {list(logits.shape)} and targets {list(y.shape)} of {y.dtype}"
                raise UsageError(f"no cross-entropy of {given}: {first_line(error)}; give loss=") from error


class Batches(ImageSet):
    """An iterable of batches, read as far as a method asks.

    A loader that shuffles or augments draws its random numbers from generators of its own, which start again in each
    pass: so all passes give the same batches. A generator that the user gave to it starts as it is, and is left so.
    An iterator can be read once; what was read of it is kept.

    Args:
        data: the user's; None for none.
        method: name of the method, for messages.
        had: whose device and dtype inputs get.
        seed: of those random numbers.
        kind: what they are, and the argument that gives them.
    """

    def __init__(
        self, data: Any, method: str, had: Given, seed: int, kind: tuple[str, str] = ("training", "data")
    ) -> None:
        self.data, self.method, self.seed, self.kind = data, method, derive_seed(seed, "data"), kind
        self._device, self._dtype, self._inputs = had.device, had.example.dtype, had.inputs
        self._had, self._axes = had, had.example.dim()
        self._taken = {(had.example.shape[1:], had.example.dtype)}  # what the network was tried on
        if data is not None and not hasattr(data, "__iter__"):
            raise UsageError(f"{kind[1]} is a {type(data).__name__}: give an iterable of (inputs, targets)")
        self._once = data if isinstance(data, Iterator) else None
        self._read: list[Any] = []  # of an iterator
        holders = (data, getattr(data, "sampler", None))
        given = [generator for holder in holders if (generator := getattr(holder, "generator", None)) is not None]
        self._given = [(g, g.get_state()) for g in given if isinstance(g, torch.Generator)]

    def __len__(self) -> int:
        if isinstance(self.data, Sequence):
            return sum(len(self._as_pair(batch)[0]) for batch in self.data)
        dataset = getattr(self.data, "dataset", None)
        return len(dataset) if isinstance(dataset, Sized) else sys.maxsize

    @property
    def batch_size(self) -> int:
        """Size of the batches; reads the first one where the data does not say it."""
        if self.data is None:
            return DEFAULT_BATCH
        said = getattr(self.data, "batch_size", None)
        return said if isinstance(said, int) else len(self._as_pair(next(self._raw()))[0])

    def decoded(self, batches: Sequence[Tensor], generator: torch.Generator | None, augment: str) -> Decoded:
        """There are no images by their number; not called."""
        raise NotImplementedError

    def batches(
        self, size: int, generator: torch.Generator | None = None, augment: str = "none", drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The user's batches, as they are."""
        return map(self._as_pair, self._raw())

    def mixed(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The user's batches, in their order."""
        return self.batches(size)

    def rewind(self) -> None:
        """Leave the user's generators as they were."""
        for generator, state in self._given:
            generator.set_state(state)

    def _raw(self) -> Iterator[Any]:
        if self.data is None:
            what, argument = self.kind
            raise UsageError(
                f"method '{self.method}' looks at {what} batches: give {argument}, an iterable of (inputs, targets)"
            )
        empty = True
        for batch in self._pass():
            empty = False
            yield batch
        if empty:
            raise UsageError(f"{self.kind[1]} gave no batch")

    def _pass(self) -> Iterator[Any]:
        if self._once is not None:
            place = 0
            while True:
                if place == len(self._read):
                    batch = self._next(self._once)
                    if batch is END:
                        return
                    self._read.append(batch)
                yield self._read[place]
                place += 1
        own = _Generators(self.seed)
        self.rewind()
        with own.used():
            batches = iter(self.data)
        while True:
            with own.used():
                batch = self._next(batches)
            if batch is END:
                return
            yield batch

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, END)
        except BenchError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise RunFailed(f"{self.kind[1]} fails: {first_line(error)}", blame=DATA) from error

    def _as_pair(self, batch: Any) -> tuple[Tensor, Tensor]:
        whole = self._packed(batch)
        pair = batch if isinstance(batch, (tuple, list)) and whole is None else (batch,)
        found = self._packed(pair[0]) if whole is None and pair else whole
        if found is None or len(pair) > 2:
            kinds = ", ".join(f"shape {list(p.shape)}" if isinstance(p, Tensor) else type(p).__name__ for p in pair)
            like = f" ({self._inputs})" if self._inputs else f", of {self._axes} axes"
            raise UsageError(f"{PAIRS}, with inputs as in example{like}; there is one of {kinds}")
        inputs = _trainable(found.to(self._device, self._dtype if found.is_floating_point() else None))
        if not len(inputs):
            raise UsageError(f"{self.kind[1]} gave a batch of nothing")
        if not bool(inputs.isfinite().all()):
            raise UsageError(f"{self.kind[1]} gave inputs that are not finite")
        if (size := (inputs.shape[1:], inputs.dtype)) not in self._taken:
            self._had.require_taken(inputs, self.kind[1])
            self._taken.add(size)
        if len(pair) == 1:
            return inputs, torch.empty(0).as_subclass(NoTargets)
        if isinstance(pair[1], Tensor):
            return inputs, _trainable(pair[1].to(self._device)).as_subclass(Targets)
        return inputs, tree_map(lambda t: _trainable(t.to(self._device)) if isinstance(t, Tensor) else t, pair[1])

    def _packed(self, given: Any) -> Tensor | None:
        """A batch of inputs as one tensor; None if ``given`` is something else."""
        if self._inputs is None:
            return given if isinstance(given, Tensor) and given.dim() == self._axes else None
        tensors = self._inputs.tensors(given)
        return packed(tensors) if tensors else None


def _trainable(tensor: Tensor) -> Tensor:
    """``tensor``, copied where it was made in inference mode: no gradient could be taken through it."""
    return tensor.clone() if tensor.is_inference() else tensor


class Examples(ImageSet):
    """In place of validation images: the user's example, and noise of its shape, which a sliced network is compared on.

    Args:
        example: one batch.
        batches: of validation images, for a method that asks for some.
        count: most examples, and number of noises.
    """

    def __init__(self, example: Tensor, batches: Batches, count: int = 4) -> None:
        self._batches = batches
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(count, *example.shape[1:], generator=generator).to(example.device, example.dtype)
        self._images = torch.cat([example[:count], noise])

    @property
    def labels(self) -> Tensor:  # type: ignore[override]  # an attribute there; here it reads the user's batches
        """Of the validation batches."""
        return torch.cat([labels for _, labels in self._batches.batches(0)])

    def __len__(self) -> int:
        return len(self._batches)

    def decoded(self, batches: Sequence[Tensor], generator: torch.Generator | None, augment: str) -> Decoded:
        """There are no images by their number; not called."""
        raise NotImplementedError

    def batches(
        self, size: int, generator: torch.Generator | None = None, augment: str = "none", drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation batches, as they are."""
        return self._batches.batches(size)

    def mixed(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation batches, in their order."""
        return self._batches.batches(size)

    def first(self, size: int) -> Tensor:
        """At most so many inputs."""
        return self._images[:size]


class _Generators:
    """States of the global generators of torch, numpy and Python that belong to one pass."""

    def __init__(self, seed: int) -> None:
        before = self._now()
        seed_generators(seed)
        self._state = self._now()
        self._set(before)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the block random numbers come from here."""
        before = self._now()
        self._set(self._state)
        try:
            yield
        finally:
            self._state = self._now()
            self._set(before)

    @staticmethod
    def _now() -> tuple[Any, Any, Any]:
        return torch.get_rng_state(), np.random.get_state(), random.getstate()

    @staticmethod
    def _set(state: tuple[Any, Any, Any]) -> None:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])
        random.setstate(state[2])
