"""Verify a record: recompute what it claims. Needs no GPU, and data only to evaluate a stored network again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import record
from bench.archs import build
from bench.budget import CostModel
from bench.checkpoint import load_tensors
from bench.data import load_test, load_training
from bench.errors import BenchError, SetupError, UsageError
from bench.measure import flops
from bench.measure.quality import logits_of, quality
from bench.pipeline import arch_digest, masks_digest
from bench.registry import ARCHS, DATASETS
from bench.sites import Sites, find_sites
from bench.spec import Spec

TOP1_TOLERANCE = 1e-3
"""Difference in top-1 that another machine's arithmetic may make; one image at least."""


@dataclass(frozen=True)
class Check:
    """One line of a verification: ``ok``, ``FAILED`` or ``not run`` (with the reason)."""

    name: str
    outcome: str
    detail: str = ""


class _Absent(Exception):
    """Why a check cannot be made here."""


def verify_file(path: Path, out: Path, data_dir: Path) -> list[Check]:
    """All checks of one record, in rising cost.

    Args:
        path: the record.
        out: output folder with the record's artifacts.
        data_dir: data sets, to evaluate the stored network again.
    """
    try:
        found = record.load(path)
    except record.RecordError as error:
        return [Check("form", "FAILED", str(error))]
    checks = [Check("form and bounds", "ok")]

    def check(name: str, test: Callable[[], str]) -> None:
        try:
            checks.append(Check(name, "ok", test()))
        except (_Absent, SetupError) as why:
            checks.append(Check(name, "not run", str(why)))
        except (BenchError, AssertionError, KeyError, TypeError, ValueError, RuntimeError) as error:
            checks.append(Check(name, "FAILED", str(error) or type(error).__name__))

    check("own hash", lambda: _own_hash(found))
    check("specification's hash and file name", lambda: _identity(found, path))
    if found["status"] != "ok":
        checks.append(Check("numbers", "not run", f"the run {found['status']}: {found['error']['message']}"))
        return checks
    subject = _Subject(found, out)
    check("MACs and params from widths", subject.costs)
    check("masks", subject.check_masks)
    check("stored network", subject.check_file)
    check("accuracy of the stored network", lambda: subject.evaluate(data_dir))
    return checks


def _own_hash(found: Mapping[str, Any]) -> str:
    assert record.seal(found)["record_sha256"] == found["record_sha256"], "the content is not what was hashed"
    return ""


def _identity(found: Mapping[str, Any], path: Path) -> str:
    spec = Spec.from_dict(found["spec"])
    assert spec.sha256 == found["spec_sha256"], "spec_sha256 is not the hash of the specification"
    assert spec.recipe.sha256 == found["spec"]["recipe_sha256"], "recipe_sha256 is not the hash of the recipe"
    assert found["id"] == spec.id == path.stem, f"the specification's name is {spec.id}"
    return ""


class _Subject:
    """The network a record speaks of, rebuilt on the CPU."""

    def __init__(self, found: Mapping[str, Any], out: Path) -> None:
        self.record, self.folder = found, out / "artifacts" / found["id"]
        self._parts: tuple[nn.Module, Sites] | None = None

    def parts(self) -> tuple[nn.Module, Sites]:
        """Dense network and sites; raises _Absent when the architecture or data set is not known here."""
        spec = self.record["spec"]
        for registry, name in ((ARCHS, spec["arch"]), (DATASETS, spec["dataset"])):
            try:
                registry.require(name)
            except UsageError as why:
                raise _Absent(f"{registry.noun} '{name}' is not known here; give its file with --plugin") from why
        if self._parts is None:
            facts = DATASETS.get(spec["dataset"])
            network = build(spec["arch"], facts.shape, facts.classes, spec["seed"])
            self._parts = network, find_sites(network, facts.shape, spec["coupling"])
        return self._parts

    def costs(self) -> str:
        """Recount the sliced network from the recorded widths, with the model and with fvcore."""
        network, sites = self.parts()
        widths = self.record["structure"]["widths"]
        assert arch_digest(network) == self.record["structure"]["arch_sha256"], "the architecture is another one here"
        assert sites.widths == {n: w[0] for n, w in widths.items()}, "other sites"
        shape = DATASETS.get(self.record["spec"]["dataset"]).shape
        model = CostModel(network, sites, shape)
        after = {name: w[1] for name, w in widths.items()}
        first = {name: torch.arange(w[0]) < w[1] for name, w in widths.items()}
        sliced = sites.slice(network, first)
        claimed = self.record["cost"]
        for which, built, asked in (("dense", network, sites.widths), ("final", sliced, after)):
            counted, params = flops.count(built, shape).total, flops.parameters(built)
            assert claimed[which]["macs"] == counted == model.macs(model.array(asked)), (
                f"{which}: {claimed[which]['macs']:,} MACs claimed, {counted:,} counted"
            )
            assert claimed[which]["params"] == params, f"{which}: {claimed[which]['params']:,} params, not {params:,}"
        return f"{claimed['final']['macs']:,} MACs, {claimed['final']['params']:,} params"

    def masks(self) -> dict[str, Tensor]:
        """The stored masks."""
        return {n: m.bool() for n, m in load_tensors(self._artifact("masks")).items()}

    def check_masks(self) -> str:
        """Stored masks have the recorded hash and widths."""
        masks, structure = self.masks(), self.record["structure"]
        assert masks_digest(masks) == structure["masks_sha256"], "the stored masks are not the recorded ones"
        after = {name: w[1] for name, w in structure["widths"].items()}
        assert {n: int(m.sum()) for n, m in masks.items()} == after, "masks and widths differ"
        return ""

    def check_file(self) -> str:
        """The stored network has the recorded hash and fits the masks."""
        path = self._artifact("network")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest == self.record["artifacts"]["network"]["sha256"], "the file is not the recorded one"
        self._network()
        return ""

    def evaluate(self, data_dir: Path) -> str:
        """Evaluate the stored network on the test images again."""
        network, spec = self._network(), self.record["spec"]
        try:
            like = load_training(spec["dataset"], data_dir, False, spec["seed"], torch.device("cpu")).train
            test, digest = load_test(spec["dataset"], data_dir, like)
        except SetupError as error:
            raise _Absent(str(error)) from error
        assert digest == self.record["data"]["test_sha256"], "other test images"
        again = quality(logits_of(network, test.normalised(test.pixels)), test.labels)["top1"]
        claimed = self.record["metrics"]["final"]["top1"]
        tolerance = max(TOP1_TOLERANCE, 1.5 / len(test))
        assert abs(again - claimed) <= tolerance, f"top-1 {again:.4f}, claimed {claimed:.4f}"
        return f"top-1 {again:.4f}"

    def _network(self) -> nn.Module:
        dense, sites = self.parts()
        sliced = sites.slice(dense, self.masks())
        sliced.load_state_dict(load_tensors(self._artifact("network")))
        return sliced

    def _artifact(self, which: str) -> Path:
        path = self.folder / Path(self.record["artifacts"][which]["file"]).name
        if not path.is_file():
            raise _Absent(f"{path} is not here")
        return path
