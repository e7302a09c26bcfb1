"""Networks of the papers by torchvision's definitions: as they are, or with a stem for small images.

The suffix ``_cifar`` names the form that the field uses for images of 32x32: a first convolution of 3x3 with stride 1
and no pooling behind it, instead of a stem that divides the image's sides by four.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from bench.errors import UsageError
from bench.models.build import Shape, architecture
from bench.models.external import adapted


@architecture("resnet18", model="resnet18", min_size=32)
@architecture("resnet34", model="resnet34", min_size=32)
@architecture("resnet50", model="resnet50", min_size=32)
@architecture("resnet101", model="resnet101", min_size=32)
@architecture("alexnet", model="alexnet", min_size=63)
@architecture("squeezenet1_1", model="squeezenet1_1", min_size=32)
@architecture("mobilenet_v2", model="mobilenet_v2", min_size=32)
@architecture("densenet121", model="densenet121", min_size=32)
@architecture("googlenet", model="googlenet", min_size=32)
def classic(model: str, *, shape: Shape, num_classes: int) -> nn.Module:
    """Torchvision's definition, for images of ImageNet's size; weights are drawn as the suite draws them."""
    return adapted(_torchvision(model, num_classes), shape[0])


@architecture("resnet18_cifar", model="resnet18")
@architecture("resnet34_cifar", model="resnet34")
@architecture("resnet50_cifar", model="resnet50")
@architecture("resnet101_cifar", model="resnet101")
def cifar_resnet(model: str, *, shape: Shape, num_classes: int) -> nn.Module:
    """ResNet of ImageNet's widths (64 to 512) with a stem for small images: 3x3, stride 1, no pooling."""
    network = _torchvision(model, num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return adapted(network, shape[0])


@architecture("mobilenet_v2_cifar")
def cifar_mobilenet_v2(*, shape: Shape, num_classes: int) -> nn.Module:
    """MobileNetV2 with stride 1 in its stem and its second stage, for small images."""
    network = _torchvision("mobilenet_v2", num_classes)
    depthwise = network.features[2].conv[1][0]
    network.features[0][0].stride = depthwise.stride = (1, 1)
    return adapted(network, shape[0])


@architecture("convnext_tiny", min_size=32, own_weights=True)
def convnext(*, shape: Shape, num_classes: int) -> nn.Module:
    """ConvNeXt (Liu et al. 2022); its blocks' hidden widths are sites. Weights are drawn by torchvision's code."""
    return adapted(_torchvision("convnext_tiny", num_classes), shape[0])


@architecture("vit_small", dim=384, heads=6, patch=16, min_size=32, own_weights=True)
@architecture("vit_small_cifar", dim=384, heads=6, patch=4, min_size=8, own_weights=True)
def vit(dim: int, heads: int, patch: int, *, shape: Shape, num_classes: int) -> nn.Module:
    """DeiT-S (Touvron et al. 2021): 12 blocks of width 384, 6 heads; heads and hidden widths are sites."""
    from torchvision.models import VisionTransformer

    if shape[1] != shape[2] or shape[1] % patch:
        raise UsageError(f"images of {shape[1]}x{shape[2]} are not made of square rows of {patch}x{patch} patches")
    network = VisionTransformer(
        image_size=shape[1],
        patch_size=patch,
        num_layers=12,
        num_heads=heads,
        hidden_dim=dim,
        mlp_dim=4 * dim,
        num_classes=num_classes,
    )
    return adapted(network, shape[0])


def _torchvision(model: str, num_classes: int) -> Any:
    from torchvision import models

    options = {"aux_logits": False, "init_weights": False} if model == "googlenet" else {}
    return models.get_model(model, num_classes=num_classes, **options)
