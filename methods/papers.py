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
HE2018 = Paper(
    "He et al.",
    2018,
    "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks",
    "IJCAI",
    "https://arxiv.org/abs/1808.06866",
)
LIN2020 = Paper(
    "Lin et al.",
    2020,
    "HRank: Filter Pruning using High-Rank Feature Map",
    "CVPR",
    "https://arxiv.org/abs/2002.10179",
)
BARTOLDSON2020 = Paper(
    "Bartoldson et al.",
    2020,
    "The Generalization-Stability Tradeoff in Neural Network Pruning",
    "NeurIPS",
    "https://arxiv.org/abs/1906.03728",
)
BERISHA2025 = Paper(
    "Berisha et al.",
    2025,
    "Variance-Based Pruning for Accelerating and Compressing Trained Networks",
    "ICCV",
    "https://arxiv.org/abs/2507.12988",
)
PAN2016 = Paper(
    "Pan et al.",
    2016,
    "DropNeuron: Simplifying the Structure of Deep Neural Networks",
    "arXiv",
    "https://arxiv.org/abs/1606.07326",
)
JORDAO2018 = Paper(
    "Jordao et al.",
    2018,
    "Pruning Deep Neural Networks using Partial Least Squares",
    "arXiv",
    "https://arxiv.org/abs/1810.07610",
)
HAN2017 = Paper(
    "Han et al.",
    2017,
    "DSD: Dense-Sparse-Dense Training for Deep Neural Networks",
    "ICLR",
    "https://arxiv.org/abs/1607.04381",
)
KROGH1991 = Paper("Krogh and Hertz", 1991, "A Simple Weight Decay Can Improve Generalization", "NIPS")
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
FANG2023 = Paper(
    "Fang et al.", 2023, "DepGraph: Towards Any Structural Pruning", "CVPR", "https://arxiv.org/abs/2301.12900"
)
DROPNET = Paper(
    "Tan and Motani",
    2020,
    "DropNet: Reducing Neural Network Complexity via Iterative Pruning",
    "ICML",
    "https://arxiv.org/abs/2207.06646",
)
EDROPOUT = Paper(
    "Salehinejad and Valaee",
    2021,
    "EDropout: Energy-Based Dropout and Pruning of Deep Neural Networks",
    "IEEE TNNLS 33(10)",
    "https://arxiv.org/abs/2006.04270",
)
SPECTRAL = Paper(
    "Khan et al.",
    2019,
    "Regularization of Deep Neural Networks with Spectral Dropout",
    "Neural Networks 110",
    "https://arxiv.org/abs/1711.08591",
)
L1L2 = Paper(
    "Berthelier et al.",
    2021,
    "Learning Sparse Filters in Deep Convolutional Neural Networks with a l1/l2 Pseudo-Norm",
    "ICPR workshops",
    "https://arxiv.org/abs/2007.10022",
)
LIU2017 = Paper(
    "Liu et al.",
    2017,
    "Learning Efficient Convolutional Networks through Network Slimming",
    "ICCV",
    "https://arxiv.org/abs/1708.06519",
)
HE2019 = Paper(
    "He et al.",
    2019,
    "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
    "CVPR",
    "https://arxiv.org/abs/1811.00250",
)
MOLCHANOV2019 = Paper(
    "Molchanov et al.",
    2019,
    "Importance Estimation for Neural Network Pruning",
    "CVPR",
    "https://arxiv.org/abs/1906.10771",
)
HU2016 = Paper(
    "Hu et al.",
    2016,
    "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures",
    "arXiv",
    "https://arxiv.org/abs/1607.03250",
)
HAN2015 = Paper(
    "Han et al.",
    2015,
    "Learning both Weights and Connections for Efficient Neural Networks",
    "NIPS",
    "https://arxiv.org/abs/1506.02626",
)
SRIVASTAVA2014 = Paper(
    "Srivastava et al.", 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", "JMLR 15"
)
MEN2024 = Paper(
    "Men et al.",
    2024,
    "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect",
    "arXiv",
    "https://arxiv.org/abs/2403.03853",
)
YU2018 = Paper(
    "Yu et al.",
    2018,
    "NISP: Pruning Networks using Neuron Importance Score Propagation",
    "CVPR",
    "https://arxiv.org/abs/1711.05908",
)
LI2022 = Paper(
    "Li et al.",
    2022,
    "Optimizing the Deep Neural Networks by Layer-Wise Refined Pruning and the Acceleration on FPGA",
    "Computational Intelligence and Neuroscience 2022",
    "https://doi.org/10.1155/2022/8039281",
)
AGHASI2017 = Paper(
    "Aghasi et al.",
    2017,
    "Net-Trim: Convex Pruning of Deep Neural Networks with Performance Guarantee",
    "NIPS",
    "https://arxiv.org/abs/1611.05162",
)
PHAN2020 = Paper(
    "Phan et al.",
    2020,
    "Pruning Deep Neural Networks with l0-Constrained Optimization",
    "ICDM",
    "https://research.ibm.com/publications/pruning-deep-neural-networks-with-ell0-constrained-optimization",
)
HINTON2015 = Paper(
    "Hinton et al.",
    2015,
    "Distilling the Knowledge in a Neural Network",
    "NIPS deep learning workshop",
    "https://arxiv.org/abs/1503.02531",
)
LIN2019 = Paper(
    "Lin et al.",
    2019,
    "Towards Optimal Structured CNN Pruning via Generative Adversarial Learning",
    "CVPR",
    "https://arxiv.org/abs/1903.09291",
)
CRUCIATA2024 = Paper(
    "Cruciata et al.",
    2024,
    "Learn & Drop: fast learning of CNNs based on layer dropping",
    "Neural Computing and Applications",
    "https://arxiv.org/abs/2604.23403",
)
