"""How fast is ``quantcourse.affine.fake_quantize``, beside torch's own operations?

One table, from one run:

    python benchmarks/fake_quantize.py --values 4194304 --repeats 15

Standard-normal float32 values are quantized and dequantized with one scale, with one for each of 64 channels, and in
groups of 32 along the last axis (which torch has no operation for), in INT8 with zero points, single-threaded:

- *quantcourse* is ``fake_quantize(x, qp)``, with its checks that every value is finite and that shapes fit.
- *expression* is what one would write, ``(clamp(round(x / s) + z, -128, 127) - z) * s``, with float32 tensors s and z.
- *torch* is ``torch.fake_quantize_per_tensor_affine`` or ``torch.fake_quantize_per_channel_affine``.

The peers run by turns within each repetition, so a busy machine slows all of them alike.  Times are medians over the
repetitions in milliseconds, the spread is half the distance between the quartiles.  ``ours / theirs`` compares the two
medians: below 1, quantcourse is faster.  Before anything is timed, the expression must give the same numbers as
quantcourse in every bit, and torch's operations, which multiply by 1 / s, the same but for a step on one value in 10,000.

The checks take a fixed time a call, tens of microseconds.  On fewer than some 100,000 values that weighs more than what
arithmetic in place saves, and the bare expression is faster.

The last line states the requirement of the course: at most 1.2 times the time of the expression, and faster than torch.
It compares the fastest repetitions, since other work on the machine only ever adds time.  The exit status is 1 if it is
not so.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quantcourse.affine import INT8, QParams, choose_qparams, fake_quantize

CHANNELS, GROUP = 64, 32


@dataclass(frozen=True)
class Peer:
    """One line of the table: somebody doing the same work, and how many times its time ours may take."""

    who: str
    run: Callable[[], Tensor]
    limit: float = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Milliseconds: quantcourse.affine.fake_quantize and its peers.")
    parser.add_argument("--values", type=int, default=1 << 22, help="values, in whole channels (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="repetitions (default: %(default)s)")
    options = parser.parse_args()
    if options.values < CHANNELS * GROUP or options.values % (CHANNELS * GROUP) or options.repeats < 1:
        parser.error(f"need a multiple of {CHANNELS * GROUP} values and at least 1 repetition")
    torch.set_num_threads(1)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((CHANNELS, options.values // CHANNELS))).float()

    print(f"{options.values} float32 values, INT8, {options.repeats} repetitions by turns; ms")
    heading = f"{'scales':12}{'who':13}{'median':>9}{'spread':>9}   ours / theirs"
    print(heading)
    print("-" * len(heading))
    kept, ratios = True, []
    for scales, group in work(x).items():
        times = measure(group, options.repeats)
        for peer, milliseconds in zip(group, times, strict=True):
            low, middle, high = np.percentile(milliseconds, [25, 50, 75])
            ratio = "" if peer is group[0] else f"{np.median(times[0]) / middle:16.2f}"
            print(f"{scales:12}{peer.who:13}{middle:9.2f}{(high - low) / 2:9.2f}{ratio}")
            if peer is not group[0]:
                fastest = times[0].min() / milliseconds.min()
                ratios.append(f"{scales} {peer.who} {fastest:.2f}")
                kept &= bool(fastest <= peer.limit)
    print(f"\nFastest of quantcourse / fastest of the peer: {', '.join(ratios)}.")
    print(f"At most 1.2 of the expression and 1 of torch is required: {'kept' if kept else 'BROKEN'}.")
    return 0 if kept else 1


def work(x: Tensor) -> dict[str, list[Peer]]:
    """quantcourse first, then its peers.  Checked to agree before they are timed."""
    one = choose_qparams(x.min(), x.max(), INT8, symmetric=False)
    many = choose_qparams(x.amin(1), x.amax(1), INT8, symmetric=False, axis=0)
    blocks = x.unflatten(1, (-1, GROUP))
    groups = choose_qparams(blocks.amin(2), blocks.amax(2), INT8, symmetric=False, axis=1, group_size=GROUP)
    found = {
        "per tensor": [
            ours(x, one),
            expression(x, one.scale, one.zero_point),
            torch_op(lambda: torch.fake_quantize_per_tensor_affine(x, one.scale, one.zero_point, -128, 127)),
        ],
        "per channel": [
            ours(x, many),
            expression(x, many.scale[:, None], many.zero_point[:, None]),
            torch_op(lambda: torch.fake_quantize_per_channel_affine(x, many.scale, many.zero_point, 0, -128, 127)),
        ],
        "per group": [
            ours(x, groups),
            expression(blocks, groups.scale[:, :, None], groups.zero_point[:, :, None]),
        ],
    }
    for scales, (first, *peers) in found.items():
        for peer in peers:
            different = (first.run() != peer.run().view(x.shape)).sum()
            if different > (x.numel() / 10_000 if peer.who == "torch" else 0):
                raise SystemExit(f"{scales}: {peer.who} gives other numbers, so their times can't be compared")
    return found


def ours(x: Tensor, qp: QParams) -> Peer:
    return Peer("quantcourse", lambda: fake_quantize(x, qp))


def expression(x: Tensor, s: Tensor, zero_point: Tensor) -> Peer:
    z = zero_point.float()
    return Peer("expression", lambda: (torch.clamp(torch.round(x / s) + z, -128, 127) - z) * s, limit=1.2)


def torch_op(run: Callable[[], Tensor]) -> Peer:
    return Peer("torch", run)


def measure(group: list[Peer], repeats: int) -> list[np.ndarray]:
    """Milliseconds: one array a peer, one number a repetition."""
    for peer in group:
        peer.run()  # once unmeasured: first calls allocate and look up
    times: list[list[float]] = [[] for _ in group]
    for repetition in range(repeats):
        order = np.roll(np.arange(len(group)), repetition)  # so that nobody always comes after the same neighbour
        for index in order:
            start = time.perf_counter()
            group[index].run()
            times[index].append((time.perf_counter() - start) * 1e3)
    return [np.array(t) for t in times]


if __name__ == "__main__":
    sys.exit(main())
