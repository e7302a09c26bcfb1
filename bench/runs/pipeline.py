"""The steps of one run: sites, dense baseline, training, prune, measuring."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from bench.data import loading
from bench.files import require_writable
from bench.measure import environment, flops, latency
from bench.measure.accuracy import correct, logits_of, quality
from bench.models.build import build
from bench.models.memory_format import LAYOUT, place
from bench.progress import Progress
from bench.pruning.blocks import as_text
from bench.pruning.cost_model import CostModel
from bench.pruning.latency_choice import LatencyChoice
from bench.records import bits, schema
from bench.records.schema import Record
from bench.runs import result
from bench.runs.identity import identify, packed_masks, require_resolved, suite_sha256
from bench.runs.latency_tables import DenseNetwork, choice_of
from bench.runs.method_factory import make_method
from bench.runs.network_trial import BATCH, Situation
from bench.runs.preflight import fit
from bench.runs.prune import prune
from bench.spec.off_limits import off_limits
from bench.spec.request import RunOptions
from bench.spec.spec import Budget, Spec
from bench.training import dense_baseline as bases
from bench.training.checkpoint import save_tensors, weight_bytes
from bench.training.compensation import require_layers
from bench.training.context import Context
from bench.training.loop import PhaseTrainer
from bench.training.masked_model import MaskedModel
from bench.training.method import Method
from bench.training.plan import PRUNE, Phase, Plan, check_plan, described


class RunPipeline:
    """The state of one run. Creating it checks everything that can be checked before training.

    Args:
        spec: what to run.
        options: where and how.
        progress: notified of every epoch and checkpoint; None: a new one on stderr.
        job: what the record says of the job that the run is part of; None outside of one.
    """

    def __init__(
        self, spec: Spec, options: RunOptions, progress: Progress | None = None, job: dict[str, Any] | None = None
    ) -> None:
        self.spec, self.options, self.job = spec, options, job
        self.began = datetime.now(UTC)
        self.seconds: dict[str, float] = {}
        self.device = environment.pick_device(options.device)
        if options.threads:
            torch.set_num_threads(options.threads)
        self.precision = require_resolved(spec, self.device)
        self.method = make_method(spec.method, spec.config)
        self.progress = progress or Progress(label(spec), options.quiet)
        self.cache = options.out / "cache"
        facts = loading.find(spec.dataset, options.data_dir, self.cache, self.progress)
        self.dataset = facts = facts.for_seed(spec.seed)
        self.shape, self.classes = facts.shape, facts.classes
        self.network = build(spec.arch, self.shape, self.classes, spec.seed, options.download)
        self.identity = identify(spec, self.method, self.network, self.device)
        require_writable(options.out, 16 * 2**20 + 40 * flops.parameters(self.network))
        self.data = loading.load_training(
            facts, options.data_dir, options.download, spec.seed, self.device, self.cache, self.progress
        )
        self.result = result.started(spec, options, self.identity.code, self.identity.environment, job)
        self.result = result.filled(self.result, data=self.data.facts)
        self.checkpoint = options.out / "checkpoints" / f"{spec.id}.pt"
        self.model: CostModel  # once the sites are known
        self.ctx: Context | None = None
        self.training: PhaseTrainer | None = None
        self.base: bases.Base | None = None

    # --- the steps -------------------------------------------------------------------------------------------

    def go(self) -> None:
        """All steps: sites, dense baseline, plan, measuring."""
        self._find_sites()
        with self._off_limits():
            self.method.require(self.sites)
            self.model = self.model.exempting(n for n, site in self.sites.items() if self.method.exempt(site))
            self.model.require(self.spec.budget or Budget())
            self.ctx = ctx = self._context(self.network)
            ctx._latency = self._latency_choice()
            self.plan = plan = check_plan(self.method.plan(ctx), self.method.prunes)
            require_layers(self.method, ctx)
        identity = f"{self.spec.id} {self.base_id} {self.identity.code['method_sha256']}"
        self.training = training = self._training(ctx, self.method, self.checkpoint, identity)
        epochs = sum(step.epochs for step in plan if isinstance(step, Phase))
        self.base = self._ensure_base(epochs)
        training.model.snapshots["base"] = self.base.state
        with self._off_limits():
            self._train(training, epochs)
        self._measure(training)

    def _latency_choice(self) -> LatencyChoice | None:
        """What meets a budget of milliseconds, which some widths of its table do; None for another budget."""
        budget = self.spec.budget
        if budget is None or not budget.of_latency:
            return None
        plain = build(self.spec.arch, self.shape, self.classes, self.spec.seed)
        arch = self.identity.arch_sha256
        dense = DenseNetwork(self.spec.arch, arch, plain, self.sites, self.model, self.layout)
        found = choice_of(dense, budget, self.spec.unit_kinds, self.options.out, self.model)
        found.require()
        return found

    def _off_limits(self) -> AbstractContextManager[None]:
        """Within the block, where code of the method runs, no file of a data set is opened."""
        options = self.options
        return off_limits(f"the method {self.spec.method}", options.data_dir, self.cache, but=options.out)

    def _train(self, training: PhaseTrainer, epochs: int) -> None:
        """From the base to the final network, with the method, of which nothing is left then."""
        ctx, plan = training.ctx, self.plan
        if self.method.starts_from == "base":
            ctx.rewind("base")  # before prepare, which may copy or measure the network, on resume too
        training.prepare()
        if training.resume():
            trained = sum(step.epochs for step in plan[: training.position[0]] if isinstance(step, Phase))
            self.progress.skip(trained + training.position[1])
            self.progress.say(f"resuming after epoch {trained + training.position[1]} of {epochs}")
        self._carry_out(training, plan, trains=bool(epochs) or self.method.starts_from != "base")
        training.finalize(last=True)
        training.model.remove_hooks()
        training.guard.check_network()

    def _carry_out(self, trainer: PhaseTrainer, plan: Plan, trains: bool) -> None:
        """The steps of ``plan`` from the trainer's position on, each saved once it is done; ``trains``: any trains."""
        while trainer.position[0] < len(plan):
            step = plan[trainer.position[0]]
            if isinstance(step, Phase):
                trainer.train(step)
            else:
                trainer.start_prune()
                trainer.finish_prune(prune(trainer, self.spec.budget, self.shape, trains))
            trainer.finish_step(plan)
        trainer.thaw()

    def train_base(self) -> str:
        """Train the dense baseline only, for the runs that share it; returns its name."""
        self._find_sites()
        self._ensure_base(0)
        return self.base_id

    def _find_sites(self) -> None:
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        spec = self.spec
        device, units = self.device, spec.unit_kinds
        situation = Situation(self.shape, self.classes, spec.coupling, spec.recipe, device, self.precision, units)
        found = fit(spec.arch, self.network, situation, self.data.val.first(BATCH))
        self.sites, self.layout, self.model = found.sites, found.layout, found.model
        if found.note:
            self.progress.say(f"runs in {found.layout} memory format, since in {LAYOUT} {found.note}")
        place(self.network, self.device, self.layout)
        self.data = self.data.laid_out(self.layout)

    @cached_property
    def base_id(self) -> str:
        """Name of the dense baseline."""
        known = self.identity.of_base() | {"train": self.data.facts["train_sha256"], "layout": self.layout}
        return self.spec.base_id(**known)

    def _ensure_base(self, epochs: int) -> bases.Base:
        """The dense baseline, trained if it is missing; ``epochs``: those of the run itself."""
        missing = 0 if bases.exists(self.options.out, self.base_id) else self.spec.recipe.train.epochs
        self.progress.start(missing + epochs)
        return bases.ensure(
            self.options.out,
            self.base_id,
            self.spec.recipe.train.epochs,
            self.progress,
            lambda checkpoint: self._training(
                self._context(self.dense()),
                Method(),
                checkpoint,
                self.base_id,
                of_base=True,
            ),
            self.identity.made(),
        )

    def dense(self) -> nn.Module:
        """The dense network with its initial weights, where and as ``network`` is."""
        network = build(self.spec.arch, self.shape, self.classes, self.spec.seed)
        return place(network, self.device, self.layout)

    def _context(self, network: nn.Module) -> Context:
        spec = self.spec
        sites = self.sites if network is self.network else self.sites.bind(network)
        model = MaskedModel(network, sites, self.model, self.device, self.precision)
        return Context(model, self.data, spec.recipe, spec.budget, spec.seed)

    def _training(
        self, ctx: Context, method: Method, checkpoint: Path, identity: str, of_base: bool = False
    ) -> PhaseTrainer:
        recipe, seed = self.spec.recipe, self.spec.seed
        # A checkpoint of another network, other images, another version of method or suite is of no use.
        identity = f"{identity} {suite_sha256()}"
        return PhaseTrainer(ctx, method, self.data, recipe, seed, self.progress, checkpoint, identity, of_base)

    def _measure(self, training: PhaseTrainer) -> None:
        """Everything that is read off the finished networks; the test set is loaded here and nowhere else."""
        began = datetime.now(UTC)
        self.progress.note("measuring accuracy")
        recipe, options = self.spec.recipe, self.options
        final = training.model.network
        masks = training.model.sliced_by or self.sites.ones()
        dense = self.dense()
        assert self.base is not None
        dense.load_state_dict(self.base.state)
        networks: dict[str, nn.Module | None] = {"dense": dense, "pruned": None, "final": final}
        after_prune = training.now.prune_result or {}
        if after_prune.get("pruned") is not None:
            networks["pruned"] = pruned = self.sites.slice(dense, masks)
            pruned.load_state_dict(after_prune["pruned"])
        test, test_hash = loading.load_test(self.dataset, options.data_dir, self.data.train, self.cache, self.progress)
        logits = {name: logits_of(n, test) for name, n in networks.items() if n is not None}
        qualities = {name: quality(logits[name], test.labels) if name in logits else None for name in networks}
        right = {"correct": bits.pack(correct(logits["final"], test.labels).numpy())}
        parts: dict[str, Any] = {
            "data": self.data.facts | {"test_sha256": test_hash},
            "metrics": qualities | {"final": (qualities["final"] or {}) | right},
            "structure": self._structure(training, masks),
            "training": self._describe(training),
            "cost": {"dense": self._cost(dense), "final": self._cost(final)},
        }
        scores = after_prune.get("scores")
        folder = options.out / "artifacts" / self.spec.id
        artifacts = {
            "network": save_tensors(folder / "network.safetensors", final.state_dict()),
            **({"scores": save_tensors(folder / "scores.safetensors", scores)} if scores else {}),
            "masks": save_tensors(folder / "masks.safetensors", {n: m.to(torch.uint8) for n, m in masks.items()}),
        }
        process_peak = environment.peak_rss_bytes()  # before an exporter takes memory that is not the run's
        device, layout, batch = self.device, self.layout, recipe.latency_batch
        if self.job is None and not options.quiet:  # for whoever waits for the run
            times = latency.quick(dense, final, self.shape, dict.fromkeys((1, batch)), device, layout)
            shown = ", ".join(f"{before:.2f} / {after:.2f} at batch {size}" for size, before, after in times)
            self.progress.say(f"quick time, no measurement (bench latency makes one): dense / final {shown}, ms")
        memory = {
            "batch": batch,
            "dense_peak_bytes": latency.peak_memory_bytes(dense, self.shape, batch, device, layout),
            "final_peak_bytes": latency.peak_memory_bytes(final, self.shape, batch, device, layout),
            "process_peak_bytes": process_peak,
        }
        parts |= {"latency": after_prune["latency"]} if "latency" in after_prune else {}
        self.result = result.filled(self.result, **parts, artifacts=artifacts, memory=memory)
        self.seconds["measure"] = (datetime.now(UTC) - began).total_seconds()

    def _structure(self, training: PhaseTrainer, masks: dict[str, Tensor]) -> dict[str, Any]:
        widths = {name: [site.n_units, int(masks[name].sum())] for name, site in self.sites.items()}
        blocks = {name: as_text(masks[name]) for name, site in self.sites.items() if site.blocks}
        return {
            "widths": widths,
            "blocks": blocks or None,
            "units_before": sum(before for before, _ in widths.values()),
            "units_after": sum(after for _, after in widths.values()),
            "masks": packed_masks(masks),
            "gate_slice_difference": (training.now.prune_result or {}).get("gate_slice_difference"),
            "arch_sha256": self.identity.arch_sha256,
            "rejected": self.sites.rejected,
            **({"exempt": sorted(self.model.exempt)} if self.model.exempt else {}),
        }

    def _cost(self, network: nn.Module) -> dict[str, Any]:
        counted = flops.count(network, self.shape)
        return {
            "macs": counted.total,
            "macs_by_op": counted.by_op,
            "unsupported_ops": counted.unsupported,
            "counter": "fvcore",
            "params": flops.parameters(network),
            "weight_bytes": weight_bytes(network),
        }

    def _describe(self, training: PhaseTrainer) -> dict[str, Any]:
        steps: list[Any] = [described(step) if isinstance(step, Phase) else "prune" for step in self.plan]
        acting = [part.name for part in self.method.members if part.acts(pruned=True)]
        for step in steps[self.plan.index(PRUNE) + 1 :] if acting and PRUNE in self.plan else ():
            step["active"] = acting
        assert self.base is not None
        base, ledger, extras = self.base, training.model.ledger, training.extras()
        taught = any((extra["what"], extra["name"]) == ("teacher", "base") for extra in extras)
        shared: dict[str, Any] = base.facts if taught or self.method.starts_from == "base" else {}
        return {
            "plan": steps,
            "precision": self.precision,
            **({} if self.layout == LAYOUT else {"layout": self.layout}),
            "starts_from": self.method.starts_from,
            "epochs": training.epochs + shared.get("epochs", 0),
            "examples": training.examples + shared.get("examples", 0),
            "macs": training.train_macs + shared.get("macs", 0),
            "macs_by": {"steps": training.step_macs + shared.get("macs", 0), **ledger.macs_by},
            "method_examples": {kind: ledger.counts[kind] for kind in ("forward", "backward")},
            "method_macs": ledger.macs,
            **({"extras": extras} if extras else {}),
            **({"freeze": training.model.frozen.log} if training.model.frozen.log else {}),
            "calibration": (training.now.prune_result or {}).get("calibration"),
            "selection": "last epoch",
            "base": {key: base.facts[key] for key in ("id", "epochs", "examples", "macs", "sha256", "made")},
        }

    def cleanup(self) -> None:
        """Leave nothing of the method on the network, whatever happened."""
        for part in self.training.parts.left if self.training is not None else ():
            for hook in part.bound("finalize"):
                try:
                    hook(self.ctx)
                except Exception as error:  # the first error is the one to report
                    self.progress.say(f"finalize failed too: {error}")
        if self.training is not None:
            self.training.guard.remove_hooks()
        if self.ctx is not None:
            self.ctx._model.remove_hooks()

    def record(self, failure: BaseException | None, status: str, blame: str) -> Record:
        """The record as far as the run has come, with how it ended."""
        training = self.training
        clock = schema.Clock(
            started_at=self.result.clock.started_at,
            finished_at=result.now(),
            resumes=training.resumes if training else 0,
            base_seconds=self.base.facts["seconds"] if self.base else None,
            seconds=(training.seconds if training else {}) | self.seconds,
        )
        curve = schema.Curve.of(training.curve) if training and training.curve else None
        record = msgspec.structs.replace(self.result, status=status, clock=clock, curve=curve)
        return record if failure is None else result.failed(record, status, failure, blame)


def label(spec: Spec) -> str:
    """The start of each of a run's messages."""
    return f"{spec.method} {spec.arch} {spec.dataset} seed {spec.seed}"
