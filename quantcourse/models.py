"""The networks of the course: six small ones with stored weights, and ten classic ones to count.

The small ones take the digits of `quantcourse.data`, 16x16 pixels, and give ten scores.  They are
small enough that a chapter runs in seconds, and between them have what makes quantization hard:
residual sums, depthwise layers, parallel branches, batch normalization with dead channels, attention.
Built and measured on the page *The data and the networks*.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load as read_safetensors
from torch import Tensor, nn

from quantcourse._backbones import BACKBONES, EncoderLayer, ResidualUnit, conv_bn
from quantcourse._checks import integer, one_of

__all__ = ["NAMES", "SEEDS", "backbone", "build", "load"]

SEEDS = 5
"""Each network is stored this many times, from as many training runs."""

_FOLDER = Path(__file__).parent / "weights"
_REMEDY = "install the package again, or train the networks anew: make weights"


def head(width: int) -> list[nn.Module]:
    """Global average pooling and one fully connected layer."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]


def plain() -> nn.Module:
    """Five 3x3 convolutions, each with batch normalization and ReLU."""
    layers: list[nn.Module] = []
    c = 1
    for width, stride in [(16, 2), (16, 1), (32, 2), (32, 1), (32, 1)]:
        layers += [*conv_bn(c, width, 3, stride), nn.ReLU()]
        c = width
    return nn.Sequential(*layers, *head(c))


def residual() -> nn.Module:
    """Three blocks of two convolutions with a shortcut around them.

    Source: He et al. 2016, arXiv 1512.03385, figure 2.
    """
    layers = [*conv_bn(1, 12, 3, stride=2), nn.ReLU()]
    c = 12
    for width, stride in [(12, 1), (24, 2), (36, 2)]:
        body = [*conv_bn(c, width, 3, stride), nn.ReLU(), *conv_bn(width, width, 3)]
        layers.append(ResidualUnit(body, c, width, stride))
        c = width
    return nn.Sequential(*layers, *head(c))


def mobile() -> nn.Module:
    """Five pairs of a depthwise 3x3 and a 1x1 convolution.

    Source: Howard et al. 2017, arXiv 1704.04861, figure 3.
    """
    layers = [*conv_bn(1, 16, 3, stride=2), nn.ReLU()]
    c = 16
    for width, stride in [(32, 1), (32, 1), (64, 2), (64, 1), (64, 1)]:
        layers += [*conv_bn(c, c, 3, stride, groups=c), nn.ReLU()]
        layers += [*conv_bn(c, width, 1), nn.ReLU()]
        c = width
    return nn.Sequential(*layers, *head(c))


class MultiBranch(nn.Module):
    """``relu`` of the sum of a 3x3 branch, a 1x1 branch and, where the shape stays, ``x`` itself.

    Each branch has a batch normalization of its own, so that the three fold into one convolution.

    Source: Ding et al. 2021, RepVGG, arXiv 2101.03697, section 3.3.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.three = nn.Sequential(*conv_bn(c_in, c_out, 3, stride))
        self.one = nn.Sequential(*conv_bn(c_in, c_out, 1, stride))
        same = stride == 1 and c_in == c_out
        self.identity = nn.BatchNorm2d(c_out) if same else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the branches, N C H W, without what is below zero."""
        y = self.three(x) + self.one(x)
        if self.identity is not None:
            y = y + self.identity(x)
        z: Tensor = self.relu(y)
        return z


def multibranch() -> nn.Module:
    """Six blocks of two or three parallel branches, RepVGG's."""
    widths = [(16, 2), (16, 1), (16, 1), (32, 2), (32, 1), (32, 1)]
    layers: list[nn.Module] = []
    c = 1
    for width, stride in widths:
        layers.append(MultiBranch(c, width, stride))
        c = width
    return nn.Sequential(*layers, *head(c))


def mlp() -> nn.Module:
    """Three fully connected layers: 256, 128, 128, 10."""
    hidden = [nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))


class SmallTransformer(nn.Module):
    """A vision transformer on sixteen patches of 4x4 pixels, which averages its tokens at the end.

    Source: Dosovitskiy et al. 2021, arXiv 2010.11929, equations 1 to 4.
    """

    def __init__(self, width: int = 32, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.layers = nn.Sequential(
            *(EncoderLayer(width, heads, 2 * width) for _ in range(depth))
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores N 10 of images N 1 16 16."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        y: Tensor = self.head(self.norm(self.layers(x)).mean(1))
        return y


_SMALL: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "residual": residual,
    "mobile": mobile,
    "multibranch": multibranch,
    "mlp": mlp,
    "vit": SmallTransformer,
    # The same network as mobile, trained so that some of its channels die.
    "mobile_dead": mobile,
}
NAMES = tuple(_SMALL)
"""The names that `build` and `load` take."""


def build(name: str) -> nn.Module:
    """A small network with fresh, random weights.

    Args:
        name: one of ``NAMES``.

    Returns:
        A module in training mode that takes N 1 16 16 floats and gives N 10 scores.

    Raises:
        ValueError: for another name.

    Described on the page *The data and the networks*.

    >>> import torch
    >>> build("plain")(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 10])
    """
    one_of(name, NAMES, "name")
    return _SMALL[name]()


def load(name: str, seed: int = 0) -> nn.Module:
    """A small network with the weights that were stored for it.

    ``"mobile_dead"`` is the network ``"mobile"`` trained in a way that leaves some channels of its
    batch normalizations constant.

    Args:
        name: one of ``NAMES``.
        seed: which of the five training runs, 0..4.

    Returns:
        A new module in evaluation mode, on the CPU; nobody else holds its tensors.

    Raises:
        ValueError: for another name or seed, or if the file is missing or damaged.

    Described on the page *The data and the networks*.

    >>> from quantcourse.data import digits
    >>> images, labels, _ = digits("test")
    >>> (load("plain")(images[:200]).argmax(1) == labels[:200]).float().mean() > 0.9
    tensor(True)
    """
    one_of(name, NAMES, "name")
    seed = integer(seed, 0, SEEDS - 1, "seed")
    # Without storage and so without drawing random numbers, which the caller may count on.
    with torch.device("meta"):
        net = build(name)
    net.load_state_dict(
        read_safetensors(_verified(f"{name}-{seed}.safetensors")), assign=True
    )
    return net.eval()


def _verified(file: str) -> bytes:
    """The bytes of a file of weights, refused unless they are those that were stored."""
    try:
        sums = (_FOLDER / "SHA256SUMS").read_text()
        data = (_FOLDER / file).read_bytes()
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise ValueError(f"{file}: {missing} is missing; {_REMEDY}") from error
    # As sha256sum writes its lines.
    if f"{hashlib.sha256(data).hexdigest()}  {file}\n" not in sums:
        raise ValueError(
            f"{file}: {len(data)} bytes that are not those in SHA256SUMS; {_REMEDY}"
        )
    return data


def backbone(name: str) -> nn.Module:
    """A classic network for 1000 classes with fresh, random weights: made to be counted.

    Under ``torch.device("meta")`` it takes no memory, whatever its size.

    Args:
        name: alexnet, vgg16, resnet18, resnet34, resnet50, resnet101, mobilenet_v2, squeezenet1_1,
            densenet121 or vit_b_16.

    Returns:
        A module in training mode that takes N 3 224 224 floats and gives N 1000 scores.

    Raises:
        ValueError: for another name.

    Source: each architecture's class names its paper; the numbers of parameters are torchvision's.

    Chapter: *Counting parameters and operations*.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = backbone("resnet50")
    >>> sum(p.numel() for p in net.parameters())
    25557032
    """
    one_of(name, tuple(BACKBONES), "name")
    return BACKBONES[name]()
