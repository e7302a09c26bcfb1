"""What a training step of the harness costs over a bare loop, and what each method's costs over the harness's own.

Prints ratios of medians over interleaved epochs in one process, next to their targets, at CIFAR's shape with the
synthetic data set.

    python -m tools.timing.step_overhead --arch resnet56 --batch 128 --rounds 5
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bench.data.loading import load_training
from bench.measure.environment import device_name, pick_device, pick_precision
from bench.models.build import build
from bench.models.memory_format import place
from bench.progress import Progress
from bench.pruning.cost_model import Budget, CostModel
from bench.pruning.site_discovery import find_sites
from bench.runs.method_factory import make_method
from bench.spec.recipe import load_recipe
from bench.training.context import Context
from bench.training.loop import PhaseTrainer
from bench.training.masked_model import MaskedModel
from bench.training.method import Method
from bench.training.plan import Phase

METHODS = {  # name -> method, options, aimed ratio to the dense step
    "ddrop": ("ddrop", {"ramp": "0"}, 1.10),
    "l1l2": ("l1l2", {"strength": "1e-3"}, 1.03),
    "spectral": ("spectral", {"warmup": "0"}, 1.5),
    "edropout": ("edropout", {"early": "1", "patience": "1000000"}, 6.5),
    "edropout, quarter": ("edropout", {"early": "1", "patience": "1000000", "share": "0.25"}, 3.0),
}


def bare_epoch(network, data, recipe, precision, device, generator):
    """The loop a researcher writes by hand; returns seconds per step."""
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True, fused=True)
    network.train()
    images, size = data.train, recipe.batch_size
    steps = len(images) // size
    order = torch.randperm(len(images), generator=generator, device=device)
    sync(device)
    began = time.perf_counter()
    for step in range(steps):
        index = order[step * size : (step + 1) * size]
        x = ((images.pixels[index].float() - images.mean) / images.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = network(x)
        loss = F.cross_entropy(logits.float(), images.labels[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    sync(device)
    return (time.perf_counter() - began) / steps


def harness_epoch(training, device):
    """One epoch of the harness; returns seconds per step, hooks included, validation not."""
    before = sum(training.seconds[k] for k in ("train", "method"))
    training.position = (0, 0)
    sync(device)
    training.train(Phase(1))
    after = sum(training.seconds[k] for k in ("train", "method"))
    return (after - before) / (len(training.data.train) // training.recipe.batch_size)


def sync(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet56")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=METHODS, metavar="NAME")
    chosen = parser.parse_args()
    device = pick_device(chosen.device)
    settings = {"batch_size": chosen.batch, "augment": "none", "train.lr": 0.01}
    recipe = load_recipe("synthetic", {k: str(v) for k, v in settings.items()})
    precision = pick_precision(recipe.precision, device)
    data = load_training("synthetic", Path(), False, 0, device)
    shape = (3, 32, 32)

    def training(method: Method) -> PhaseTrainer:
        network = build(chosen.arch, shape, 10)
        sites = find_sites(network, shape)
        model = CostModel(network, sites, shape)
        place(network, device)
        masked = MaskedModel(network, sites, model, device, precision)
        ctx = Context(masked, data, recipe, Budget(keep_macs=0.5), 0)
        made = PhaseTrainer(ctx, method, data, recipe, 0, Progress("", quiet=True), None, "")
        for hook in method.bound("prepare"):
            hook(ctx)
        return made

    bare: nn.Module = place(build(chosen.arch, shape, 10), device)
    trained = {"dense": training(Method())}
    trained |= {name: training(make_method(*METHODS[name][:2])) for name in chosen.only}
    generator = torch.Generator(device).manual_seed(0)
    times: dict[str, list[float]] = {name: [] for name in ("bare", *trained)}
    for number in range(chosen.rounds + 1):
        now = {"bare": bare_epoch(bare, data, recipe, precision, device, generator)}
        now |= {name: harness_epoch(one, device) for name, one in trained.items()}
        if number:  # the first round warms up
            for name, seconds in now.items():
                times[name].append(seconds)
    median = {name: float(np.median(values)) for name, values in times.items()}
    print(f"{chosen.arch}, batch {chosen.batch}, {precision} channels-last, {device_name(device)}, "
          f"{torch.get_num_threads()} threads, median of {chosen.rounds} interleaved epochs")  # fmt: skip
    for name, seconds in median.items():
        print(f"  {name:17} {1000 * seconds:8.2f} ms a step, {chosen.batch / seconds:9.0f} examples a second")
    print(f"  dense / bare {median['dense'] / median['bare']:.3f} (aim 1.03)")
    for name in chosen.only:
        print(f"  {name} / dense {median[name] / median['dense']:.3f} (aim {METHODS[name][2]:g})")


if __name__ == "__main__":
    main()
