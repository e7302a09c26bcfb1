"""A method in one function: keep the units that are least like the others of their site.

    python -m bench run --plugin examples/my_importance.py --method distance --arch resnet20 \\
        --epochs 1 --finetune-epochs 1
"""

import torch

from bench.api import Paper, importance

HE2019 = Paper(
    "He et al.",
    2019,
    "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
    "CVPR",
    "https://arxiv.org/abs/1811.00250",
)


@importance("distance", paper=HE2019, p=2.0)
def distance(site, p):
    """Mean distance to the other units of the site: what is close to its neighbours can be replaced by them."""
    rows = site.rows()
    # Distances grow with the fan-in, so they compare within a site only: the default ranking, "layer", fits.
    return torch.cdist(rows, rows, p=p).mean(dim=1)
