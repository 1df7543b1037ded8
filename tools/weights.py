"""Train the networks of `quantcourse.models` and store them: `make weights`.

Each is trained from five seeds on the training split, on one thread.  Validation accuracy is what may guide a change of
a recipe; test accuracy is computed at the very end, for the table on the page *The data and the networks*.
Another machine or another version of PyTorch gives other weights, about as good.
"""

import argparse
import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from quantcourse import models
from quantcourse.data import digits

BATCH = 128


@dataclass(frozen=True)
class Recipe:
    """AdamW, or SGD with Nesterov momentum 0.9; the learning rate rises and falls in one cycle."""

    epochs: int
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    optimizer: str = "adamw"

    def make(self, net: nn.Module) -> torch.optim.Optimizer:
        lr, decay = self.learning_rate, self.weight_decay
        if self.optimizer == "sgd":
            return torch.optim.SGD(net.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=decay)
        return torch.optim.AdamW(net.parameters(), lr, weight_decay=decay)


RECIPES = {
    "plain": Recipe(6),
    "residual": Recipe(6),
    "mobile": Recipe(6),
    "multibranch": Recipe(6),
    "mlp": Recipe(6),
    "vit": Recipe(15),
    # Chosen because it leaves channels whose variance falls to zero: the page tells how.
    "mobile_dead": Recipe(6, learning_rate=0.5, weight_decay=2e-3, optimizer="sgd"),
}

# What was compared before, on validation only, for the page to tell.
TRIAL_SEED = 100
TRIALS = [
    *((name, RECIPES[name]) for name in models.NAMES if name != "mobile_dead"),
    *(("mlp", Recipe(epochs)) for epochs in (10, 20)),
    *(("mlp", Recipe(10, learning_rate=lr)) for lr in (1e-3, 3e-3)),
    ("vit", Recipe(15, learning_rate=3e-3)),
    *(("mobile", Recipe(6, lr, decay, "sgd")) for lr in (0.1, 0.2, 0.5) for decay in (1e-4, 5e-4, 2e-3)),
    ("mobile", Recipe(6, 0.1, 5e-3, "sgd")),
]


def train(name: str, seed: int, recipe: Recipe, images: Tensor, labels: Tensor, progress: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    net = models.build(name).to(memory_format=torch.channels_last).train()
    images = images.contiguous(memory_format=torch.channels_last)
    optimizer = recipe.make(net)
    batches = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * batches, cycle_momentum=recipe.optimizer != "sgd"
    )
    with tqdm(total=recipe.epochs * batches, desc=f"{name}-{seed}", leave=False, disable=not progress) as bar:
        for _ in range(recipe.epochs):
            # The last, incomplete batch of an epoch is left out; another one each time.
            for batch in torch.randperm(len(images))[: batches * BATCH].split(BATCH):
                loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    return net.eval()


@torch.no_grad()
def correct(net: nn.Module, images: Tensor, labels: Tensor) -> int:
    return sum(int((net(x).argmax(1) == y).sum()) for x, y in zip(images.split(1000), labels.split(1000), strict=True))


def store(net: nn.Module, name: str, seed: int, folder: Path) -> None:
    tensors = {key: tensor.contiguous() for key, tensor in net.state_dict().items()}
    save_file(tensors, folder / f"{name}-{seed}.safetensors")
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in sorted(folder.glob("*.safetensors"))]
    (folder / "SHA256SUMS").write_text("".join(lines))


def table(folder: Path) -> None:
    """Validation and test accuracy of every stored network, and how many of its channels are dead."""
    validation, test = digits("validation")[:2], digits("test")[:2]
    with open(folder / "accuracy.csv", "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["network", "seed", "validation", "test", "dead_channels"])
        for name in models.NAMES:
            for seed in range(models.SEEDS):
                net = models.load(name, seed)
                percent = [f"{100 * correct(net, *split) / len(split[1]):.2f}" for split in (validation, test)]
                rows.writerow([name, seed, *percent, dead_channels(net)])


def dead_channels(net: nn.Module) -> int:
    """Batch-normalized channels that hardly ever change: their running variance is below 1e-6."""
    return sum(int((m.running_var < 1e-6).sum()) for m in net.modules() if isinstance(m, nn.BatchNorm2d))


def trials(folder: Path) -> None:
    """Validation accuracy of each of `TRIALS`, from a seed that no stored network has."""
    images, labels, _ = digits("train")
    validation = digits("validation")[:2]
    with open(folder / "trials.csv", "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(
            ["network", "optimizer", "learning_rate", "weight_decay", "epochs", "validation", "dead_channels"]
        )
        for name, r in tqdm(TRIALS, desc="recipes"):
            net = train(name, TRIAL_SEED, r, images, labels)
            percent = f"{100 * correct(net, *validation) / len(validation[1]):.2f}"
            rows.writerow([name, r.optimizer, r.learning_rate, r.weight_decay, r.epochs, percent, dead_channels(net)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    seeds = range(models.SEEDS)
    parser.add_argument("--name", action="append", choices=models.NAMES, help="train this one; default: all")
    parser.add_argument("--seed", action="append", type=int, choices=seeds, help="from this seed; default: all")
    parser.add_argument(
        "--trials",
        action="store_true",
        help="train no stored network, but all recipes compared, to see their validation accuracy",
    )
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(models.__file__).parent / "weights"
    folder.mkdir(exist_ok=True)
    if chosen.trials:
        trials(folder)
        return
    images, labels, _ = digits("train")
    validation = digits("validation")[:2]
    jobs = [(name, seed) for name in chosen.name or models.NAMES for seed in chosen.seed or seeds]
    for name, seed in (bar := tqdm(jobs, desc="networks")):
        net = train(name, seed, RECIPES[name], images, labels)
        store(net, name, seed, folder)
        bar.write(f"{name}-{seed}: validation accuracy {100 * correct(net, *validation) / len(validation[1]):.2f} %")
    table(folder)


if __name__ == "__main__":
    main()
