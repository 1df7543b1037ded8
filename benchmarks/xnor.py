"""How fast is the XNOR product of signs, beside the same product in float32 and in INT8?

One table, from one run:

    python benchmarks/xnor.py --repeats 15

A matrix of weights, n x k signs, meets m vectors of k signs.  All on one thread, weights prepared before the clock
starts, as they are in a network:

- *xnor*: ``quantcourse.codebook.xnor_matmul`` on weights packed in advance; packing the other operand is timed too.
- *xnor, packed*: both operands packed in advance: the comparing and counting alone.
- *float32*: ``torch.matmul`` on the signs as float32.
- *int8*: ``torch._int_mm`` on the signs as INT8, where this torch has it and it is exact on this processor.  It is
  private, and takes m of 17 and more.

The peers run by turns within each repetition, so a busy machine slows all of them alike.  Times are medians over the
repetitions.  ``float32 / xnor`` above 1 means that XNOR is faster than float32; the last two columns say the same of
the packed product, and of INT8 against XNOR.  Before anything is timed, every peer must give the same matrix.

What is theoretical: a 64-bit word holds 64 signs, one XOR and one population count do 64 multiplications and
additions, and the weights take a 32nd of the bytes of float32.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from quantcourse.codebook import pack_signs, xnor_matmul

SIZES = [(m, size, size) for size in (256, 1024, 4096) for m in (1, 32)] + [(1024, 1024, 1024)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Times of products of signs: XNOR, float32, INT8.")
    parser.add_argument("--repeats", type=int, default=15, help="repetitions (default: %(default)s)")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("need at least 1 repetition")
    torch.set_num_threads(1)
    print(f"medians of {options.repeats} repetitions by turns, one thread; microseconds")
    heading = (
        f"{'m':>5}{'k':>6}{'n':>6}{'xnor':>10}{'packed':>10}{'float32':>10}{'int8':>10}"
        f"{'float32 / xnor':>16}{'float32 / packed':>18}{'int8 / xnor':>13}"
    )
    print(heading)
    print("-" * len(heading))
    for m, k, n in SIZES:
        times = measure(jobs(m, k, n), options.repeats)
        cells = "".join(
            f"{times[who]:10.0f}" if who in times else f"{'-':>10}" for who in ("xnor", "packed", "float32")
        )
        int8 = f"{times['int8']:10.0f}" if "int8" in times else f"{'-':>10}"
        ratio = f"{times['int8'] / times['xnor']:13.2f}" if "int8" in times else f"{'-':>13}"
        print(
            f"{m:5}{k:6}{n:6}{cells}{int8}{times['float32'] / times['xnor']:16.2f}"
            f"{times['float32'] / times['packed']:18.2f}{ratio}"
        )


def jobs(m: int, k: int, n: int) -> dict[str, Callable[[], Tensor]]:
    """The peers by name.  Checked to agree."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (m, k), generator=generator) * 2.0 - 1
    w = torch.randint(0, 2, (n, k), generator=generator) * 2.0 - 1
    packed_x, packed_w, turned = pack_signs(x), pack_signs(w), w.T.contiguous()
    x8, w8 = x.to(torch.int8), turned.to(torch.int8)
    found: dict[str, Callable[[], Tensor]] = {
        "xnor": lambda: xnor_matmul(x, packed_w),
        "packed": lambda: xnor_matmul(packed_x, packed_w),
        "float32": lambda: x @ turned,
    }
    exact = found["float32"]().int()
    if m > 16 and hasattr(torch, "_int_mm") and torch.equal(torch._int_mm(x8, w8), exact):
        found["int8"] = lambda: torch._int_mm(x8, w8)
    for who, run in found.items():
        if not torch.equal(run().int(), exact):
            raise SystemExit(f"{who} gives another matrix, so its time can't be compared")
    return found


def measure(group: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Median microseconds of each."""
    names = list(group)
    times: dict[str, list[float]] = {who: [] for who in names}
    for repetition in range(repeats):
        for who in np.roll(names, repetition):  # so that nobody always comes after the same neighbour
            start = time.perf_counter()
            group[who]()
            times[who].append((time.perf_counter() - start) * 1e6)
    return {who: float(np.median(t)) for who, t in times.items()}


if __name__ == "__main__":
    main()
