"""What DropNet's statistics pass over the training set costs, in plain forward passes over it (aim 1.1).

Both in eval mode, in one process, interleaved; prints the ratio of medians.

    python -m tools.timing.statistics_pass --arch resnet56 --rounds 5
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from bench.data.loading import load_training
from bench.measure.environment import device_name, pick_device, pick_precision
from bench.models.build import build
from bench.models.memory_format import place
from bench.pruning.activation_statistics import STATISTICS
from bench.pruning.cost_model import CostModel
from bench.pruning.site_discovery import find_sites
from bench.spec.recipe import load_recipe
from bench.training.context import Context
from bench.training.masked_model import MaskedModel


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet56")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    device = pick_device(chosen.device)
    recipe = load_recipe("synthetic", {"batch_size": str(chosen.batch)})
    precision = pick_precision(recipe.precision, device)
    shape = (3, 32, 32)
    network = build(chosen.arch, shape, 10)
    sites = find_sites(network, shape)
    model = CostModel(network, sites, shape)
    place(network, device)
    data = load_training("synthetic", Path(), False, 0, device)
    ctx = Context(MaskedModel(network, sites, model, device, precision), data, recipe, None, 0)

    def forward() -> None:
        with ctx.probe():
            for x, _ in ctx.batches():
                ctx.forward(x)

    def statistics() -> None:
        ctx.mean(lambda site, a: STATISTICS["act_mean"](a))

    times: dict[str, list[float]] = {"forward": [], "statistics": []}
    for number in range(chosen.rounds + 1):
        for name, run in (("forward", forward), ("statistics", statistics)):
            began = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    median = {name: float(np.median(seconds)) for name, seconds in times.items()}
    print(f"{chosen.arch}, {len(data.train)} images, batch {chosen.batch}, {precision}, {device_name(device)}, "
          f"{torch.get_num_threads()} threads, median of {chosen.rounds} interleaved passes")  # fmt: skip
    print(f"  forward {median['forward']:.3f} s, statistics {median['statistics']:.3f} s")
    print(f"  statistics / forward {median['statistics'] / median['forward']:.3f} (aim 1.1)")


if __name__ == "__main__":
    main()
