"""Fixed and learned scales, from bad and from good starting ranges: five trainings of each.

    python examples/learned_seeds.py

A row of ``examples/learned_seeds.csv`` is one training.  Rows that are there are not made again, so that the script can
be stopped and started.  Every network starts from its stored float weights (but for those from scratch), is calibrated on
512 training images, and trained for EPOCHS epochs with batch norms frozen (from scratch: SCRATCH_EPOCHS at a rate of
their own, norms never frozen).  Ranges are those of ``minmax``, mostly bad at two bits, or ``mse``.  What learns of a
scale is ln(s / s_0), with s_0 where it started.  `rate` is the learning rate of that, as a multiple of the weights': by
about so large a part of itself Adam moves a scale.  At two bits both multiples are tried, and which is better is for the
validation images to say; LSQ's own first steps and four bits have ten times the rate alone, training from scratch the
plain one.  LSQ counts the edge of a range as inside, as fixed scales do, since ``minmax`` puts the largest weight on it.
`lost` is the paired difference with the float network on test images, `gain` that with fixed scales from the same ranges;
both have a standard error from a cluster bootstrap over originals.
Explained in the chapter *Learned quantization parameters*.
"""

import argparse
import csv
import functools
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from quantcourse import models, qat
from quantcourse.data import digits
from quantcourse.metrics import paired_difference
from quantcourse.ptq import Recipe, Scheme

RESULTS = Path(__file__).with_suffix(".csv")
EPOCHS, SCRATCH_EPOCHS = 2, 6
LEARNING_RATE, SCRATCH_LEARNING_RATE = 3e-3, 1e-2
NUMBERS = ("before", "validation", "test", "lost", "lost_error", "gain", "gain_error")


@dataclass(frozen=True)
class Run:
    """One training; `start` is "float" (weights of the stored network), "lsq" (the same, with LSQ's own first steps) or "scratch"."""

    net: str
    bits: int
    ranges: str
    scales: qat.Scales
    start: str
    rate: int
    seed: int

    @property
    def recipe(self) -> Recipe:
        """So many bits for weights and values; at two, 8 in the first and the last layer."""
        return Recipe(
            weights=Scheme(self.bits, granularity="channel", observer=self.ranges),
            activations=Scheme(self.bits, symmetric=False, signed=False, observer=self.ranges),
            first_last="8 bits" if self.bits == 2 else "alike",
        )

    @property
    def fixed(self) -> "Run":
        """What it is compared with."""
        return replace(self, scales="fixed", start="float", rate=1)


def runs() -> Iterator[Run]:
    """All of them, the most important ones first."""
    kinds: tuple[qat.Scales, ...] = "lsq", "lsq+", "pact"
    learned = tuple(itertools.product(kinds, (1, 10)))

    def both(net: str, bits: int, kinds: tuple[tuple[qat.Scales, int], ...], seed: int) -> Iterator[Run]:
        for ranges in ("minmax", "mse"):
            yield from (Run(net, bits, ranges, kind, "float", rate, seed) for kind, rate in (("fixed", 1), *kinds))

    for seed in range(models.SEEDS):
        yield from both("plain", 2, learned, seed)
        yield Run("plain", 2, "mse", "lsq", "lsq", 10, seed)
    for seed in range(models.SEEDS):
        yield from both("mobile", 2, (("lsq", 1), ("lsq", 10)), seed)
    yield from (Run("plain", 2, "mse", "lsq", "scratch", 1, seed) for seed in range(models.SEEDS))
    for seed in range(models.SEEDS):
        yield from both("plain", 4, (("lsq", 10),), seed)


@torch.inference_mode()
def right(network: nn.Module, split: str) -> Tensor:
    """Which images of a part of the data get the right answer."""
    images, labels, _ = digits(split)
    return torch.cat([network(x) for x in torch.split(images, 1000)]).argmax(1) == labels


def percent(answers: Tensor) -> float:
    return 100 * float(answers.double().mean())


def untrained(name: str, seed: int) -> nn.Module:
    """Random weights, and batch norms that know the images."""
    torch.manual_seed(seed)
    net = models.build(name).train()
    images = digits("train")[0]
    with torch.no_grad():
        for x in torch.split(images[: 64 * 128], 128):
            net(x)
    return net.eval()


@functools.cache
def trained(run: Run) -> tuple[float, float, Tensor]:
    """Validation accuracy before and after training, and the test images that the trained network gets right."""
    images, labels, _ = digits("train")
    scratch = run.start == "scratch"
    net = qat.prepare(
        untrained(run.net, run.seed) if scratch else models.load(run.net, run.seed),
        torch.split(images[:512], 128),
        run.recipe,
        scales=run.scales,
        start="calibrated" if run.start == "float" else "lsq",
        freeze_norms_after=None if scratch else 0,
        progress=False,
    )
    before = percent(right(qat.convert(net), "validation"))
    rate = SCRATCH_LEARNING_RATE if scratch else LEARNING_RATE
    qat.train(
        net,
        images,
        labels,
        epochs=SCRATCH_EPOCHS if scratch else EPOCHS,
        learning_rate=rate,
        scale_learning_rate=run.rate * rate,
        seed=run.seed,
        progress=False,
    )
    after = qat.convert(net)
    return before, percent(right(after, "validation")), right(after, "test")


@functools.cache
def exact(net: str, seed: int) -> Tensor:
    return right(models.load(net, seed), "test")


def row(run: Run) -> dict[str, object]:
    """What the file says of a training."""
    before, validation, answers = trained(run)
    originals = digits("test")[2]
    lost = paired_difference(exact(run.net, run.seed), answers, originals)
    gain = paired_difference(answers, trained(run.fixed)[2], originals)
    numbers = before, validation, percent(answers), *(100 * x for x in (*lost, *gain))
    return {**asdict(run), **{k: f"{v + 0.0:.3f}" for k, v in zip(NUMBERS, numbers, strict=True)}}


def done() -> set[tuple[str, ...]]:
    """The trainings that have a row."""
    if not RESULTS.exists():
        return set()
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return {tuple(row.values())[: -len(NUMBERS)] for row in csv.DictReader(file)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    there = done()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*asdict(next(runs())), *NUMBERS], lineterminator="\n")
        if not there:
            writer.writeheader()
        for run in runs():
            if tuple(map(str, asdict(run).values())) in there:
                continue
            writer.writerow(found := row(run))
            file.flush()
            print(*found.values(), flush=True)


if __name__ == "__main__":
    main()
