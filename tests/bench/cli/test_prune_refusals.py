"""What ``bench prune`` refuses before anything is read, and errors that no command looks for."""

import pytest
from support.command_tools import answer

from bench.cli import prune as command
from bench.measure import onnx_export


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Exit code and stderr of a command that leaves nothing."""
    monkeypatch.setattr(onnx_export, "require", lambda: None)

    def run(*words):
        out = tmp_path / "small"
        code, said, err = answer(capsys, "prune", "resnet20", "--data", "digits", *words, "--out", out, "-q")
        assert (said, out.exists(), err.count("\n")) == ("", False, 1)
        return code, err

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runtime", "egaer"], "unknown runtime 'egaer': did you mean eager?"),
        (["--batch", "0"], "--batch 0: at least 1"),
        (["--runtime-threads", "0"], "--runtime-threads 0: at least 1"),
        (["--keep-latency", "0.5", "--runtime-threads", "0"], "--runtime-threads 0: at least 1"),
        (["--latency-table", "table.jsonl"], "--latency-table: with --keep-latency or --latency-ms only"),
        (["--size", "0"], "--size 0: at least 1"),
    ],
)
def test_places_that_cannot_be_timed_are_refused_before_anything(refused, words, said):
    code, err = refused(*words)
    assert code == 2
    assert said in err


def test_errors_of_the_system_are_one_line(refused, monkeypatch):
    def full(chosen):
        raise OSError(28, "No space left on device", "small")

    monkeypatch.setattr(command, "_prune", full)
    assert refused() == (3, "bench: error: [Errno 28] No space left on device: 'small'\n")
