"""Training with quantization, five times: the table of the chapter *Training with quantization*.

    python examples/qat_seeds.py

Each row of ``examples/qat_seeds.csv`` is one network, as it was stored or after a training.  Settings are compared on
the validation images, for two of the stored networks; rows of all five are judged on the test images.  A row that is in
the file already is not computed again, so an interrupted run goes on where it stopped.  One thread, a quarter to half
an hour.

The columns: network, case, bits, seed, epochs and learning_rate of the training here, freeze (steps until batch norms
use their running statistics), split, right (percent), and views: for each original, in the order of their numbers, how
many of its views are right, as a letter (a: none).  From views follow paired differences and their errors.
"""

import csv
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from quantcourse import models, qat
from quantcourse.data import digits
from quantcourse.ptq import Recipe, Scheme, quantize

FILE = Path(__file__).with_suffix(".csv")
BATCH = 128
STEPS = 93  # of an epoch
RATE, EPOCHS = 3e-3, 3  # chosen by the rows `tried`, on validation images


@dataclass(frozen=True)
class Row:
    """What is trained, and how."""

    network: str
    case: str  # FP32, on in FP32, PTQ, QAT, teacher, observed, scratch
    bits: str = ""
    seed: int = 0
    epochs: int = 0
    learning_rate: float = 0.0
    freeze: int | str = ""
    split: str = "test"

    def key(self) -> tuple[str, ...]:
        return tuple(map(str, astuple(self)))


def rows() -> Iterator[Row]:
    """All of the file: what is compared on validation images, and what is judged on test images."""
    for rate in (1e-3, RATE, 1e-2):
        yield from tried(EPOCHS, rate, STEPS)
    for rate in (1e-2, RATE):
        yield from tried(EPOCHS, rate, 0)
    yield from judged("plain", ("W2A2", "W1A1", "W8A8", "W4A4", "W1A2", "W3A3"))
    for epochs in (1, 6):
        yield from tried(epochs, RATE, STEPS)
    yield from judged("mobile", ("W2A2", "W4A4", "W8A8"))
    for rate in (RATE, 1e-2):
        yield from tried(EPOCHS, rate, "")
    yield from judged("mobile_dead", ("W4A8 tensor", "W4A8 channel"))


def tried(epochs: int, rate: float, freeze: int | str) -> Iterator[Row]:
    for seed in (0, 1):
        yield Row("plain", "QAT", "W2A2", seed, epochs, rate, freeze, "validation")


def judged(network: str, bits: tuple[str, ...]) -> Iterator[Row]:
    learning = {"epochs": EPOCHS, "learning_rate": RATE, "freeze": STEPS}
    for seed in range(models.SEEDS):
        yield Row(network, "FP32", seed=seed)
        yield from (Row(network, "PTQ", b, seed) for b in bits)
        yield Row(network, "on in FP32", seed=seed, **learning)
    trained = [("QAT", b, learning) for b in bits if (network, b) != ("mobile", "W8A8")]
    if network == "plain":
        trained += [("teacher", b, learning) for b in ("W2A2", "W1A1")]
        again = {"epochs": 6, "learning_rate": 1e-2, "freeze": 4 * STEPS}
        trained += [("scratch", "W2A2", again), ("observed", "W2A2", learning)]
    for case, b, how in trained:
        yield from (Row(network, case, b, seed, **how) for seed in range(models.SEEDS))


def recipe(bits: str) -> Recipe | str:
    """W2A2 and the like: ranges of least squared error; below 3 bits the first and the last layer have 8.

    With the word ``tensor`` or ``channel`` behind: the ranges of the chapter *Without data*.
    """
    of_weights, of_values = int(bits[1]), int(bits[3])
    if of_weights == 8:
        return "int8"
    if granularity := bits[5:]:
        return Recipe(Scheme(of_weights, granularity=granularity), Scheme(of_values, symmetric=False, signed=False))
    return Recipe(
        weights=Scheme(of_weights, granularity="channel", observer="mse"),
        activations=Scheme(of_values, symmetric=False, signed=False, observer="mse"),
        first_last="8 bits" if min(of_weights, of_values) < 3 else "alike",
    )


@dataclass(frozen=True)
class Images:
    images: Tensor
    labels: Tensor
    originals: Tensor


def images(split: str) -> Images:
    x, labels, originals = digits(split)
    return Images(x.contiguous(memory_format=torch.channels_last), labels, originals)


def network_of(row: Row, data: Images) -> Callable[[Tensor], Tensor]:
    """The network of a row, trained if that is what the row says."""
    net = models.load(row.network, row.seed).to(memory_format=torch.channels_last)
    batches = data.images[:512].split(128)
    if row.case == "FP32":
        return net
    if row.case == "on in FP32":
        return on_in_float(net, row, data)
    if row.case == "PTQ":
        return quantize(net, batches, recipe(row.bits), progress=False)
    if row.case == "scratch":
        torch.manual_seed(row.seed)
        net = models.build(row.network).to(memory_format=torch.channels_last)
    trainable = qat.prepare(
        net.eval(),
        batches,
        recipe(row.bits),
        scales="observed" if row.case in ("observed", "scratch") else "fixed",
        freeze_norms_after=None if row.freeze == "" else int(row.freeze),
        freeze_ranges_after=None if row.freeze == "" else int(row.freeze),
        progress=False,
    )
    qat.train(
        trainable,
        data.images,
        data.labels,
        row.epochs,
        BATCH,
        row.learning_rate,
        teacher=net if row.case == "teacher" else None,
        seed=row.seed,
        progress=False,
    )
    return qat.convert(trainable)


def on_in_float(net: nn.Module, row: Row, data: Images) -> nn.Module:
    """The control: as many steps of the same optimizer and schedule, with nothing rounded."""
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), row.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, row.epochs * STEPS)
    generator = torch.Generator().manual_seed(row.seed)
    for epoch in range(row.epochs):
        if epoch == 1:  # the batch norms are frozen as in the other rows
            net.eval()
        for batch in torch.randperm(len(data.images), generator=generator)[: STEPS * BATCH].split(BATCH):
            loss = cross_entropy(net(data.images[batch]), data.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def views(net: Callable[[Tensor], Tensor], data: Images) -> tuple[str, str]:
    """Percent of right answers, and the letters."""
    parts = zip(data.images.split(1000), data.labels.split(1000), strict=True)
    right = torch.cat([net(x).argmax(1) == y for x, y in parts])
    _, index = data.originals.unique(return_inverse=True)
    letters = "".join(chr(ord("a") + int(count)) for count in index.bincount(right.double()))
    return f"{100 * float(right.double().mean()):.2f}", letters


def main() -> None:
    torch.set_num_threads(1)
    splits = {name: images(name) for name in ("train", "validation", "test")}
    names = [field.name for field in fields(Row)]
    if not FILE.exists():
        FILE.write_text(",".join([*names, "right", "views"]) + "\n")
    with open(FILE, newline="") as file:
        there = {tuple(found[name] for name in names) for found in csv.DictReader(file)}
    missing = [row for row in rows() if row.key() not in there]
    for row in (bar := tqdm(missing, desc="rows", file=sys.stderr)):
        start = time.process_time()
        right, letters = views(network_of(row, splits["train"]), splits[row.split])
        with open(FILE, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow([*row.key(), right, letters])
        bar.write(f"{' '.join(row.key())}: {right} %, {time.process_time() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
