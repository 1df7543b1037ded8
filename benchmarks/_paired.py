"""What the benchmarks of accuracy share: which images a network has right, and the columns that follow from that."""

import logging
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from quantcourse.metrics import paired_difference

COLUMNS = f"{'points lost':>16}{'worst':>8}{'ours - theirs':>18}"


@torch.no_grad()
def right(predict: Callable[[Tensor], Tensor], judge: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    images, labels, _ = judge
    scores = torch.cat([predict(part) for part in images.split(510)])
    return (scores.argmax(1) == labels).to(torch.float64)


def mean(per_seed: list[Tensor]) -> Tensor:
    return torch.stack(per_seed).mean(0)


def columns(found: list[Tensor], floats: list[Tensor], ours: list[Tensor], originals: Tensor) -> str:
    """The numbers under ``COLUMNS``, in percentage points; one tensor a seed in each list."""
    lost, error = paired_difference(mean(floats), mean(found), originals)
    worst = max(float((x - y).mean()) for x, y in zip(floats, found, strict=True))
    text = f"{100 * lost:9.2f} ±{100 * error:5.2f}{100 * worst:8.2f}"
    if found is ours:
        return text
    ahead, error = paired_difference(mean(ours), mean(found), originals)
    return f"{text}{100 * ahead:+11.2f} ±{100 * error:5.2f}"


def quiet() -> None:
    """Peers warn of their own affairs."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
