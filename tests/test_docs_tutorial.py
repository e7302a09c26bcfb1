"""The tutorial is true: its files and commands work in the order of the page, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import FENCE, ROOT

TEXT = (ROOT / "docs" / "tutorial.md").read_text()
SHORT = {"--epochs 12": "--epochs 1", "--finetune-epochs 4": "--finetune-epochs 1", "--seeds 0-4": "--seeds 0-1"}
"""The page's settings, and those that take a test seconds."""


@pytest.mark.slow
@pytest.mark.usefixtures("onnx_extra")
def test_tutorial_runs_from_images_to_board(tmp_path):
    script = ["set -euo pipefail"]
    for language, block in FENCE.findall(TEXT):
        if language == "python":
            (tmp_path / block.partition("\n")[0].removeprefix("# ")).write_text(block)
        elif not language:
            script.append(block)
    text = "\n".join(script)
    for words, shorter in SHORT.items():
        assert words in text
        text = text.replace(words, shorter)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5 sites, gate == slice checked; dense: 12,652,736 MACs, 77,491 parameters" in done.stdout
    assert "torch.Size([1, 3])" in done.stdout
    assert (tmp_path / "small.onnx").is_file()
    assert all(any(line.split()[2:3] == [name] for line in done.stdout.splitlines()) for name in ("l1_norm", "random"))


def test_numbers_of_the_explained_row_are_those_of_the_board():
    (row,) = (line for line in TEXT.splitlines() if line.split()[2:3] == ["l1_norm"] and "±" in line)
    explained = TEXT.partition("The row `l1_norm`")[2]
    for column in (4, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16):
        assert row.split()[column] in explained, column
