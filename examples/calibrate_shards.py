"""Calibration in several processes, with the result of one to the last count.

Processes that talk to each other, and one process alone, which prints the same tables:

    torchrun --standalone --nproc_per_node=2 examples/calibrate_shards.py
    python examples/calibrate_shards.py

Jobs that never talk, as on a cluster; each may run anywhere and at any time, but one pass comes after the other:

    python examples/calibrate_shards.py --folder runs --job 1 --shard 0/2
    python examples/calibrate_shards.py --folder runs --job 1 --shard 1/2
    python examples/calibrate_shards.py --folder runs --job 1 --merge 2
    python examples/calibrate_shards.py --folder runs --job 2 --shard 0/2
    python examples/calibrate_shards.py --folder runs --job 2 --shard 1/2
    python examples/calibrate_shards.py --folder runs --job 2 --merge 2

With ``--save FILE`` (at the last merge, if in jobs) the joined observers give the scales of a quantized network, which
``quantcourse.ptq.QuantizedModel.load`` reads; ``--ranges`` says which kind of observers.

The data are cut into batches first, and batches are dealt out like cards: process i of n gets the batches i, i + n, ...
The first pass finds the ends of each value, the second fills histograms whose bins all processes place alike.  Explained
in the chapter *Scaling out*.
"""

import argparse
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quantcourse import calibrate, data, models
from quantcourse.calibrate import ADMM, MSE, Entropy, HistogramObserver, MinMax, Observer, Percentile
from quantcourse.graph import Graph
from quantcourse.ptq import QuantizedModel, float_network, quantize

HISTOGRAMS = {"percentile": Percentile, "entropy": Entropy, "mse": MSE, "admm": ADMM}

Observers = dict[str, dict[str, Observer]]  # by place in the network, then by kind


def places(graph: Graph) -> list[str]:
    """The values that have a quantizer of their own, where ``ptq`` watches them too."""
    return [node.label for node in graph.nodes if node.quantizer]


def first_pass(graph: Graph) -> Observers:
    """Observers that find the ends."""
    return {place: {"minmax": MinMax()} for place in places(graph)}


def second_pass(ends: Observers) -> Observers:
    """Histograms from these ends: processes that start from the same ends have the same bins."""
    return {
        place: {kind: observer(range=found["minmax"].range()) for kind, observer in HISTOGRAMS.items()}
        for place, found in ends.items()
    }


@torch.no_grad()
def watch(graph: Graph, batches: Iterable[Tensor], observers: Observers) -> None:
    """Run the float network, and show each value to the observers of its place."""
    for batch in batches:
        for node, value in graph.walk([batch]):
            for observer in observers.get(node.label, {}).values():
                observer.observe(value)


def flat(observers: Observers) -> dict[str, Observer]:
    """All of them, each under a name of its own."""
    return {f"{place} {kind}": observer for place, kinds in observers.items() for kind, observer in kinds.items()}


def joined(observers: Observers) -> Observers:
    """The same observers, having seen what those of all processes have seen."""
    if dist.is_initialized():
        calibrate.all_reduce(flat(observers))
    return observers


def save(observers: Observers, folder: Path) -> None:
    """Write a file for each observer.  The folder appears when it is complete, so that no half of it is merged."""
    if folder.exists():
        raise SystemExit(f"{folder} is there already: delete it to write it anew")
    unfinished = folder.with_name(f"{folder.name}, unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    for name, observer in flat(observers).items():
        observer.save(unfinished / name)
    unfinished.rename(folder)


def load(like: Observers, folder: Path) -> Observers:
    """Read what ``save`` has written for the same places and kinds."""
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing")
    return {
        place: {kind: calibrate.load(folder / f"{place} {kind}") for kind in kinds} for place, kinds in like.items()
    }


def merged(like: Observers, folders: Sequence[Path]) -> Observers:
    """What the observers of all folders have seen, each folder once."""
    shards = [load(like, folder) for folder in folders]
    for shard in shards[1:]:
        for name, observer in flat(shards[0]).items():
            observer.merge(flat(shard)[name])
    return shards[0]


def check(observers: Observers, batches: Sequence[Tensor]) -> None:
    """Refuse observers that have not seen each image once: a shard that is lost or comes twice changes the count."""
    expected = sum(batch.numel() for batch in batches)
    for name, observer in observers["input"].items():
        if observer.count != expected:
            raise SystemExit(f"need {expected} values of the input, {name} has seen {observer.count}")


def quantized(network: nn.Module, observers: Observers, kind: str) -> QuantizedModel:
    """The network with 8 bits, on the ranges that observers of this kind found: no image is needed any more."""
    found = {place: kinds[kind] for place, kinds in observers.items()}
    return quantize(network, [], "int8", progress=False, observers=found)


def digest(observers: Observers) -> str:
    """A fingerprint of all counts, ends and ranges: equal if and, but for luck, only if they are."""
    state = hashlib.sha256()
    for name, observer in flat(observers).items():
        state.update(f"{name} {observer!r} {observer.count}".encode())
        counted = observer.histogram() if isinstance(observer, HistogramObserver) else ()
        for t in (*observer.extremes(), *observer.range(), *counted):
            state.update(t.cpu().numpy().tobytes())
    return state.hexdigest()


def report(observers: Observers) -> None:
    """Print what was seen at each place, and the upper end that each kind of observer chooses."""
    kinds = list(next(iter(observers.values())))
    print(f"{'place':<12}{'values':>12}{'low':>9}", *(f"{kind:>11}" for kind in kinds), sep="")
    for place, found in observers.items():
        counts = {observer.count for observer in found.values()}
        assert len(counts) == 1, f"observers of {place} have seen different numbers of values: {counts}"
        low = float(found[kinds[0]].range()[0])
        highs = (f"{float(observer.range()[1]):11.4f}" for observer in found.values())
        print(f"{place:<12}{counts.pop():12}{low:9.4f}", *highs, sep="")
    print("digest", digest(observers))


@contextmanager
def processes(device: str) -> Iterator[tuple[int, int, torch.device]]:
    """The rank of this process, how many there are, and its device; the group that torchrun prepared, if it did."""
    local, world = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.set_device(local % torch.cuda.device_count())
    if "RANK" not in os.environ:
        yield 0, 1, torch.device(device)
        return
    # NCCL wants a GPU for each process; Gloo carries the counts through the CPU.
    alone = int(os.environ["LOCAL_WORLD_SIZE"]) <= torch.cuda.device_count()
    dist.init_process_group("nccl" if on_gpu and alone else "gloo")
    try:
        yield dist.get_rank(), world, torch.device(device)
    finally:
        dist.destroy_process_group()


def shard(text: str) -> tuple[int, int]:
    """``"0/2"`` is the first of two."""
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit() and int(i) < int(n)):
        raise argparse.ArgumentTypeError(f"need I/N with I from 0 to N - 1, got {text!r}")
    return int(i), int(n)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"need a whole number above 0, got {text!r}")
    return int(text)


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mobile", choices=("plain", "residual", "mobile", "multibranch", "mlp"))
    parser.add_argument("--images", type=positive, default=1000, help="of the training images, from the first")
    parser.add_argument("--batch", type=positive, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--folder", type=Path, help="where observers go; none: nowhere")
    parser.add_argument("--job", type=int, choices=(1, 2), help="one pass in jobs that never talk")
    parser.add_argument("--save", type=Path, metavar="FILE", help="where the quantized network goes; none: nowhere")
    parser.add_argument("--ranges", default="minmax", choices=("minmax", *HISTOGRAMS), help="that it is quantized by")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--shard", type=shard, metavar="I/N", help="observe shard I of N")
    part.add_argument("--merge", type=positive, metavar="N", help="merge the N shards")
    given = parser.parse_args()
    if (given.job is None) != (given.shard is None and given.merge is None):
        parser.error("--job goes with --shard or --merge")
    if given.job and (given.folder is None or "RANK" in os.environ):
        parser.error("--job needs a --folder, and no torchrun")
    if given.save and given.job and not (given.job == 2 and given.merge):
        parser.error("--save goes with the merging of job 2, when all is known")
    return given


def together(graph: Graph, batches: Sequence[Tensor], rank: int, world: int) -> Observers:
    """Both passes, with all processes at once, which all have the result."""
    mine = batches[rank::world]
    ends = first_pass(graph)
    watch(graph, mine, ends)
    joined(ends)
    found = second_pass(ends)
    watch(graph, mine, found)
    joined(found)
    both = {place: ends[place] | found[place] for place in ends}
    check(both, batches)
    return both


def job(graph: Graph, batches: Sequence[Tensor], given: argparse.Namespace) -> Observers | None:
    """One shard of one pass, which has no result yet, or the merging of its shards."""
    ends = first_pass(graph)
    if given.job == 2:
        ends = load(ends, given.folder / "pass 1")
    begun = ends if given.job == 1 else second_pass(ends)
    if given.shard:
        i, n = given.shard
        watch(graph, batches[i::n], begun)
        save(begun, given.folder / f"pass {given.job}, {i} of {n}")
        return None
    folders = [given.folder / f"pass {given.job}, {i} of {given.merge}" for i in range(given.merge)]
    found = merged(begun, folders)
    check(found, batches)
    save(found, given.folder / f"pass {given.job}")
    return found if given.job == 1 else {place: ends[place] | found[place] for place in ends}


def main() -> None:
    given = settings()
    # A process must compute a batch as any other would: as many threads, and no shortcuts in the products.
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    with processes(given.device) as (rank, world, device):
        network = models.load(given.network).to(device)
        graph = float_network(network)
        images = data.digits("train")[0][: given.images].to(device)
        batches = images.split(given.batch)
        if given.job:
            found = job(graph, batches, given)
        else:
            found = together(graph, batches, rank, world)
        if rank == 0 and found is not None:
            if not given.job:
                print(f"{world} process{'es' * (world > 1)}, {len(images)} images in {len(batches)} batches")
                if given.folder is not None:
                    save(found, given.folder)
            report(found)
            if given.save is not None:
                quantized(network, found, given.ranges).save(given.save)


if __name__ == "__main__":
    main()
