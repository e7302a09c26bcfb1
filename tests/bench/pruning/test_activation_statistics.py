import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.api import STATISTICS


@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(1, 4), st.sampled_from([(), (1,), (3, 2)]), st.integers(0, 50))
def test_statistics_equal_loops_over_units(batch, units, positions, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, units, *positions, generator=generator).clamp(min=-0.3).relu()
    expected = {"act_mean": [], "act_std": [], "apoz": []}
    for u in range(units):
        values = a[:, u].flatten()
        expected["act_mean"].append(values.abs().sum() / len(values))
        expected["act_std"].append(((values - values.mean()) ** 2).sum().div(len(values) - 1).sqrt())
        expected["apoz"].append((values != 0).sum() / len(values))
    assert set(STATISTICS) == set(expected)
    for name, statistic in STATISTICS.items():
        found = statistic(a)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, torch.stack(expected[name]))


def test_sizes_count_in_float32_and_signs_do_not():
    a = torch.tensor([[-2.0, 1.0], [2.0, 1.0]])
    assert STATISTICS["act_mean"](a).tolist() == [2.0, 1.0]
    assert STATISTICS["apoz"](a).tolist() == [1.0, 1.0]
    assert STATISTICS["act_std"](a)[1] == 0
    a = torch.full((64, 2, 40, 40), 1.0, dtype=torch.bfloat16)
    a[:, 1] = 0
    for name, value in {"act_mean": [1.0, 0.0], "act_std": [0.0, 0.0], "apoz": [1.0, 0.0]}.items():
        assert STATISTICS[name](a).tolist() == value, name
