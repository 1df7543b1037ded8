"""Ten classic networks for 1000 classes, untrained: what the chapter *Counting parameters and operations* counts.

Each class is one published architecture in plain PyTorch, with exactly its number of parameters.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["BACKBONES"]


def conv_bn(
    c_in: int, c_out: int, k: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution that keeps the size at stride 1, and its batch normalization."""
    return [
        nn.Conv2d(c_in, c_out, k, stride, k // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]


def alexnet() -> nn.Module:
    """AlexNet in one column: Krizhevsky, arXiv 1404.5997."""
    features = [
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    ]
    classifier = [
        *(nn.AdaptiveAvgPool2d(6), nn.Flatten()),
        *(nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)),
    ]
    return nn.Sequential(*features, *classifier)


def vgg16() -> nn.Module:
    """VGG-16 without batch normalization: Simonyan and Zisserman, arXiv 1409.1556."""
    layers: list[nn.Module] = []
    c = 3
    for width, depth in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        for _ in range(depth):
            layers += [nn.Conv2d(c, width, 3, padding=1), nn.ReLU()]
            c = width
        layers.append(nn.MaxPool2d(2))
    classifier = [
        *(nn.AdaptiveAvgPool2d(7), nn.Flatten()),
        *(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 1000)),
    ]
    return nn.Sequential(*layers, *classifier)


class ResidualUnit(nn.Module):
    """``relu(body(x) + shortcut(x))``; the shortcut is a convolution where the shape changes."""

    def __init__(
        self, body: list[nn.Module], c_in: int, c_out: int, stride: int
    ) -> None:
        super().__init__()
        same = stride == 1 and c_in == c_out
        self.body = nn.Sequential(*body)
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(*conv_bn(c_in, c_out, 1, stride))
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return y


def basic_unit(c_in: int, width: int, stride: int) -> tuple[nn.Module, int]:
    """Two 3x3 convolutions, and the number of channels that come out."""
    body = [*conv_bn(c_in, width, 3, stride), nn.ReLU(), *conv_bn(width, width, 3)]
    return ResidualUnit(body, c_in, width, stride), width


def bottleneck_unit(c_in: int, width: int, stride: int) -> tuple[nn.Module, int]:
    """1x1, 3x3, 1x1, four times as wide at the end, and the number of channels that come out."""
    c_out = 4 * width
    body = [
        *(*conv_bn(c_in, width, 1), nn.ReLU()),
        # The stride is on the 3x3: "v1.5".  The paper has it on the first 1x1.
        *(*conv_bn(width, width, 3, stride), nn.ReLU()),
        *conv_bn(width, c_out, 1),
    ]
    return ResidualUnit(body, c_in, c_out, stride), c_out


def resnet(
    unit: Callable[[int, int, int], tuple[nn.Module, int]], depths: tuple[int, ...]
) -> nn.Module:
    """A ResNet, with ``depths`` units in its stages: He et al., arXiv 1512.03385."""
    layers = [*conv_bn(3, 64, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    c = 64
    for stage, depth in enumerate(depths):
        for i in range(depth):
            block, c = unit(c, 64 << stage, 2 if stage and not i else 1)
            layers.append(block)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 1000)]
    return nn.Sequential(*layers, *head)


class InvertedResidual(nn.Module):
    """1x1 wider by ``expand``, depthwise 3x3, 1x1 narrow; added to ``x`` where the shape stays."""

    def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = c_in * expand
        widen = [] if expand == 1 else [*conv_bn(c_in, wide, 1), nn.ReLU6()]
        depthwise = [*conv_bn(wide, wide, 3, stride, groups=wide), nn.ReLU6()]
        self.body = nn.Sequential(*widen, *depthwise, *conv_bn(wide, c_out, 1))
        self.add = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.add else y


class GlobalAverage(nn.Module):
    """The mean over height and width, as a function: a counter of modules does not see it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 at width 1: Sandler et al., arXiv 1801.04381, table 2."""
    layers = [*conv_bn(3, 32, 3, stride=2), nn.ReLU6()]
    c = 32
    # expansion, channels, units, stride of the first
    for t, width, n, s in [
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ]:
        for i in range(n):
            layers.append(InvertedResidual(c, width, 1 if i else s, t))
            c = width
    layers += [*conv_bn(c, 1280, 1), nn.ReLU6(), GlobalAverage()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(1280, 1000))


class Fire(nn.Module):
    """Squeeze to few channels, then expand with 1x1 and 3x3 side by side."""

    def __init__(self, c_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(c_in, squeeze, 1), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(squeeze, expand, 1), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(squeeze, expand, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat([self.one(x), self.three(x)], 1)


def squeezenet1_1() -> nn.Module:
    """SqueezeNet 1.1: Iandola et al., arXiv 1602.07360, and the authors' later release."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool()),
        *(Fire(64, 16, 64), Fire(128, 16, 64), pool()),
        *(Fire(128, 32, 128), Fire(256, 32, 128), pool()),
        *(
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        ),
        *(nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


class DenseLayer(nn.Module):
    """``growth`` new channels, computed from all before and appended to them."""

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(
                nn.BatchNorm2d(c_in),
                nn.ReLU(),
                nn.Conv2d(c_in, 4 * growth, 1, bias=False),
            ),
            *(nn.BatchNorm2d(4 * growth), nn.ReLU()),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet121() -> nn.Module:
    """DenseNet-121, growth 32: Huang et al., arXiv 1608.06993, table 1."""
    layers = [*conv_bn(3, 64, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    c = 64
    for stage, depth in enumerate([6, 12, 24, 16]):
        if stage:
            squeeze = nn.Conv2d(c, c // 2, 1, bias=False)
            layers += [nn.BatchNorm2d(c), nn.ReLU(), squeeze, nn.AvgPool2d(2)]
            c //= 2
        for _ in range(depth):
            layers.append(DenseLayer(c, 32))
            c += 32
    layers += [nn.BatchNorm2d(c), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(c, 1000))


class Attention(nn.Module):
    """Multi-head self-attention with its four projections and two products in the open.

    Source: Vaswani et al. 2017, arXiv 1706.03762, equation 1 and section 3.2.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.softmax = nn.Softmax(dim=-1)
        self.heads, self.scale = heads, (width // heads) ** -0.5

    def split(self, x: Tensor) -> Tensor:
        """N, tokens, width to N, heads, tokens, width / heads."""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        weights = self.softmax((q @ k.transpose(-2, -1)) * self.scale)
        y: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return y


class EncoderLayer(nn.Module):
    """Attention, then two linear layers per token, each after a layer norm and added to ``x``."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, eps), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class VisionTransformer(nn.Module):
    """ViT-B/16 at 224x224: Dosovitskiy et al., arXiv 2010.11929, equations 1 to 4."""

    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, stride=16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 1 + 14 * 14, width) * 0.02)
        layers = [EncoderLayer(width, heads, 4 * width, 1e-6) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        y: Tensor = self.head(self.norm(self.layers(x))[:, 0])
        return y


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "alexnet": alexnet,
    "vgg16": vgg16,
    "resnet18": lambda: resnet(basic_unit, (2, 2, 2, 2)),
    "resnet34": lambda: resnet(basic_unit, (3, 4, 6, 3)),
    "resnet50": lambda: resnet(bottleneck_unit, (3, 4, 6, 3)),
    "resnet101": lambda: resnet(bottleneck_unit, (3, 4, 23, 3)),
    "mobilenet_v2": mobilenet_v2,
    "squeezenet1_1": squeezenet1_1,
    "densenet121": densenet121,
    "vit_b_16": VisionTransformer,
}
