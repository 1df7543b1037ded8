"""What tests/test_calibrate.py starts with torchrun: each process sees its share of the data, then all join.

Writes the joined observers and what was raised into the folder that is its argument.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from quantcourse import calibrate

PROCESSES = 2


def data() -> torch.Tensor:
    """Seven batches of eight channels; the fourth channel is dead, the last batch reaches furthest."""
    x = torch.randn(7, 50, 8, generator=torch.Generator().manual_seed(0))
    x[:, :, 3] = 0
    x[6] *= 9
    return x


def observers(axis: int | None) -> dict[str, calibrate.Observer]:
    first = calibrate.MinMax(axis).observe(data()[0]).range()
    kinds = {
        "percentile": calibrate.Percentile(p=99, bins=64, axis=axis, range=first),
        "entropy": calibrate.Entropy(bins=64, levels=16, axis=axis, range=first),
        "mse": calibrate.MSE(bins=64, levels=16, axis=axis, range=first),
        "admm": calibrate.ADMM(bins=64, levels=16, axis=axis, range=first),
    }
    return {"minmax": calibrate.MinMax(axis), **kinds}


def raised(*found: calibrate.Observer) -> str:
    before = [repr(o.range()) if o.count else "" for o in found]
    try:
        calibrate.all_reduce(found)
    except ValueError as error:
        assert [repr(o.range()) if o.count else "" for o in found] == before, "changed on the way"
        return str(error)
    return "nothing"


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for axis in (None, -1):
        mine = observers(axis)
        for batch in data()[rank::PROCESSES]:
            for observer in mine.values():
                observer.observe(batch)
        calibrate.all_reduce(mine)
        for name, observer in mine.items():
            observer.save(folder / f"{name} {axis} {rank}")

    # The second process has seen nothing, not even how many channels there are.
    alone = [calibrate.MinMax(axis=1), calibrate.Entropy(axis=1), calibrate.MSE(axis=0)]
    if rank == 0:
        for observer in alone[:2]:
            observer.observe(data()[0])
    calibrate.all_reduce(alone)
    for name, observer in zip(("minmax", "entropy", "mse"), alone, strict=True):
        observer.save(folder / f"{name} alone {rank}")

    x = data()[rank]
    fine = calibrate.MinMax().observe(x)
    messages = {
        "width": raised(fine, calibrate.Entropy().observe(x)),
        "class": raised(fine, (calibrate.MSE if rank else calibrate.ADMM)().observe(x)),
        "settings": raised(fine, calibrate.Percentile(p=99 + rank / 2).observe(x)),
        "channels": raised(fine, calibrate.MinMax(axis=rank).observe(x)),
        "number": raised(fine, *[calibrate.MinMax()] * rank),
        "order": raised(fine, calibrate.MovingAverageMinMax().observe(x)),
    }
    (folder / f"raised {rank}").write_text(json.dumps(messages))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
