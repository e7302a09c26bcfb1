"""Small networks that are written as people write them: shared layers, odd outputs, paths that only training takes."""

import torch
from support.networks import conv
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class Odd(nn.Module):
    """Two convolutions with batch norm and a linear layer; ``SHAPE`` in, four classes."""

    def __init__(self, width=6):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(conv(8, width, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.fc = nn.Linear(width, 4)

    def forward(self, x):
        return self.fc(self.body(self.stem(x)).mean((2, 3)))


class Alias(Odd):
    """One module under two names."""

    def __init__(self):
        super().__init__()
        self.features = self.stem

    def forward(self, x):
        return self.fc(self.body(self.features(x)).mean((2, 3)))


class Volume(nn.Module):
    """Conv3d on the image as a volume."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6)
        self.conv2, self.fc = nn.Conv3d(6, 5, 3, padding=1), nn.Linear(5, 4)

    def forward(self, x):
        return self.fc(self.conv2(self.norm1(self.conv1(x.unsqueeze(1))).relu()).relu().mean((2, 3, 4)))


class DictOutput(Odd):
    """Gives its features, too."""

    def forward(self, x):
        features = self.body(self.stem(x))
        return {"logits": self.fc(features.mean((2, 3))), "features": features}


class TupleWhileTraining(Odd):
    """Auxiliary logits while training."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        logits = self.fc(self.body(x).mean((2, 3)))
        return (logits, self.auxiliary(x.mean((2, 3)))) if self.training else logits


class TrainingOnly(TupleWhileTraining):
    """A layer that only training calls is added to the logits."""

    def forward(self, x):
        out = super().forward(x)
        return out[0] + out[1] if self.training else out


class ExpandedToken(nn.Module):
    """A learned token is expanded over the batch and handed to a layer."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.patches, self.project = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8)
        self.mlp, self.fc = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)), nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.project(self.token.expand(len(x), -1, -1))
        return self.fc((x + self.mlp(x)).mean(1))


class StochasticDepth(Odd):
    """While training, residual blocks are skipped for whole batches."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(conv(8, 7), nn.ReLU(), conv(7, 8)) for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            if not self.training or torch.rand(()) > 0.5:
                x = (x + block(x)).relu()
        return self.fc(self.body(x).mean((2, 3)))


class Tied(Odd):
    """Two convolutions share one weight."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = conv(8, 8, bias=False), conv(8, 8, bias=False)
        self.conv2.weight = self.conv1.weight

    def forward(self, x):
        return self.fc(self.body(self.conv2(self.conv1(self.stem(x)).relu()).relu()).mean((2, 3)))


class Split(Odd):
    """Channels are split, and each part has a grouped convolution of its own."""

    def __init__(self):
        super().__init__()
        self.left, self.right = (nn.Conv2d(4, 4, 3, padding=1, groups=2) for _ in range(2))

    def forward(self, x):
        left, right = self.stem(x).split(4, dim=1)
        return self.fc(self.body(torch.cat([self.left(left), self.right(right)], 1).relu()).mean((2, 3)))


class ViewFlatten(nn.Module):
    """Flattens a map by ``view``, which channels-last memory does not allow."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = conv(3, 6), conv(6, 5)
        self.fc1, self.fc2 = nn.Linear(5 * 4, 7), nn.Linear(7, 4)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(x.view(x.size(0), -1)).relu())


class WeightNorm(Odd):
    """A layer whose weight is computed of two parameters."""

    def __init__(self):
        super().__init__()
        self.normed = weight_norm(conv(8, 8))

    def forward(self, x):
        return self.fc(self.body(self.normed(self.stem(x)).relu()).mean((2, 3)))


class Valid(Odd):
    """A convolution whose padding is a word."""

    def __init__(self):
        super().__init__()
        self.stem[0] = nn.Conv2d(3, 8, 3, padding="valid", bias=False)


ODD = {
    kind.__name__: kind
    for kind in (
        *(Alias, Volume, DictOutput, TupleWhileTraining, TrainingOnly, ExpandedToken, StochasticDepth),
        *(Tied, Split, ViewFlatten, WeightNorm, Valid),
    )
}
