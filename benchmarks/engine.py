"""How fast is ``quantcourse.engine`` on ResNet-50, beside the same network on float32?

    python benchmarks/engine.py --batch 8 --repeats 9

ResNet-50 with random weights, quantized by the recipe ``"int8"``, one thread, ``inference_mode``:

- *float32* is PyTorch, batch norms folded, in both orders of memory: channels first and last.
- *engine* is ``IntegerModel``, codes and INT32 sums, in three ways of rounding.

All run by turns within each repetition, so a busy machine slows all of them alike.  Times are of the process's own CPU
time: medians over the repetitions, the spread is half the distance between the quartiles.  The *ratio* is the median,
over the repetitions, of a time by that of the faster float32 in the same repetition: below 1, the engine is faster.
Before anything is timed, the engine must give the same bits as its definition in float64.

The second table says where the engine's time goes: *sums* are products and additions of codes, *requantize* is what
brings the sums of layers to codes.

The last line states the requirement of the course, on a machine with instructions for products of bytes (VNNI): at most
twice the time of float32.  The exit status is 1 if it is not so.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from quantcourse import integer, models, ptq
from quantcourse.engine import IntegerModel
from quantcourse.fold import fold_batch_norm
from quantcourse.graph import WEIGHTED


def main() -> int:
    parser = argparse.ArgumentParser(description="ResNet-50 in milliseconds: quantcourse.engine and float32.")
    parser.add_argument("--batch", type=int, default=8, help="images at once (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="repetitions (default: %(default)s)")
    options = parser.parse_args()
    if options.batch < 1 or options.repeats < 1:
        parser.error("need at least 1 image and 1 repetition")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = models.backbone("resnet50").eval()
    images = torch.randn(options.batch, 3, 224, 224)
    quantized = ptq.quantize(network, [torch.randn(2, 3, 224, 224)], "int8", progress=False)
    engines = {rounding: IntegerModel(quantized, rounding) for rounding in ("single", "double", "float")}
    for rounding, engine in engines.items():
        if not torch.equal(engine(images[:1]), engine.simulate(images[:1])):
            raise SystemExit(f"{rounding}: the engine differs from its definition, so its times mean nothing")

    last = torch.channels_last
    folded, folded_last = fold_batch_norm(network), fold_batch_norm(network).to(memory_format=last)
    images_last = images.to(memory_format=last)
    jobs: dict[str, Callable[[], Any]] = {
        "float32, channels first": lambda: folded(images),
        "float32, channels last": lambda: folded_last(images_last),
        **{f"engine, {rounding}": lambda run=engine: run(images) for rounding, engine in engines.items()},
    }
    times = measure(jobs, options.repeats)
    fastest = np.minimum(*times[:2])
    ratios = [np.median(of_job / fastest) for of_job in times]
    print(f"ResNet-50, {options.batch} images, one thread, {options.repeats} repetitions by turns; CPU time per image")
    heading = f"{'who':26}{'median ms':>10}{'spread':>9}{'ratio':>8}"
    print(f"{heading}\n{'-' * len(heading)}")
    for who, of_job, ratio in zip(jobs, times, ratios, strict=True):
        low, middle, high = np.percentile(of_job, [25, 50, 75]) * 1e3 / options.batch
        print(f"{who:26}{middle:10.1f}{(high - low) / 2:9.1f}{ratio:8.2f}")

    parts = [where(engines["single"], images) for _ in range(options.repeats)]
    print("\nWhere the engine's time goes (single)")
    for what in ("sums", "requantize", "add", "max_pool", "avg_pool", "rest"):
        share = np.median([part[what] / sum(part.values()) for part in parts])
        print(f"{what:26}{share:10.0%}")

    ratio = ratios[2]
    kept = ratio <= 2
    print(f"\nEngine / float32: {ratio:.2f}. At most 2 is required: {'kept' if kept else 'BROKEN'}.")
    return 0 if kept else 1


@torch.inference_mode()
def measure(jobs: dict[str, Callable[[], Any]], repeats: int) -> list[np.ndarray]:
    """Seconds of CPU time: one array a job, one number a repetition."""
    runs = list(jobs.values())
    for run in runs:
        run()  # once unmeasured: first calls allocate and look up
    times = np.empty((len(runs), repeats))
    for repetition in range(repeats):
        for index in np.roll(np.arange(len(runs)), repetition):  # so that nobody always follows the same neighbour
            start = time.process_time()
            runs[index]()
            times[index, repetition] = time.process_time() - start
    return list(times)


@torch.inference_mode()
def where(engine: IntegerModel, images: Tensor) -> dict[str, float]:
    """Seconds of CPU time by kind of work, in one run."""
    spent: dict[str, float] = defaultdict(float)
    requantizing = [0.0]
    requantize = integer._Rescaling.__call__

    def timed(self: Any, acc: Tensor) -> Tensor:
        start = time.process_time()
        codes = requantize(self, acc)
        requantizing[0] += time.process_time() - start
        return codes

    with mock.patch.object(integer._Rescaling, "__call__", timed):
        before = time.process_time()
        for node, _ in engine.walk(images):
            now = time.process_time()
            if node.op in WEIGHTED:
                spent["sums"] += now - before - requantizing[0]
                spent["requantize"] += requantizing[0]
            else:
                spent[node.op if node.op in ("add", "max_pool", "avg_pool") else "rest"] += now - before
            requantizing[0] = 0.0
            before = time.process_time()
    return spent


if __name__ == "__main__":
    sys.exit(main())
