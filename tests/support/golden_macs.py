"""The golden table of MACs: which networks are in it, how they are built and measured.

``PYTHONPATH=tests python tests/support/golden_macs.py`` measures them and writes tests/bench/measure/golden_macs.toml;
``--markdown`` prints the table of docs/measuring.md.
"""

import sys
import tomllib

import torch
from support.paths import TESTS

from bench.measure import flops
from bench.models.build import build

FILE = TESTS / "bench" / "measure" / "golden_macs.toml"
COLOUR, GREY = (3, 32, 32), (1, 28, 28)
OWN = {
    **dict.fromkeys(("resnet20", "resnet32", "resnet44", "resnet56", "resnet56b", "resnet110"), COLOUR),
    **dict.fromkeys(("vgg16_bn", "vgg19_bn"), COLOUR),
    **dict.fromkeys(("dropnet_c_64_64_128_128", "dropnet_resnet18", "dropnet_vgg19"), COLOUR),
    **dict.fromkeys(("lenet", "mlp_300_100", "dropnet_a_40_40", "dropnet_b_64_64"), GREY),
}
TORCHVISION = (
    *("alexnet", "vgg11", "vgg16", "vgg16_bn", "vgg19_bn"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "resnext50_32x4d"),
    *("densenet121", "densenet169", "googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1"),
    *("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "mnasnet1_0", "efficientnet_b0", "efficientnet_b1"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "regnet_y_400mf", "regnet_x_400mf", "convnext_tiny"),
    *("vit_b_16", "vit_b_32", "swin_t", "swin_v2_t", "maxvit_t"),
)
NAMES = (*OWN, *(f"torchvision:{name}" for name in TORCHVISION))


def shape_of(name):
    """Shape of one input: for torchvision's the crop that its published number is for."""
    if name in OWN:
        return OWN[name]
    side = weights(name).transforms.keywords["crop_size"]
    return 3, side, side


def weights(name):
    """The first weights that torchvision publishes for ``torchvision:NAME`` (nothing is downloaded)."""
    from torchvision.models import get_model_weights

    return next(iter(get_model_weights(name.removeprefix("torchvision:"))))


def made(name):
    """The network with random weights: only shapes count."""
    if name in OWN:
        return build(name, OWN[name], 10)
    from torchvision.models import get_model

    # GoogLeNet's published size is without its auxiliary classifiers, Inception's with them.
    options = {"googlenet": {"aux_logits": False, "init_weights": False}, "inception_v3": {"init_weights": False}}
    plain = name.removeprefix("torchvision:")
    return get_model(plain, weights=None, **options.get(plain, {}))


def measured(name):
    """One row of the table, all whole numbers."""
    network, shape = made(name), shape_of(name)
    counted = flops.count(network, shape)
    return {
        "input": list(shape),
        "total": counted.total,
        "products": counted.products,
        "torch": flops.untraced(network.eval(), torch.zeros(1, *shape))[0],
        "params": flops.parameters(network),
    }


def golden():
    """The table as stored."""
    return tomllib.loads(FILE.read_text())


def markdown(table):
    """The table as docs/measuring.md shows it."""
    lines = ["| network | input | MACs | products | parameters | published GMACs |", "|---|---|---|---|---|---|"]
    for name, row in table.items():
        published = weights(name).meta["_ops"] if name not in OWN else ""
        numbers = " | ".join(f"{row[key]:,}" for key in ("total", "products", "params"))
        lines.append(f"| `{name}` | {'x'.join(map(str, row['input']))} | {numbers} | {published} |")
    return "\n".join(lines)


def main():
    """Write the table, or print it."""
    if "--markdown" in sys.argv:
        print(markdown(golden()))
        return
    lines = ["# Written by tests/golden_macs.py; products: convolution, linear, matmul and attention by fvcore"]
    for name in NAMES:
        row = ", ".join(f"{key} = {value}" for key, value in measured(name).items())
        lines.append(f'"{name}" = {{ {row} }}')
    FILE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
