"""How long does ``quantcourse.cost.count`` take, beside thop, which runs the network?

One table, from one run:

    python benchmarks/counting.py --batch 8 --repeats 5

Milliseconds to count each backbone at 3 x 224 x 224 on one thread.  ``thop.profile`` computes the forward pass, so its
time grows with the batch; ``count`` follows shapes, so its time grows with the number of operations.  The two run by
turns within each repetition, so a busy machine slows both alike.  Times are medians over the repetitions, the spread is
half the distance between the quartiles.  ``ours / thop`` compares the medians: below 1, quantcourse is faster.

Before anything is timed, ``count`` must agree with PyTorch's own counter, and afterwards the network must be as it was.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from quantcourse.cost import count
from quantcourse.models import backbone

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of distutils, which thop imports
    import thop

NAMES = "alexnet vgg16 resnet18 resnet34 resnet50 resnet101 mobilenet_v2 squeezenet1_1 densenet121 vit_b_16".split()


def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds to count a network: quantcourse and thop.")
    parser.add_argument("--batch", type=int, default=1, help="images (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions (default: %(default)s)")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES, help="these networks alone")
    options = parser.parse_args()
    if options.batch < 1 or options.repeats < 1:
        parser.error("need at least 1 image and 1 repetition")
    torch.set_num_threads(1)

    print(f"batch {options.batch}, {options.repeats} repetitions by turns; ms to count, with half the quartile range")
    heading = f"{'network':15}{'quantcourse':>12}{'spread':>8}{'thop':>12}{'spread':>8}{'ours / thop':>13}"
    print(heading)
    print("-" * len(heading))
    ratios = []
    for name in options.only:
        model, x = backbone(name).eval(), torch.zeros(options.batch, 3, 224, 224)
        check(name, model, x)
        ours, theirs = by_turns(
            options.repeats,
            lambda model=model, x=x: count(model, x),
            lambda model=model, x=x: thop.profile(model, inputs=(x,), verbose=False),
        )
        ratios.append(np.median(ours) / np.median(theirs))
        print(f"{name:15}{line(ours, 12)}{line(theirs, 12)}{ratios[-1]:13.2f}")
    print(f"\nmedian of ours / thop: {np.median(ratios):.2f}")


def check(name: str, model: nn.Module, x: torch.Tensor) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    if count(model, x).flops != counter.get_total_flops():
        raise SystemExit(f"{name}: count and PyTorch's counter disagree")
    after = model.state_dict()
    if before.keys() != after.keys() or not all(torch.equal(before[key], after[key]) for key in before):
        raise SystemExit(f"{name}: count changed the network")


def by_turns(repeats: int, *runs: Callable[[], Any]) -> list[np.ndarray]:
    """Milliseconds of each run, one number a repetition."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()  # once unmeasured: first calls look things up
    for _ in range(repeats):
        for run, measured in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            measured.append((time.perf_counter() - start) * 1e3)
    return [np.array(measured) for measured in times]


def line(milliseconds: np.ndarray, width: int) -> str:
    low, middle, high = np.percentile(milliseconds, [25, 50, 75])
    return f"{middle:{width}.0f}{(high - low) / 2:8.0f}"


if __name__ == "__main__":
    main()
