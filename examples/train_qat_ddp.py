"""Training with quantization in several processes: DistributedDataParallel around ``qat.prepare``.

    torchrun --standalone --nproc_per_node=2 examples/train_qat_ddp.py
    torchrun --standalone --nproc_per_node=2 examples/train_qat_ddp.py --scales lsq+
    python examples/train_qat_ddp.py

Each process computes on its share of a batch, gradients are averaged, and all processes make the same step.  Where
scales are observed, ranges are joined in each forward pass, so that all have the same grids.  At the end the script
compares what the processes have, and the first one converts the network and judges it.  It runs on CPUs, and on CUDA
devices where there are some.  Explained in the chapter *Scaling out*.
"""

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from calibrate_shards import positive, processes
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from quantcourse import data, models, qat
from quantcourse.ptq import Recipe, Scheme


def recipe(bits: int) -> Recipe:
    """So many bits for weights and values, 8 at both ends, on ranges of least squared error."""
    return Recipe(
        weights=Scheme(bits, granularity="channel", observer="mse"),
        activations=Scheme(bits, symmetric=False, signed=False, observer="mse"),
        first_last="8 bits",
    )


def digest(tensors: Iterable[Tensor]) -> str:
    """A fingerprint of all bits."""
    state = hashlib.sha256()
    for t in tensors:
        state.update(t.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def everyones(mine: str) -> list[str]:
    """What each process has, by rank."""
    if not dist.is_initialized():
        return [mine]
    gathered = [""] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percent of the images with the right answer."""
    right = sum(
        int((network(x).argmax(1) == y).sum()) for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return 100 * right / len(labels)


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="plain", choices=("plain", "residual", "mobile", "multibranch"))
    parser.add_argument("--bits", type=positive, default=2)
    parser.add_argument("--scales", default="observed", choices=("fixed", "observed", "lsq", "lsq+", "pact"))
    parser.add_argument("--images", type=positive, default=4000, help="of the training images, from the first")
    parser.add_argument("--epochs", type=positive, default=2)
    parser.add_argument("--batch", type=positive, default=128, help="images a step, over all processes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--save", type=Path, help="a file for the quantized model; none: nowhere")
    return parser.parse_args()


def main() -> None:
    given = settings()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with processes(given.device) as (rank, world, device):
        train(given, rank, world, device)


def train(given: argparse.Namespace, rank: int, world: int, device: torch.device) -> None:
    images, labels, _ = (torch.as_tensor(t) for t in data.digits("train"))
    images, labels = images[: given.images], labels[: given.images]
    share = given.batch // world
    if share * world != given.batch:
        raise SystemExit(f"--batch: need a multiple of {world}, the number of processes, got {given.batch}")
    steps = len(images) // given.batch * given.epochs

    # All processes calibrate on the same images, and so begin alike.
    network = models.load(given.network).to(device)
    calibration = images[:512].to(device).split(64)
    net = qat.prepare(
        network,
        calibration,
        recipe(given.bits),
        scales=given.scales,
        freeze_norms_after=steps // 2,
        freeze_ranges_after=3 * steps // 4,
        progress=False,
    )
    calibrated = qat.convert(net)
    model: nn.Module = DistributedDataParallel(net) if world > 1 else net
    sampler = DistributedSampler(range(len(images)), world, rank, seed=0, drop_last=True)
    loader = DataLoader(TensorDataset(images, labels), share, sampler=sampler, drop_last=True)
    optimizer = torch.optim.AdamW(net.parameter_groups(1e-3, weight_decay=1e-4))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(given.epochs):
        sampler.set_epoch(epoch)  # another order in each epoch, the same one in all processes
        for x, y in loader:
            loss = cross_entropy(model(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()  # gradients are averaged here
            optimizer.step()
            schedule.step()
        compare(net, f"after epoch {epoch + 1} of {given.epochs}, in {world} process{'es' * (world > 1)}", rank)

    if rank == 0:
        trained = qat.convert(net)
        images, labels, _ = data.digits("test")
        for name, judged in (("in float", network), ("calibrated", calibrated), ("trained", trained)):
            print(f"{name:<20}{accuracy(judged, images.to(device), labels.to(device)):5.1f} % of the test images right")
        if given.save is not None:
            trained.save(given.save)


def compare(net: qat.TrainableModel, when: str, rank: int) -> None:
    """Say which parts of the network are the same in all processes, to the last bit."""
    state = {name: t for name, t in net.state_dict().items() if isinstance(t, Tensor)}
    grids = {name for name in state if "grid" in name}
    statistics = {name for name in state if "running" in name or "tracked" in name}
    mine = {
        "weights and biases": digest(state[name] for name in sorted(state.keys() - grids - statistics)),
        "scales and ranges": digest(state[name] for name in sorted(grids)),
        "running statistics": digest(state[name] for name in sorted(statistics)),
        "steps": str(net.steps),  # no tensor, so nothing but equal loops keeps it equal
    }
    if rank == 0:
        print(when)
    for what, fingerprint in mine.items():
        same = len(set(everyones(fingerprint))) == 1
        if rank == 0:
            print(f"  {what:<20}{'alike' if same else 'different':<11}{fingerprint[:16]}")


if __name__ == "__main__":
    main()
