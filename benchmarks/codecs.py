"""How fast are the number formats of ``quantcourse.floats``, beside others that do the same work?

One table, from one run:

    python benchmarks/codecs.py --values 1000000 --repeats 15

Three kinds of work on the same standard-normal float32 values, in milliseconds for a million values:

- *round*: values in, the nearest numbers of the format out, as floating-point values.  ``quantcourse`` is
  ``form.round(x)`` and gives float64.  ``ml_dtypes`` and ``NumPy`` are a cast to the narrow type and back to
  float32, ``torch`` is ``x.to(dtype).to(float32)``, all single-threaded.  ``gfloat`` is ``round_ndarray`` on
  float64; it alone has TF32 and FP24.
- *encode*: values in, codes out.  The peers' cast to the narrow type; gfloat's ``round_ndarray``, then ``encode_ndarray``.
- *decode*: codes in, values out.  The peers' cast from the narrow type to float32, quantcourse and gfloat to float64.

The peers run by turns within each repetition, so a busy machine slows all of them alike.  Times are medians over the
repetitions, the spread is half the distance between the quartiles.  gfloat works on a twentieth of the values and
its time is scaled up.  ``ours / theirs`` compares the two medians: below 1, quantcourse is faster.  Before anything is
timed, every peer must give the same numbers as quantcourse.

The last line states the requirement of the course: FP8 rounding is at most as slow as with ml_dtypes.  It compares the
fastest repetitions, since other work on the machine only ever adds time.  The exit status is 1 if it is not so.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gfloat
import ml_dtypes
import numpy as np
import torch

from quantcourse.floats import (
    BF16,
    FP4_E2M1,
    FP8_E4M3,
    FP8_E5M2,
    FP16,
    FP24,
    TF32,
    FloatFormat,
)

FORMATS = (FP8_E4M3, FP8_E5M2, BF16, FP16, TF32, FP24, FP4_E2M1)
ML_DTYPES = {
    FP8_E4M3: ml_dtypes.float8_e4m3fn,
    FP8_E5M2: ml_dtypes.float8_e5m2,
    BF16: ml_dtypes.bfloat16,
    FP4_E2M1: ml_dtypes.float4_e2m1fn,
}
TORCH = {
    FP8_E4M3: torch.float8_e4m3fn,
    FP8_E5M2: torch.float8_e5m2,
    BF16: torch.bfloat16,
    FP16: torch.float16,
}
GFLOAT_SHARE = 20  # gfloat gets one value in so many


@dataclass(frozen=True)
class Job:
    """One line of the table: somebody doing one kind of work on so many values."""

    work: str
    form: FloatFormat
    who: str
    run: Callable[[], Any]
    values: int


def main() -> int:
    parser = argparse.ArgumentParser(description="Milliseconds per million values: quantcourse.floats and its peers.")
    parser.add_argument("--values", type=int, default=1_000_000, help="values per repetition (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="repetitions (default: %(default)s)")
    options = parser.parse_args()
    if options.values < GFLOAT_SHARE or options.repeats < 1:
        parser.error(f"need at least {GFLOAT_SHARE} values and 1 repetition")
    torch.set_num_threads(1)
    x = np.random.default_rng(0).standard_normal(options.values).astype(np.float32)
    few = x[: options.values // GFLOAT_SHARE]

    print(f"{options.values} float32 values, {options.repeats} repetitions by turns; ms per million values")
    print(f"gfloat: {few.size} values, scaled")
    heading = f"{'work':8}{'format':10}{'who':13}{'median':>9}{'spread':>9}   ours / theirs"
    print(heading)
    print("-" * len(heading))
    fp8 = {}
    for work in ("round", "encode", "decode"):
        for form in FORMATS:
            group = [job for job in jobs(form, x, few) if job.work == work]
            times = measure(group, options.repeats)
            for job, milliseconds in zip(group, times, strict=True):
                ratio = np.median(times[0]) / np.median(milliseconds)
                print(line(job, milliseconds, ratio))
                if work == "round" and job.who == "ml_dtypes" and form in (FP8_E4M3, FP8_E5M2):
                    fp8[form.name] = times[0].min() / milliseconds.min()
    kept = all(ratio <= 1 for ratio in fp8.values())
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in fp8.items())
    print(
        f"\nFP8 rounding, fastest of quantcourse / fastest of ml_dtypes: {ratios}. At most 1 is required: {'kept' if kept else 'BROKEN'}."
    )
    return 0 if kept else 1


def line(job: Job, milliseconds: np.ndarray, ratio: float) -> str:
    low, middle, high = np.percentile(milliseconds, [25, 50, 75])
    against = "" if job.who == "quantcourse" else f"{ratio:16.2f}"
    return f"{job.work:8}{job.form.name:10}{job.who:13}{middle:9.2f}{(high - low) / 2:9.2f}{against}"


def measure(group: list[Job], repeats: int) -> list[np.ndarray]:
    """Milliseconds per million values: one array a job, one number a repetition."""
    for job in group:
        job.run()  # once unmeasured: first calls allocate and look up
    times: list[list[float]] = [[] for _ in group]
    for repetition in range(repeats):
        order = np.roll(np.arange(len(group)), repetition)  # so that nobody always comes after the same neighbour
        for index in order:
            start = time.perf_counter()
            group[index].run()
            times[index].append((time.perf_counter() - start) * 1e3 * 1e6 / group[index].values)
    return [np.array(t) for t in times]


def jobs(form: FloatFormat, x: np.ndarray, few: np.ndarray) -> list[Job]:
    """quantcourse first, then every peer that has the format.  Checked to agree before they are timed."""
    codes = form.encode(x)
    rounded = form.round(x)
    count = x.size
    found = [
        Job("round", form, "quantcourse", lambda: form.round(x), count),
        Job("encode", form, "quantcourse", lambda: form.encode(x), count),
        Job("decode", form, "quantcourse", lambda: form.decode(codes), count),
    ]

    narrow = np.float16 if form is FP16 else ML_DTYPES.get(form)
    if narrow is not None:
        who = "NumPy" if form is FP16 else "ml_dtypes"
        cast = x.astype(narrow)
        check(form, who, cast.astype(np.float32), rounded)
        found += [
            Job("round", form, who, lambda: x.astype(narrow).astype(np.float32), count),
            Job("encode", form, who, lambda: x.astype(narrow), count),
            Job("decode", form, who, lambda: cast.astype(np.float32), count),
        ]

    if form in TORCH:
        tensor, dtype = torch.from_numpy(x), TORCH[form]
        narrow_tensor = tensor.to(dtype)
        check(form, "torch", narrow_tensor.to(torch.float32).numpy(), rounded)
        found += [
            Job("round", form, "torch", lambda: tensor.to(dtype).to(torch.float32), count),
            Job("encode", form, "torch", lambda: tensor.to(dtype), count),
            Job("decode", form, "torch", lambda: narrow_tensor.to(torch.float32), count),
        ]

    peer = as_gfloat(form)
    wide, saturate = few.astype(np.float64), form.specials == "finite"
    few_codes = codes[: few.size].astype(np.int64)
    check(form, "gfloat", gfloat.round_ndarray(peer, wide, sat=saturate), rounded[: few.size])
    found += [
        Job("round", form, "gfloat", lambda: gfloat.round_ndarray(peer, wide, sat=saturate), few.size),
        Job("encode", form, "gfloat", lambda: gfloat_encode(peer, wide, saturate), few.size),
        Job("decode", form, "gfloat", lambda: gfloat.decode_ndarray(peer, few_codes), few.size),
    ]
    return found


def gfloat_encode(peer: gfloat.FormatInfo, x: np.ndarray, saturate: bool) -> np.ndarray:
    return gfloat.encode_ndarray(peer, gfloat.round_ndarray(peer, x, sat=saturate))


def check(form: FloatFormat, who: str, theirs: np.ndarray, ours: np.ndarray) -> None:
    if not np.array_equal(theirs, ours):
        raise SystemExit(f"{form.name}: {who} gives other numbers, so their times can't be compared")


def as_gfloat(form: FloatFormat) -> gfloat.FormatInfo:
    nans = {"ieee": 2**form.fraction_bits - 1, "fn": 1, "finite": 0}[form.specials]
    return gfloat.FormatInfo(
        name=form.name,
        k=form.bits,
        precision=form.fraction_bits + 1,
        bias=form.bias,
        is_signed=True,
        domain=gfloat.Domain.Extended if form.specials == "ieee" else gfloat.Domain.Finite,
        has_nz=True,
        num_high_nans=nans,
        has_subnormals=True,
        is_twos_complement=False,
    )


if __name__ == "__main__":
    sys.exit(main())
