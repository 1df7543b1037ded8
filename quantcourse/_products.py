"""Exact sums of products of codes, as fast as PyTorch's own products can give them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from quantcourse.affine import QParams

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
BLOCK = 1 << 18  # sums at once: they are requantized while they are in the cache
ROWS = 1 << 10  # the fewest for which a product of matrices is worth its start


@dataclass(frozen=True)
class Window:
    """How a kernel passes over an image; each pair is (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int = 1

    def positions(self, size: Sequence[int], ceil_mode: bool = False) -> list[int]:
        """Rows and columns of the output, for an image of ``size`` (height, width).

        In ``ceil_mode`` a last window may pass the padding's end, but begins before it.
        """
        positions = []
        for length, k, s, p, d in zip(
            size, self.kernel, self.stride, self.padding, self.dilation, strict=True
        ):
            left = length + 2 * p - d * (k - 1) - 1
            last = -(-left // s) if ceil_mode else left // s
            if ceil_mode and last * s >= length + p:
                last -= 1
            positions.append(last + 1)
        if min(positions) < 1:
            raise ValueError(
                f"q: need an image that holds the kernel {self.kernel} (padding "
                f"{self.padding}, dilation {self.dilation}), got {tuple(size)}"
            )
        return positions


Block = tuple[slice, slice, Tensor]  # of images, of rows; their sums, channels last


@dataclass(frozen=True, eq=False)
class Int8Products:
    """Sums by products of int8 matrices: the rows are windows, the columns outputs.

    ``sum (q - z) w = sum q w - z sum w``: the last term is known beforehand,
    as the bias is.
    """

    kernels: Tensor  # a row for each output
    constant: Tensor
    qp: QParams

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, qp: QParams) -> "Int8Products":
        kernels = weight.permute(0, 2, 3, 1).flatten(1)
        zero_point = int(qp.zero_point) - _offset(qp)
        constant = bias - zero_point * kernels.sum(1, dtype=torch.int32)
        return cls(_dense_rows(kernels), constant, qp)

    def blocks(self, q: Tensor, window: Window) -> Iterator[Block]:
        # Codes up to 255 become int8 together with their zero point: no sum changes.
        offset = _offset(self.qp)
        codes = q.to(self.qp.dtype.storage).bitwise_xor(offset).view(torch.int8)
        zero_point = int(self.qp.zero_point) - offset
        windows = _windows(codes.permute(0, 2, 3, 1), zero_point, window)
        count, height, width = windows.shape[:3]
        outputs, inputs = self.kernels.shape
        # As many images as fit a block, or rows of one.
        pixels = max(BLOCK // outputs, ROWS)
        images = min(count, max(1, pixels // (height * width)))
        rows = min(height, max(1, pixels // width))
        memory = q.new_empty((images * rows * width, outputs), dtype=torch.int32)
        for image in range(0, count, images):
            for row in range(0, height, rows):
                part = slice(image, image + images), slice(row, row + rows)
                seen = windows[part]
                matrix = _dense_rows(seen.reshape(-1, inputs))
                sums = memory[: len(matrix)]
                torch._int_mm(matrix, self.kernels.T, out=sums)
                sums.add_(self.constant)
                yield *part, sums.view(*seen.shape[:3], outputs)


def _offset(qp: QParams) -> int:
    return 128 if qp.dtype.max > 127 else 0


@dataclass(frozen=True, eq=False)
class FloatSums:
    """Sums in floats wide enough to be exact, whatever the order of the sum.

    Codes of 8 bits stay exact even where a setting lets float32 lose bits in products.
    """

    parts: Sequence[tuple[slice, Tensor]]  # channels of the input, and their kernels
    bias: Tensor
    zero_point: int

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, qp: QParams, groups: int) -> "FloatSums":
        parts = list(_float_parts(weight, 0, reach_of(qp), groups))
        return cls(parts, bias, int(qp.zero_point))

    def blocks(self, q: Tensor, window: Window) -> Iterator[Block]:
        # As many images as fit a block, but not fewer numbers than there are weights.
        weights = sum(kernels.numel() for _, kernels in self.parts)
        images = max(1, max(BLOCK, weights) // q[0].numel()) if q.is_cpu else len(q)
        for image in range(0, len(q), images):
            some = slice(image, image + images)
            sums = self._sums(q[some], window).permute(0, 2, 3, 1)
            yield some, slice(None), sums

    def _sums(self, q: Tensor, window: Window) -> Tensor:
        total = self.bias.view(-1, 1, 1)
        for channels, kernels in self.parts:
            with torch.autocast(q.device.type, enabled=False):  # bfloat16 would round
                sums = functional.conv2d(
                    q[:, channels].to(kernels.dtype).sub_(self.zero_point),
                    kernels,
                    None,
                    window.stride,
                    window.padding,
                    window.dilation,
                    window.groups,
                )
            total = sums.to(torch.int32).add_(total)
        return total


def _float_parts(
    weight: Tensor, first: int, reach: int, groups: int
) -> Iterator[tuple[slice, Tensor]]:
    """Kernels over channels from ``first`` on, in parts that float32 can sum."""
    kind = torch.float64
    if weight.is_cpu and _has_mkldnn() and reach <= 256:
        weight = weight.to(torch.int32)
        if int(weight.abs().max()) <= 256:
            if int(_magnitude(weight).max()) * reach < 1 << 24:
                kind = torch.float32
            elif groups == 1 and weight.shape[1] > 1:  # half the channels each
                for half in weight.chunk(2, 1):
                    yield from _float_parts(half, first, reach, groups)
                    first += half.shape[1]
                return
    channels = slice(first, first + weight.shape[1] * groups)
    yield channels, weight.to(kind)


def reach_of(qp: QParams) -> int:
    """The largest ``|q - z|``."""
    zero_point = int(qp.zero_point)
    return max(zero_point - qp.dtype.min, qp.dtype.max - zero_point)


def check_bound(weight: Tensor, bias: Tensor, reach: int) -> None:
    """Whether no input can take a sum out of INT32; its terms may all have one sign."""
    largest = int((_magnitude(weight) * reach + bias.to(torch.int64).abs()).max())
    if largest > INT32_MAX:
        raise ValueError(
            "weight, bias: need sum|w - z_w| * max|q - z_x| + |bias| of at most "
            f"{INT32_MAX}, so that no input overflows INT32, got {largest}: use fewer "
            "inputs per output, or narrower types"
        )


def _magnitude(weight: Tensor) -> Tensor:
    """``sum |w|`` of each output."""
    # Sums in INT32 are faster, and wide enough for 2**23 codes of 8 bits.
    small = weight.dtype == torch.int8 and weight[0].numel() <= 1 << 23
    kind = torch.int32 if small else torch.int64
    return weight.to(torch.int32).abs().flatten(1).sum(1, dtype=kind).to(torch.int64)


def fits_int8_product(weight: Tensor, qp: QParams, window: Window) -> bool:
    return (
        window.groups == 1
        and weight[0].numel() > 1  # torch misreads a transposed matrix of one row
        and qp.dtype.bits <= 8
        and weight.dtype == torch.int8
        and weight.device.type == "cpu"
        and int_mm_is_exact()
    )


@cache
def int_mm_is_exact() -> bool:
    """Whether this machine's product of int8 matrices is exact.

    Without instructions that add straight into INT32, the library behind it adds pairs
    of products in INT16, which saturates.  Then the largest products show it.
    """
    if not hasattr(torch, "_int_mm"):
        return False
    generator = torch.Generator().manual_seed(0)
    for m, k, n in [(1, 64, 1), (3, 7, 5), (17, 64, 16), (64, 576, 64), (50, 1000, 33)]:
        for low, high in [(127, 127), (-128, -128), (-128, 127), (127, -128)]:
            a = torch.full((m, k), low, dtype=torch.int8)
            b = torch.full((n, k), high, dtype=torch.int8)
            a[torch.rand(m, k, generator=generator) < 0.1] = 1
            exact = a.to(torch.float64) @ b.to(torch.float64).T
            if not torch.equal(torch._int_mm(a, b.T).to(torch.float64), exact):
                return False
    return True


def _dense_rows(matrix: Tensor) -> Tensor:
    """Rows one after the other in memory.

    ``torch._int_mm`` misreads windows that overlap in memory, and a single row whose
    stride is not its length, which torch counts as contiguous.
    """
    if matrix.stride() == (matrix.shape[1], 1):
        return matrix
    return matrix.clone(memory_format=torch.contiguous_format)


def _windows(images: Tensor, fill: int, window: Window) -> Tensor:
    """What the kernel sees at each position, in a row: (images, height, width, row).

    ``images`` has its channels last.
    """
    (kernel_h, kernel_w), (s_h, s_w) = window.kernel, window.stride
    (p_h, p_w), (d_h, d_w) = window.padding, window.dilation
    height, width = window.positions(images.shape[1:3])
    padded = functional.pad(images, (0, 0, p_w, p_w, p_h, p_h), value=fill).contiguous()
    count, _, _, channels = padded.shape
    image, row, pixel, channel = padded.stride()
    return padded.as_strided(
        (count, height, width, kernel_h, kernel_w, channels),
        (image, row * s_h, pixel * s_w, row * d_h, pixel * d_w, channel),
    ).reshape(count, height, width, -1)


def _has_mkldnn() -> bool:
    """Whether sums are sums: other libraries may take the short cut of Winograd, which rounds."""
    library = torch.backends.mkldnn
    present = library.is_available()  # type: ignore[no-untyped-call]
    return bool(present and library.enabled)


def centred_weight(weight: Tensor, qp: QParams) -> Tensor:
    """``w - z_w``, as int8 where it fits."""
    zero_point = qp.zero_point.to(weight.device)
    if zero_point.any():
        weight = weight.to(torch.int32) - zero_point.view(-1, *[1] * (weight.ndim - 1))
    low, high = (int(end) for end in weight.aminmax())
    return weight.to(torch.int8 if low >= -128 and high <= 127 else torch.int32)
