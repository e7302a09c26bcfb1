"""The papers that methods come from."""

from bench.api import Paper

DDROP = Paper(
    "Toulaoui et al.",
    2025,
    "DDROP: dynamic dropout for structured pruning",
    "Statistics, Optimization & Information Computing (I2CEAI24)",
    "https://github.com/aftoul/ddrop",
)
LI2017 = Paper("Li et al.", 2017, "Pruning Filters for Efficient ConvNets", "ICLR", "https://arxiv.org/abs/1608.08710")
WEN2016 = Paper(
    "Wen et al.",
    2016,
    "Learning Structured Sparsity in Deep Neural Networks",
    "NIPS",
    "https://arxiv.org/abs/1608.03665",
)
LIU2019 = Paper(
    "Liu et al.", 2019, "Rethinking the Value of Network Pruning", "ICLR", "https://arxiv.org/abs/1810.05270"
)
BLALOCK2020 = Paper(
    "Blalock et al.",
    2020,
    "What is the State of Neural Network Pruning?",
    "MLSys",
    "https://arxiv.org/abs/2003.03033",
)
