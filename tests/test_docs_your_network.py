"""The page on a user's own network is true: its files and commands work in the order of the page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import FENCE, ROOT

TEXT = (ROOT / "docs" / "your_network.md").read_text()


@pytest.mark.slow
def test_page_runs_as_written(tmp_path, onnx_extra):
    blocks = FENCE.findall(TEXT)
    for block in (block for language, block in blocks if language == "python"):
        (tmp_path / block.partition("\n")[0].removeprefix("# ")).write_text(block)
    script = next(block for language, block in blocks if not language and "python small.py" in block)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["bash", "-c", f"set -euo pipefail\n{script}\npython in_loop.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"^fine-tuned (\S+)", done.stdout, re.M)[1]) > 0.7
    assert float(re.search(r"^difference (\S+)", done.stdout, re.M)[1]) < 1e-4
    assert all((tmp_path / f"small.{suffix}").stat().st_size > 1000 for suffix in ("onnx", "pt2", "safetensors"))
    shares = re.findall(r"^MACs: .* \((\S+)\)", done.stdout, re.M)
    assert len(shares) == 2
    assert all(0.4 < float(share) <= 0.5 for share in shares)
