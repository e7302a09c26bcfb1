"""What a method declares that it cannot do is refused before anything is trained."""

import pytest
from support.paths import PLUGINS
from support.plugins import known

from bench.cli import main
from bench.errors import Unsupported
from bench.pruning.sites import Sites
from bench.runs.execute import execute
from bench.runs.method_factory import make_method

PLUGIN = PLUGINS / "declaring.py"


@pytest.fixture(autouse=True, scope="module")
def _declaring():
    with known(PLUGIN):
        yield


def test_unsupported_site_is_refused_before_training(make_run, tmp_path):
    for method, arch, said in (
        ("convs_only", "lenet", "convs_only does not work on site fc1: it is of kind linear, not conv"),
        ("few_units_only", "mlp_40_40", "few_units_only does not work on site 1: it has 40 units, more than 6"),
        ("few_units_penalty+l1_norm", "mlp_40_40", "few_units_penalty does not work on site 1"),
        ("dropout+convs_only", "mlp_40_40", "convs_only does not work on site 1"),
        ("bn_scale", "lenet", "bn_scale does not work on site conv1: it has no batch norm with a scale"),
        ("slimming", "mlp_40_40", "slimming does not work on site 1: it has no batch norm with a scale"),
        ("tp_bn_scale", "mlp_40_40", "tp_bn_scale does not work on site 1"),
    ):
        with pytest.raises(Unsupported) as refusal:
            execute(*make_run(method, arch))
        assert said in str(refusal.value)
        assert refusal.value.exit_code == 2
    assert not list(tmp_path.glob("bases/*.safetensors")) and not list(tmp_path.glob("records/**/*.json"))


def test_unsupported_coupling_is_named():
    with pytest.raises(Unsupported, match="inner_only works with --coupling inner only"):
        make_method("inner_only", {}).require(Sites({}, {}, "full"))
    make_method("inner_only", {}).require(Sites({}, {}, "inner"))


def test_command_ends_with_usage_code(plugins, tmp_path, capsys):
    words = [
        "run",
        "--plugin",
        str(PLUGIN),
        "--method",
        "convs_only",
        "--arch",
        "mlp_40_40",
        "-d",
        "tiny8",
        "--recipe",
        "synthetic",
        "-q",
    ]
    assert main([*words, "--out", str(tmp_path)]) == 2
    assert "convs_only does not work on site 1: it is of kind linear, not conv" in capsys.readouterr().err
