"""Small networks made by several pruning tools, to score: ``python -m tools.score_networks DIR``.

A network of 4,000 weights is trained on digits and exported; each tool that is installed prunes it. The folder gets
one file a network (below 200 kB) and ``claims.json``: what each tool says of the share of MACs that is left. Those of
``tests/support/scored`` were made with onnxsim 0.8.1 and NNCF 3.4.0, which no test installs.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from bench.data.loading import TrainingData, find, load_training
from bench.measure.onnx_export import to_onnx

SHAPE, EPOCHS = (1, 8, 8), 12
CPU = torch.device("cpu")


class Small(nn.Module):
    """Three convolutions with batch norm and a linear layer, for digits."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((1, *widths), widths):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers.insert(6, nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, 10]``."""
        logits: Tensor = self.layers(x)
        return logits


def dense() -> Small:
    """The network that is pruned."""
    return Small(12, 16, 16)


def thin() -> Small:
    """A network of half the width."""
    return Small(6, 8, 8)


def masked(base: nn.Module) -> nn.Module:
    """The dense network under masks of torch.nn.utils.prune, which take half of the filters of each convolution."""
    made = copy.deepcopy(base)
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d):
            prune.ln_structured(layer, "weight", 0.5, 2, 0)
    return made


def train(made: nn.Module, data: TrainingData, epochs: int = EPOCHS) -> nn.Module:
    """Train with Adam; returns the network in eval mode."""
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    made.train()
    for epoch in range(epochs):
        for x, y in data.train.batches(64, torch.Generator().manual_seed(epoch)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(made(x), y).backward()
            optimizer.step()
    return made.eval()


def torch_pruning(base: nn.Module) -> tuple[nn.Module, float]:
    """Torch-Pruning's magnitude pruner at 0.3 of the channels, and its own share of the operations."""
    import torch_pruning as tp

    made, x = copy.deepcopy(base), torch.zeros(1, *SHAPE)
    before, _ = tp.utils.count_ops_and_params(made, x)
    last = [layer for layer in made.modules() if isinstance(layer, nn.Linear)]
    importance = tp.importance.MagnitudeImportance(p=2)
    tp.pruner.MagnitudePruner(made, x, importance=importance, pruning_ratio=0.3, ignored_layers=last).step()
    after, _ = tp.utils.count_ops_and_params(made, x)
    return made, after / before


def main() -> int:
    """Make all that can be made here; returns the exit code."""
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load_training(find("digits", folder).for_seed(0), folder, False, 0, CPU)
    mean, std = (json.dumps(values.flatten().tolist()) for values in (data.train.mean, data.train.std))
    claims: dict[str, str] = {}

    def export(name: str, made: nn.Module, claim: str = "") -> None:
        said = {"dataset": "digits", "mean": mean, "std": std}
        to_onnx(made, SHAPE, folder / f"{name}.onnx", metadata=said, replace=True)
        claims[f"{name}.onnx"] = claim

    base = train(dense(), data)
    export("dense", base)
    export("thin", train(thin(), data))
    export("masked", train(masked(base), data, 3), "0.5")
    sliced, claim = torch_pruning(base)
    export("torch_pruning", train(sliced, data, 3), f"{claim:.4f}")
    program = torch.export.export(sliced, (torch.zeros(2, *SHAPE),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "torch_pruning.pt2")
    optional: tuple[Callable[[Path, Tensor, nn.Module], None], ...] = (_onnxsim, _nncf)
    for tool in optional:
        try:
            tool(folder, data.train.first(256), copy.deepcopy(base))
        except ImportError as error:
            print(f"left out: {error}", file=sys.stderr)
    (folder / "claims.json").write_text(json.dumps(claims, indent=1) + "\n")
    for file in sorted(folder.glob("*.*")):
        print(f"{file.stat().st_size:8,} {file.name}")
    return 0


def _onnxsim(folder: Path, images: Tensor, base: nn.Module) -> None:
    """onnxsim's structured pruning of the exported file."""
    import onnx
    import onnxsim  # type: ignore[import-not-found]

    made = onnxsim.apply_structured_pruning(onnx.load(folder / "dense.onnx"), 0.5)
    onnx.save(made[0] if isinstance(made, tuple) else made, folder / "onnxsim.onnx")


def _nncf(folder: Path, images: Tensor, base: nn.Module) -> None:
    """NNCF's pruning of single weights by magnitude, which no dense layer gains from."""
    import nncf  # type: ignore[import-not-found]

    made = nncf.prune(base, mode=nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL, ratio=0.5, examples_inputs=images[:1])
    to_onnx(nncf.strip(made, example_input=images[:1]).eval(), SHAPE, folder / "nncf.onnx", replace=True)


if __name__ == "__main__":
    sys.exit(main())
