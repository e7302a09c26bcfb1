"""What explains the share of MACs that a tool claims."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.deploy.claim import explained, parse
from bench.errors import UsageError
from bench.measure.products import NetworkCount, Product

ZERO = np.zeros((4, 9), dtype=bool)


def network(macs, linear, outputs, relu, zero=ZERO):
    conv = Product("conv 0", "conv", macs, outputs, 10, True, zero)
    return NetworkCount((conv, Product("linear 1", "linear", linear, 10, 10, True, ZERO)), {"Relu": relu})


DENSE, FILE = network(1000, 100, 80, 60), network(400, 70, 50, 20)


def why(claim, file=FILE, params=(30, 100)):
    return explained(*parse(claim), file, DENSE, params)


def test_the_same_number_is_no_difference():
    assert why("0.43").text == "the same number"  # 470 / 1100 = 0.4273


@pytest.mark.parametrize(
    ("claim", "said", "operators"),
    [
        (f"{490 / 1160:.4f}", "also counts activations (1 an element)", {"activations": (20, 60)}),
        (f"{590 / 1320:.4f}", "norm or bias of convolutions (2 an element) and activations (1 an element)", None),
        ("0.4000", "does not count linear products", {"linear": (-70, -100)}),
        ("0.3000", "share of the parameters", {}),
        (f"{1 - 470 / 1100:.4f}", "the share that was removed", {}),
    ],
)
def test_the_difference_is_named(claim, said, operators):
    found = why(claim)
    assert said in found.text
    assert found.share == pytest.approx(float(claim), abs=5e-5)
    assert operators in (None, dict(found.operators))


def test_zero_weights_that_are_computed():
    half = ZERO.copy()
    half[:2] = True
    masked = network(900, 100, 80, 80, half)
    found = why(f"{550 / 1100:.4f}", masked, (100, 100))
    assert "counts only weights that are not zero" in found.text
    assert dict(found.operators) == {"zero weights": (-450, 0)}


def test_what_nothing_explains():
    assert why("0.9100") is None


def test_a_claim_is_as_exact_as_its_digits():
    assert parse("0.48") == (0.48, pytest.approx(0.005))
    assert parse("0.4780") == (0.478, pytest.approx(0.00005))
    assert parse("1")[0] == 1
    for text in ("48", "0", "-0.2", "nan", "half"):
        with pytest.raises(UsageError, match="above 0 and at most 1"):
            parse(text)


@given(st.integers(1, 999), st.integers(1, 99), st.integers(0, 79), st.integers(0, 79))
def test_an_explanation_gives_the_claim(macs, linear, outputs, relu):
    file = network(macs, linear, outputs, relu)
    found = why("0.512", file)
    assert found is None or abs(found.share - 0.512) <= 0.0005 + 1e-9
