"""How long the sites of a network take to find, compared with the forward passes that their check needs.

Prints seconds of CPU time, the median over interleaved rounds with one thread, and their ratio to one forward pass of
two images in double precision. Aims: 1 s for a ResNet, 10 s for any network of torchvision's.

    python -m tools.timing.site_time resnet20@32 torchvision:densenet201@64 --rounds 3
"""

import argparse
import time

import numpy as np
import torch

from bench.models.build import build
from bench.pruning.site_discovery import find_sites
from bench.spec.registry import model_name

NETWORKS = ("resnet20@32", "resnet56@32", "resnet101@32", "torchvision:densenet201@64", "torchvision:maxvit_t@224")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NAME@SIDE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--coupling", choices=("inner", "full"), default="inner")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    built = {}
    for each in chosen.networks:
        name, _, side = each.rpartition("@")
        shape = (3, int(side), int(side))
        built[each] = build(model_name(name), shape, 10).eval(), shape
    forward: dict[str, list[float]] = {name: [] for name in built}
    search: dict[str, list[float]] = {name: [] for name in built}
    for number in range(chosen.rounds + 1):
        for name, (network, shape) in built.items():
            x = torch.rand(2, *shape, dtype=torch.float64)
            network.double()
            began = time.process_time()
            with torch.no_grad():
                network(x)
            between = time.process_time()
            network.float()
            restart = time.process_time()
            sites = find_sites(network, shape, chosen.coupling)
            if number:  # the first round warms up
                forward[name].append(between - began)
                search[name].append(time.process_time() - restart)
            if number == chosen.rounds:
                seconds, once = np.median(search[name]), np.median(forward[name])
                print(f"{name:32} {len(sites):4} sites {seconds:7.2f} s {seconds / once:7.1f} forward passes")


if __name__ == "__main__":
    main()
