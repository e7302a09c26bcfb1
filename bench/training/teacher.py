"""Teachers: networks of snapshots, at the widths at which they were taken, that only answer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bench.errors import METHOD, RunFailed
from bench.models.shared_parameters import copied
from bench.training.masked_model import MaskedModel
from bench.training.snapshots import Taken

HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class Teachers:
    """The teachers of one run, made when they are first asked.

    Args:
        model: with the dense network; a teacher is a copy of that with a snapshot's weights.
    """

    def __init__(self, model: MaskedModel) -> None:
        self.model, self._dense, self._sites = model, model.network, model.sites
        self._networks: dict[str, tuple[Taken, nn.Module]] = {}
        self._answers: dict[str, tuple[Tensor, int, Tensor]] = {}

    @torch.no_grad()
    def logits(self, x: Tensor, tag: str) -> Tensor:
        """Logits ``[B, classes]`` of the snapshot ``tag`` for the images ``x``; the same images are passed once."""
        answer, model, costs = self._answers.get(tag), self.model, self.model.ledger.costs
        if answer is None or answer[0] is not x or answer[1] != x._version:
            network = self._network(tag)
            if tuple(x.shape[1:]) != costs.shape:
                wanted = ", ".join(map(str, costs.shape))
                raise RunFailed(f"ctx.teacher: images {list(x.shape)}, not [B, {wanted}]", blame=METHOD)
            with model.autocast():
                answer = self._answers[tag] = x, x._version, network(x).float()
            model.ledger.charge("teacher", tag, len(x), len(x) * costs.macs(costs.widths_of(network)), x=x)
        return answer[2]

    def forget(self) -> None:
        """The batch is over."""
        self._answers.clear()

    def _network(self, tag: str) -> nn.Module:
        taken, known = self._taken(tag), self._networks.get(tag)
        if known is None or known[0].state is not taken.state:
            network = unhooked(copied(self._dense), (*self.model.gates.hooks, *self.model.ledger.hooks))
            if taken.masks is not None:
                network = self._sites.bind(network).slice(network, taken.masks)
            network.load_state_dict(taken.state)
            self._networks[tag] = known = taken, network.eval().requires_grad_(False)
        return known[1]

    def _taken(self, tag: str) -> Taken:
        snapshots, masks = self.model.snapshots, self.model.sliced_by
        if tag == "init" or tag not in snapshots:
            there = ", ".join(sorted(set(snapshots) - {"init"})) or "none yet"
            raise RunFailed(f"ctx.teacher: no snapshot '{tag}' that was trained; there are {there}", blame=METHOD)
        return snapshots.taken.get(tag) or Taken(snapshots[tag], masks)


def unhooked(network: nn.Module, hooks: Iterable[int]) -> nn.Module:
    """``network``, a copy, without the hooks of these ids, which it shares with its original."""
    ids = set(hooks)
    for module in network.modules():
        for kind in HOOKS:
            for key in ids & getattr(module, kind).keys():
                del getattr(module, kind)[key]
    return network
