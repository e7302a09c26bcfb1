"""How long a mask at a budget takes for torchvision's ResNet-50, once its sites are found.

python -m tools.timing.budget_selection
"""

import time

import numpy as np
import torch

from bench.measure import flops
from bench.pruning.cost_model import Budget, CostModel
from bench.pruning.selection import select
from bench.pruning.site_discovery import find_sites


def main() -> None:
    """Measure and print."""
    from torchvision.models import resnet50

    network, shape = resnet50(), (3, 224, 224)
    began = time.perf_counter()
    sites = find_sites(network, shape)
    found = time.perf_counter() - began
    began = time.perf_counter()
    model = CostModel(network, sites, shape)
    modelled = time.perf_counter() - began
    print(f"ResNet-50: {len(sites)} sites found and checked in {found:.2f} s, cost model in {modelled:.2f} s")
    generator = torch.Generator().manual_seed(0)
    for ranking in ("global", "layer"):
        for keep in (0.75, 0.5, 0.25, 0.1):
            scores = {n: torch.rand(s.n_units, generator=generator) for n, s in sites.items()}
            times = []
            for _ in range(9):
                began = time.perf_counter()
                masks = select(scores, model, Budget(keep_macs=keep), ranking)
                times.append(time.perf_counter() - began)
            counted = flops.count(sites.slice(network, masks), shape).total
            share = counted / model.macs(model.dense)
            print(f"  {ranking:6} keep {keep:<4}: {1000 * np.median(times):6.2f} ms, fvcore keeps {share:.5f}")


if __name__ == "__main__":
    main()
