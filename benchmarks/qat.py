"""What does a training step with quantization cost, and what does training win, beside other tools?

Two tables, from one run:

    python benchmarks/qat.py --seeds 5

**Time of a step** (``--steps``): forward, backward and AdamW on the network ``mobile``, batch 128, channels_last, one thread,
8 bits; interleaved runs, the median of the ratios to the FP32 network's step in the same round.  Batch norms with the
statistics of the batch, and frozen.  ``fixed`` has no observers at work, as PyTorch's with ``disable_observer``.

- *quantcourse*: ``qat.prepare`` with each kind of scales.
- *torch.ao*: ``prepare_qat_fx`` with the default configuration for x86, deprecated but still in PyTorch.
- *brevitas*: its layers in the same places, ranges of weights from their statistics at each step, scales of values learned,
  as its defaults have it.  Frozen: batch norms merged into the layers.

**Accuracy** (``--nets``, ``--settings``): the networks of the course from their stored weights, the same three epochs of
AdamW with the same batches and a cosine for everybody; both ends have 8 bits, and all start from ranges calibrated on the
same 512 images.  Learning rates were chosen for each contender and setting on validation images (``--validation``).
Columns: points lost against the FP32 network, the mean over ``--seeds`` with the standard error of a cluster bootstrap over
the original images, and the worst seed; ``ours - theirs``: what the first row keeps more, paired image by image.

The course requires: a step with fixed scales takes at most 1.9 times that of FP32, 1.4 times with frozen batch norms, and
less than both peers'; and accuracy is nowhere more than two standard errors behind brevitas.  The exit status is 1 if not.
A tool that is not installed says so in its line; none is needed by the rest of the course: ``pip install brevitas``.
"""

import argparse
import contextlib
import copy
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from _paired import COLUMNS, columns, mean, quiet, right
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from quantcourse import data, models, qat
from quantcourse.metrics import paired_difference
from quantcourse.ptq import Recipe, Scheme

EPOCHS, BATCH = 3, 128
SETTINGS = {"W4A4": 4, "W3A3": 3, "W2A2": 2}
CONTENDERS = "quantcourse, fixed", "quantcourse, lsq", "brevitas"
RATES = {
    ("plain", "W4A4"): (3e-3, 1e-2, 1e-3),
    ("plain", "W3A3"): (1e-3, 3e-3, 3e-3),
    ("plain", "W2A2"): (1e-2, 1e-2, 3e-2),
    ("mobile", "W4A4"): (1e-2, 1e-2, 3e-2),
    ("mobile", "W3A3"): (3e-2, 3e-2, 3e-2),
    ("mobile", "W2A2"): (3e-2, 3e-2, 3e-2),
}
"""Of each contender, the best of 0.001, 0.003, 0.01 and 0.03 on validation images for two seeds."""
MOST = {"batch": 1.9, "frozen": 1.4}
Split = tuple[Tensor, Tensor, Tensor]
Contender = tuple[nn.Module, Iterable[object]]  # a network to train, and its parameters for the optimizer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=models.SEEDS, choices=range(1, models.SEEDS + 1))
    parser.add_argument("--steps", type=int, default=15, help="rounds of the first table; 0: leave it out")
    parser.add_argument("--nets", nargs="*", default=["plain", "mobile"], choices=["plain", "mobile"])
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--rates", nargs="+", type=float, help="try these learning rates for everybody")
    parser.add_argument("--validation", action="store_true", help="judge on validation images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    failed = times(options.steps) if options.steps else []
    judge = data.digits("validation" if options.validation else "test")
    for net in options.nets:
        failed += accuracies(net, options, judge)
    print(f"\nNot as required: {', '.join(failed) or 'nothing'}.")
    return 1 if failed else 0


# --- Time -------------------------------------------------------------------------


def times(rounds: int) -> list[str]:
    """The first table; what in it is not as required."""
    images, labels, _ = data.digits("train")
    x, y = images[:BATCH].contiguous(memory_format=torch.channels_last), labels[:BATCH]
    steps, missing = {}, {}
    for (who, mode), make in steppers(images[:512]).items():
        try:
            with silence():
                net = make().to(memory_format=torch.channels_last)
            steps[who, mode] = stepper(net, x, y)
        except Exception as error:  # a peer may raise anything
            missing[who] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for _ in tqdm(range(rounds), desc="steps"):
        for key, step in steps.items():
            start = time.perf_counter()
            step()
            taken[key].append(time.perf_counter() - start)
    base = taken["FP32", "batch"]
    ratios = {
        key: statistics.median(t / b for t, b in zip(seconds, base, strict=True)) for key, seconds in taken.items()
    }
    print(f"{'time of a step, FP32 = 1':30}{'batch statistics':>18}{'frozen':>10}")
    print("-" * 58)
    for who in dict.fromkeys(who for who, _ in ratios):
        print(f"{who:30}{ratios[who, 'batch']:>18.2f}{ratios[who, 'frozen']:>10.2f}")
    for who, why in missing.items():
        print(f"{who:30}{why}")
    print(f"A step of FP32 takes {1e3 * statistics.median(base):.0f} ms here.\n")
    return [
        f"time of a step ({mode}): {ratios['quantcourse, fixed', mode]:.2f}"
        for mode, most in MOST.items()
        if ratios["quantcourse, fixed", mode]
        > min([most, *(r for (who, m), r in ratios.items() if m == mode and who.startswith(("torch.ao", "brevitas")))])
    ]


def stepper(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(net.parameters(), 1e-5)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    for _ in range(3):
        step()
    return step


def steppers(calibration: Tensor) -> dict[tuple[str, str], Callable[[], nn.Module]]:
    def ours(scales: str, frozen: bool) -> Callable[[], nn.Module]:
        after = 0 if frozen else None
        return lambda: qat.prepare(
            models.load("mobile"), [calibration], scales=scales, freeze_norms_after=after, progress=False
        )

    made: dict[tuple[str, str], Callable[[], nn.Module]] = {
        ("FP32", "batch"): lambda: models.load("mobile").train(),
        ("FP32", "frozen"): lambda: models.load("mobile").eval(),
    }
    for scales in ("fixed", "observed", "lsq", "lsq+", "pact"):
        made[f"quantcourse, {scales}", "batch"] = ours(scales, frozen=False)
        made[f"quantcourse, {scales}", "frozen"] = ours(scales, frozen=True)
    for kind, observing in (("fixed", False), ("observed", True)):
        for mode in ("batch", "frozen"):
            made[f"torch.ao, {kind}", mode] = lambda o=observing, m=mode: torch_ao(calibration, o, m == "frozen")
    for mode in ("batch", "frozen"):
        made["brevitas", mode] = lambda m=mode: brevitas_net("mobile", 0, 8, calibration, merged=m == "frozen")
    return made


def torch_ao(calibration: Tensor, observing: bool, frozen: bool) -> nn.Module:
    import torch.ao.nn.intrinsic.qat as fused
    from torch.ao import quantization as ao
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    mapping = ao.get_default_qat_qconfig_mapping("x86")
    net = prepare_qat_fx(models.load("mobile").train(), mapping, (calibration[:1],)).train()
    net(calibration)
    if not observing:
        net.apply(ao.disable_observer)
    if frozen:
        net.apply(fused.freeze_bn_stats)
    return net


# --- Accuracy ---------------------------------------------------------------------


def accuracies(net: str, options: argparse.Namespace, judge: Split) -> list[str]:
    """The second table for one network; where we are behind."""
    floats = [right(models.load(net, seed), judge) for seed in range(options.seeds)]
    heading = f"{net:10}{'who':22}{'rate':>8}{COLUMNS}"
    print(f"\n{heading}\n{'-' * len(heading)}")
    behind = []
    for setting in options.settings:
        ours: list[Tensor] = []
        for who, rate in zip(CONTENDERS, RATES[net, setting], strict=True):
            for learning_rate in options.rates or [rate]:
                try:
                    answers = [trained(who, net, seed, setting, learning_rate, judge) for seed in range(options.seeds)]
                except Exception as error:  # a peer may raise anything
                    print(f"{setting:10}{who:22}{type(error).__name__}: {str(error).splitlines()[0]}")
                    continue
                ours = ours or answers
                start = f"{setting:10}{who:22}{learning_rate:>8g}"
                print(start + columns(answers, floats, ours, judge[2]), flush=True)
                if who == "brevitas":
                    difference, error_of_it = paired_difference(mean(ours), mean(answers), judge[2])
                    behind += [f"{net} {setting}: {difference:.4f}"] if difference < -2 * error_of_it else []
    return behind


def trained(who: str, net: str, seed: int, setting: str, learning_rate: float, judge: Split) -> Tensor:
    """Which images a network has right after training."""
    images, labels, _ = data.digits("train")
    bits = SETTINGS[setting]
    with silence():
        if who == "brevitas":
            student = brevitas_net(net, seed, bits, images[:512], merged=False)
            groups: Iterable[object] = student.parameters()
        else:
            student = qat.prepare(
                models.load(net, seed), [images[:512]], recipe(bits), who.split(", ")[1], progress=False
            )
            groups = student.parameter_groups(learning_rate)
    student = student.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(groups, learning_rate, weight_decay=1e-4)
    count = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * count)
    images = images.contiguous(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(EPOCHS), desc=f"{who} {net}-{seed} {setting}", leave=False):
        for batch in torch.randperm(len(images), generator=generator).split(BATCH)[:count]:
            loss = functional.cross_entropy(student(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return right(qat.convert(student) if isinstance(student, qat.TrainableModel) else student.eval(), judge)


def recipe(bits: int) -> Recipe:
    weights = Scheme(bits, granularity="channel", observer="mse")
    values = Scheme(bits, symmetric=False, signed=False, observer="mse")
    return replace(Recipe(weights, values), first_last="8 bits")


def brevitas_net(name: str, seed: int, bits: int, calibration: Tensor, merged: bool) -> nn.Module:
    """The layers of brevitas where ours have grids: weights, inputs, behind each ReLU, the average, the scores."""
    from brevitas import nn as qnn
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.quant import Int8WeightPerChannelFloat, Uint8ActPerTensorFloat

    from quantcourse.fold import fold_batch_norm

    model: nn.Module = models.load(name, seed)
    model = fold_batch_norm(model) if merged else model
    parts = list(model)
    weighted = [part for part in parts if isinstance(part, nn.Conv2d | nn.Linear)]
    layers: list[nn.Module] = [qnn.QuantIdentity(bit_width=8, return_quant_tensor=False)]
    for part in parts:
        ends = 8 if part in (weighted[0], weighted[-1]) else bits
        if isinstance(part, nn.Conv2d):
            quantized = qnn.QuantConv2d(
                part.in_channels,
                part.out_channels,
                part.kernel_size,
                stride=part.stride,
                padding=part.padding,
                groups=part.groups,
                bias=part.bias is not None,
                weight_quant=Int8WeightPerChannelFloat,
                weight_bit_width=ends,
            )
        elif isinstance(part, nn.Linear):
            layers.append(qnn.QuantIdentity(act_quant=Uint8ActPerTensorFloat, bit_width=8))
            quantized = qnn.QuantLinear(
                part.in_features,
                part.out_features,
                bias=True,
                weight_quant=Int8WeightPerChannelFloat,
                weight_bit_width=ends,
            )
        elif isinstance(part, nn.ReLU):
            layers.append(qnn.QuantReLU(bit_width=bits))
            continue
        else:
            layers.append(copy.deepcopy(part))
            continue
        state = part.state_dict()
        quantized.load_state_dict(state, strict=False)
        layers.append(quantized)
    layers.append(qnn.QuantIdentity(bit_width=8))
    net = nn.Sequential(*layers).eval()
    with torch.no_grad(), calibration_mode(net):
        net(calibration)
    return net.train()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


if __name__ == "__main__":
    sys.exit(main())
