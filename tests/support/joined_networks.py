"""Tiny networks whose units are several channels, or have several producers; and layers beside convolutions."""

from torch import nn
from torch.nn import functional as F
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.swin_transformer import SwinTransformer

from bench.conformance.tiny_networks import conv, head


class Joined(nn.Module):
    """Layers by name, and what ``forward`` makes of them and an image."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def down(channels, classes=4):
    """A convolution that reads channels, pooling, a linear layer."""
    return nn.Sequential(conv(channels, 5), nn.ReLU(), *head(5, classes))


def gated_by(split, make=None, inp=3):
    """Gated linear unit (Dauphin et al. 2017): one half of a layer's channels times the sigmoid of the other."""

    def forward(self, x):
        value, gate = split(self.up(x))
        return self.rest(value * gate.sigmoid())

    return Joined(forward, up=make or conv(inp, 12), rest=down(6))


def gated_by_chunk():
    return gated_by(lambda x: x.chunk(2, dim=1))


def gated_by_stride():
    return gated_by(lambda x: (x[:, ::2], x[:, 1::2]))


def gated_by_module():
    return Joined(lambda self, x: self.rest(self.glu(self.up(x))), up=conv(3, 12), glu=nn.GLU(1), rest=down(6))


def maxout():
    """The larger one of three channels (Goodfellow et al. 2013)."""
    return Joined(lambda self, x: self.rest(self.up(x).unflatten(1, (-1, 3)).amax(2)), up=conv(3, 18), rest=down(6))


def swiglu():
    """Two linear layers whose product a third one reads (Shazeer 2020)."""

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.out(F.silu(self.gate(x)) * self.value(x)).mean(dim=1)

    linears = {name: nn.Linear(6, 9) for name in ("gate", "value")}
    return Joined(forward, stem=nn.Conv2d(3, 6, 4, 4), **linears, out=nn.Linear(9, 4))


def branches(identity):
    """A block of RepVGG (Ding et al. 2021): the sum of two convolutions of one map, or of these and the map."""

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.norm3(self.conv3(x)) + self.norm1(self.conv1(x))
        return self.rest((y + self.norm0(x) if identity else y).relu())

    norms = {f"norm{k}": nn.BatchNorm2d(6) for k in (0, 1, 3)}
    return Joined(forward, stem=conv(3, 6), conv3=conv(6, 6), conv1=conv(6, 6, 1), **norms, rest=down(6))


def group_norm(groups=3, affine=True):
    return nn.Sequential(conv(3, 12), nn.GroupNorm(groups, 12, affine=affine), nn.ReLU(), conv(12, 5), *head(5))


def instance_norm():
    return nn.Sequential(conv(3, 6), nn.InstanceNorm2d(6, affine=True, track_running_stats=True), nn.ReLU(), *down(6))


def transposed():
    """Down by a stride and up again by transposed convolutions, the first depthwise."""
    up = nn.ConvTranspose2d(6, 6, 2, 2, groups=6), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 7, 2, 2)
    return nn.Sequential(conv(3, 6, stride=4), nn.ReLU(), *up, nn.ReLU(), *down(7))


def attention(heads=3, split=False, num="num_heads"):
    """Heads as libraries write them: one layer for query, key and value or ``split`` in three, a reshape to heads."""

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        y = self.attend(tokens)
        return self.fc((tokens + y).mean(dim=1))

    def attend(self, x):
        b, n, _ = x.shape
        if split:
            q, k, v = (t(x).view(b, n, getattr(self, num), -1).transpose(1, 2) for t in (self.q, self.k, self.v))
        else:
            q, k, v = self.qkv(x).reshape(b, n, 3, getattr(self, num), -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT * 0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, self.inner))

    made = {name: nn.Linear(6, 12) for name in "qkv"} if split else {"qkv": nn.Linear(6, 36)}
    layer = Joined(attend, **made, proj=nn.Linear(12, 6))
    setattr(layer, num, heads)
    layer.inner, layer.head_dim = 12, 12 // heads
    return Joined(forward, patches=nn.Conv2d(3, 6, 4, 4), attend=layer, fc=nn.Linear(6, 4))


JOINED = {
    "gated_by_chunk": (gated_by_chunk, "inner"),
    "gated_by_stride": (gated_by_stride, "inner"),
    "gated_by_module": (gated_by_module, "inner"),
    "maxout": (maxout, "inner"),
    "swiglu": (swiglu, "inner"),
    "branches": (lambda: branches(identity=False), "inner"),
    "group_norm": (group_norm, "inner"),
    "instance_norm": (instance_norm, "inner"),
    "transposed": (transposed, "inner"),
    "attention": (attention, "inner"),
    "attention_of_three": (lambda: attention(split=True, num="heads"), "inner"),
}


def shuffling():
    """ShuffleNet V2 (Ma et al. 2018): three blocks deep, torch-pruning divides by zero where a shuffle begins."""
    return ShuffleNetV2([3, 1, 1], [8, 16, 32, 32, 32], num_classes=4)


def merging():
    """Swin (Liu et al. 2021): behind eight blocks torch-pruning adds None to a number where patches are merged."""
    return SwinTransformer([4, 4], 8, [1, 8, 1], [2, 2, 2], [2, 2], num_classes=4)


HARD = [
    (shuffling, "stage2.1.branch2.0", "stage2.1.branch2.5"),
    (merging, "features.3.5.mlp.0", "features.3.5.mlp.3"),
]
"""Networks that torch-pruning cannot follow by itself, a layer of each, and one that reads its units."""
