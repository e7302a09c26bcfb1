"""MACs of ONNX exports against fvcore's, network by network: ``python -m tools.timing.onnx_counts [NAME...]``."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from bench.measure import flops, onnx_export
from bench.measure.onnx_file import OnnxFile
from bench.measure.onnx_macs import count
from bench.models.build import build

PUBLISHED = ("mobilenet_v2", "efficientnet_b0", "regnet_x_400mf", "convnext_tiny", "vit_b_16", "swin_t")
NAMES = ("lenet", "resnet20", "densenet40", *(f"torchvision:{name}" for name in PUBLISHED))


def main() -> int:
    different = 0
    for name in sys.argv[1:] or NAMES:
        shape = (1, 28, 28) if name == "lenet" else (3, 32, 32)
        network = build(name, shape, 10)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            path.write_bytes(onnx_export.convert(network, shape))
            start = time.perf_counter()
            found = count(OnnxFile(path), shape).macs
            seconds = time.perf_counter() - start
        expected = flops.count(network, shape).products
        different += found != expected
        print(f"{name:28} {found:13,} {expected:13,} {'equal' if found == expected else 'DIFFERENT'} {seconds:.2f} s")
    return min(different, 1)


if __name__ == "__main__":
    sys.exit(main())
