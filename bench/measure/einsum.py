"""Multiply-adds of an einsum of two tensors: one for each combination of the indices that meet in the product."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def parsed(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], set[str]]:
    """The index of each axis of each tensor, and those of the result; axes behind ``...`` are numbers, from the right.

    Args:
        equation: such as ``bi,oi->bo``; without an arrow the result has the letters that occur once, and ``...``.
        ranks: axes of each tensor.
    """
    given, arrow, result = equation.replace(" ", "").partition("->")
    terms = []
    for term, rank in zip(given.split(","), ranks, strict=True):
        before, dots, after = term.partition("...")
        hidden = map(str, range(rank - len(before) - len(after), 0, -1)) if dots else ()
        terms.append([*before, *hidden, *after])
    seen = Counter(index for term in terms for index in term)
    if arrow:
        kept = {index for index in seen if index in result or (index.isdigit() and "..." in result)}
    else:
        kept = {index for index, times in seen.items() if times == 1 or index.isdigit()}
    return terms, kept


def macs_of_two(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Product of the ranges of all indices of two tensors.

    An index of one of them alone that the result does not have is summed before the product.
    """
    terms, kept = parsed(equation, [len(shape) for shape in shapes])
    left, right = (dict(zip(term, shape, strict=True)) for term, shape in zip(terms, shapes, strict=True))
    sizes = {index: max(left.get(index, 1), right.get(index, 1)) for index in left | right}
    met = {index for index in left.keys() & right.keys() if min(left[index], right[index]) > 1}
    return math.prod(size for index, size in sizes.items() if index in met | kept)
