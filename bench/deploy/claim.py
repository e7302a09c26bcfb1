"""The share of MACs that a tool claims, and what it counts otherwise than the suite if that is another one.

The suite counts products. Tools also count norms, activations or biases, leave some products out, count weights that
are not zero, or parameters. Each of these has another share, and the simplest that gives the claim is the explanation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.errors import UsageError
from bench.measure.products import NetworkCount

CONV_NORM, BIAS = "norm or bias of convolutions", "bias of matrices"
"""The first are batch norms and biases of convolutions: exported files have the former folded into the latter."""
GROUPS = {
    CONV_NORM: ("BatchNormalization", "native_batch_norm"),
    "layer norm": (
        *("LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization"),
        *("native_layer_norm", "native_group_norm"),
    ),
    "activations": (
        *("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "HardSwish", "Mish", "Swish", "Softplus"),
        *("relu", "hardtanh", "leaky_relu", "elu", "gelu", "hardswish", "mish", "silu", "softplus", "_prelu_kernel"),
    ),
    "pooling": (
        *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"),
        *("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "mean"),
    ),
    "additions": ("Add", "add"),
}
"""What tools count besides products -> operators of ONNX and of torch."""
FACTORS = {
    CONV_NORM: (2, 1),
    "layer norm": (5, 2, 1),
    "activations": (1,),
    "pooling": (1,),
    "additions": (1,),
    BIAS: (1,),
}
"""How much tools count for each element."""
LEFT_OUT = ("linear", "matmul")
"""Products that some tools do not count."""
MOST = 4
"""Differences that explain one claim, at most."""


@dataclass(frozen=True)
class Explanation:
    """What makes the difference between a claim and the suite's share.

    Attributes:
        text: a sentence.
        share: what the network's share is if it is counted so.
        operators: what is counted in addition, or left out (negative) -> elements of file and dense network.
    """

    text: str
    share: float
    operators: Mapping[str, tuple[int, int]]


def parse(text: str) -> tuple[float, float]:
    """A claimed share, and half a unit of the last digit that is given: ``0.48`` is anything from 0.475 to 0.485.

    Raises UsageError.
    """
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--claims-macs {text}: a share of the dense network's MACs, above 0 and at most 1")
    digits = len(text.lower().partition("e")[0].partition(".")[2])
    return share, 0.5 * 10.0**-digits + 1e-12


def explained(
    claim: float, within: float, file: NetworkCount, dense: NetworkCount, params: tuple[int, int]
) -> Explanation | None:
    """Why a tool may claim a share that differs from that of the products; None where nothing explains it.

    Args:
        claim: the share.
        within: how far from it a share may be, to be the same.
        file, dense: what the two networks cost.
        params: their parameters.
    """
    for way in _ways(file, dense, params):
        if abs(way.share - claim) <= within:
            return way
    return None


def _ways(file: NetworkCount, dense: NetworkCount, params: tuple[int, int]) -> Iterator[Explanation]:
    """Other ways to count, those with the fewest differences first."""
    share = file.macs / dense.macs
    yield Explanation("the same number", share, {})
    ways = list(_operators(file, dense))  # those with the fewest differences first
    yield from (way for way in ways if len(way.operators) == 1)
    nonzero = _nonzero(file)
    if nonzero < file.macs:
        text = "the tool counts only weights that are not zero; those that are zero are still computed"
        yield Explanation(text, nonzero / dense.macs, {"zero weights": (nonzero - file.macs, 0)})
    yield Explanation("it is the share of the parameters, not of the MACs", params[0] / params[1], {})
    yield Explanation("it is the share that was removed, not the one that is left", 1 - share, {})
    yield from (way for way in ways if len(way.operators) > 1)


def _operators(file: NetworkCount, dense: NetworkCount) -> Iterator[Explanation]:
    ours, theirs = _elements(file), _elements(dense)
    choices = [
        (name, factor) for name, factors in FACTORS.items() if ours[name] or theirs[name] for factor in factors
    ] + [(name, -1) for name in LEFT_OUT if theirs[name]]
    for size in range(1, MOST + 1):
        for chosen in itertools.combinations(choices, size):
            named = dict(chosen)
            if len(named) < size:
                continue  # one group with two factors
            operators = {name: (factor * ours[name], factor * theirs[name]) for name, factor in chosen}
            total = dense.macs + sum(after for _, after in operators.values())
            if total > 0:
                share = (file.macs + sum(before for before, _ in operators.values())) / total
                yield Explanation(_sentence(named), share, operators)


def _elements(count: NetworkCount) -> dict[str, int]:
    found = {name: sum(count.others.get(op, 0) for op in ops) for name, ops in GROUPS.items()}
    biased = [product for product in count.products if product.bias]
    found[CONV_NORM] += sum(product.outputs for product in biased if product.kind == "conv")
    found[BIAS] = sum(product.outputs for product in biased if product.kind != "conv")
    return found | {name: count.by_kind().get(name, 0) for name in LEFT_OUT}


def _nonzero(count: NetworkCount) -> int:
    """MACs of weights that are not zero."""
    return sum(
        product.macs if product.zero is None else round(product.macs * float(1 - product.zero.mean()))
        for product in count.products
    )


def _sentence(chosen: Mapping[str, int]) -> str:
    added = [f"{name} ({factor} an element)" for name, factor in chosen.items() if factor > 0]
    left = [f"{name} products" for name, factor in chosen.items() if factor < 0]
    parts = [f"the tool also counts {_joined(added)}"] if added else []
    parts += [f"{'' if added else 'the tool '}does not count {_joined(left)}"] if left else []
    return " and ".join(parts)


def _joined(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
