"""What calibration and training cost for an image, and what it costs to merge: constants for the model in *Scaling out*.

    torchrun --standalone --nproc_per_node=2 benchmarks/scaling.py > benchmarks/scaling_results.txt

One table, from two processes with one thread each, that are on one machine and talk by Gloo.  All but the merging is
timed in the first of them, while the other waits.  The network is ResNet-50 on images of 224 x 224, with weights as
they are drawn: times and numbers of values do not depend on them.  Each time is the shortest of its repetitions, since
other work on the machine only ever adds time.

- *forward*: an image through the float network.
- *training step*: an image forwards and backwards, without the step of the optimizer.
- *observing*: a value shown to an observer.  The histograms have 2048 bins.
- *merging*: `calibrate.all_reduce` of the observers of all values that have a quantizer.
"""

import argparse
import platform
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

from quantcourse import models
from quantcourse.calibrate import Entropy, MinMax, Observer, all_reduce
from quantcourse.ptq import float_network

SIDE, BATCH, VALUES = 224, 4, 1 << 20


def shortest(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the quickest repetition; a first one is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def row(what: str, value: float, unit: str) -> None:
    print(f"{what:<44}{value:>14,.{0 if value == int(value) else 2}f}  {unit}")


def alone(repeats: int) -> None:
    """What one process measures by itself."""
    network, images = models.backbone("resnet50"), torch.randn(BATCH, 3, SIDE, SIDE)
    graph = float_network(network)
    with torch.no_grad():
        sizes = [value.numel() // BATCH for node, value in graph.walk([images]) if node.quantizer]
        forward = shortest(lambda: graph.run([images]), repeats) / BATCH
    row("values with a quantizer", len(sizes), "in the network")
    row("numbers in them", sum(sizes), "an image")
    row("forward", 1e3 * forward, "ms an image")

    network.train()
    labels = torch.zeros(BATCH, dtype=torch.int64)
    step = shortest(lambda: cross_entropy(network(images), labels).backward(), repeats) / BATCH
    row("training step", 1e3 * step, "ms an image")

    x = torch.randn(VALUES)
    for name, observer in (("ends", MinMax()), ("histogram", Entropy(range=8.0))):
        seconds = shortest(lambda observer=observer: observer.observe(x), 4 * repeats) / VALUES
        row(f"observing, {name}", 1e9 * seconds, "ns a number")


def merging(count: int, repeats: int) -> None:
    """What both measure together, for as many observers as there are quantizers."""
    x = torch.randn(1000)
    for name, make in (("ends", MinMax), ("histograms", lambda: Entropy(range=8.0))):
        observers: list[Observer] = [make().observe(x) for _ in range(count)]
        seconds = shortest(lambda observers=observers: all_reduce(observers), repeats)
        if dist.get_rank() == 0:
            row(f"merging, {name}", 1e3 * seconds, "ms, two processes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="repetitions (default: %(default)s)")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    if dist.get_world_size() != 2:
        raise SystemExit("start it with torchrun, as two processes")
    if dist.get_rank() == 0:
        print("ResNet-50, images of 224 x 224, one thread")
        print(f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}, {platform.machine()}")
        alone(repeats)
    dist.barrier()
    quantizers = sum(node.quantizer for node in float_network(models.backbone("resnet50")).nodes)
    merging(quantizers, repeats)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
