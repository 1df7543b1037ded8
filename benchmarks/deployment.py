"""How fast do exported networks run in ONNX Runtime, and how large are their files?

One table, from one run:

    python benchmarks/deployment.py --repeats 20

ResNet-50 and MobileNetV2 with random weights, 224x224 pixels, batches of 1 and 32, one thread.  Files:

- *FP32*: our float export, batch norms folded, with all of the runtime's own optimizations.
- *ours, UINT8*: quantized by ``ptq.quantize`` with the preset ``int8``.
- *ours, INT8*: the same with signed codes for values, as ``to_onnx(..., unsigned=False)`` writes them.
- *ONNX Runtime*: made from our float file by its ``quant_pre_process`` and ``quantize_static``: QDQ, weights INT8 for each
  channel, values affine UINT8, ranges from minima and maxima of the same images as ours.

All files of a network run by turns within each repetition, so a busy machine slows all of them alike.  Times are those
of the processor in the calling thread, which does all the work.  *FP32 / it* and *ONNX Runtime / it* are medians over the
repetitions of the ratio within a repetition: above 1, the file of that line is faster.  The spread is half the distance
between the quartiles of the first ratio.  Before anything is timed, the quantized files must give nearly the scores of FP32.

The last lines state the requirements of the course for ResNet-50: the UINT8 file is at least as fast as the runtime's own
(at least 0.95 of it: the runtime makes the same operations of both, and two sessions of one file differ by so much in a
run), and at least 2.5 times as fast as FP32 where the processor has VNNI.  They compare the fastest repetitions, since other work on the machine only ever adds time.
The exit status is 1 if it is not so.
"""

import argparse
import logging
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from quantcourse import models
from quantcourse.export import to_onnx
from quantcourse.ptq import Recipe, Scheme, quantize

SIGNED = Recipe(activations=Scheme(symmetric=False, signed=True))
AS_FAST = 0.95
FASTER_THAN_FLOAT = 2.5
FILES = ("FP32", "ours, UINT8", "ours, INT8", "ONNX Runtime")


class Images(CalibrationDataReader):
    """What quantize_static asks for: one batch after the other."""

    def __init__(self, batches: list[torch.Tensor]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch.numpy()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Exported networks in ONNX Runtime: float, ours, its own.")
    parser.add_argument("--networks", nargs="+", default=["resnet50", "mobilenet_v2"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--repeats", type=int, default=20, help="repetitions (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vnni = has_vnni()
    print(
        f"one thread, {'with' if vnni else 'without'} VNNI, {options.repeats} repetitions by turns; ms of the processor"
    )
    heading = (
        f"{'network':13}{'batch':>6}  {'file':14}{'MB':>7}{'ms':>9}{'FP32 / it':>11}{'spread':>8}   ONNX Runtime / it"
    )
    print(heading)
    print("-" * len(heading))
    kept = True
    verdicts = []
    for name in options.networks:
        with TemporaryDirectory() as folder:
            files = export(name, Path(folder))
            sessions = {who: session(path) for who, path in files.items()}
            check(name, sessions)
            for batch in options.batches:
                times = measure(sessions, batch, options.repeats)
                for who, path in files.items():
                    against = [times[other] / times[who] for other in ("FP32", "ONNX Runtime")]
                    low, high = np.percentile(against[0], [25, 75])
                    print(
                        f"{name:13}{batch:6}  {who:14}{path.stat().st_size / 1e6:7.1f}{np.median(times[who]) * 1e3:9.1f}"
                        f"{np.median(against[0]):11.2f}{(high - low) / 2:8.2f}{np.median(against[1]):20.3f}",
                        flush=True,
                    )
                    if name == "resnet50" and who == "ours, UINT8":
                        faster, as_fast = (times[other].min() / times[who].min() for other in ("FP32", "ONNX Runtime"))
                        good = as_fast >= AS_FAST and (faster >= FASTER_THAN_FLOAT or not vnni)
                        kept &= good
                        verdicts.append(
                            f"batch {batch}: {faster:.2f} and {as_fast:.3f}: {'kept' if good else 'BROKEN'}"
                        )
    if verdicts:
        print(
            f"\nResNet-50, ours: times FP32 (at least {FASTER_THAN_FLOAT} with VNNI) and times ONNX Runtime's own file (at least {AS_FAST})"
        )
        print("\n".join(verdicts))
    return 0 if kept else 1


def export(name: str, folder: Path) -> dict[str, Path]:
    """All files of one network."""
    model = models.backbone(name).eval()
    batches = [torch.randn(2, 3, 224, 224) for _ in range(2)]
    paths = {who: folder / f"{i}.onnx" for i, who in enumerate(FILES)}
    to_onnx(model, paths["FP32"], batches[0])
    to_onnx(quantize(model, batches, progress=False), paths["ours, UINT8"], batches[0])
    to_onnx(quantize(model, batches, SIGNED, progress=False), paths["ours, INT8"], batches[0], unsigned=False)
    logging.disable(logging.WARNING)  # it advises to do what quant_pre_process has done
    prepared = folder / "prepared.onnx"
    quant_pre_process(paths["FP32"], prepared)
    quantize_static(
        prepared,
        paths["ONNX Runtime"],
        Images(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return paths


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check(name: str, sessions: dict[str, ort.InferenceSession]) -> None:
    """Random weights give scores that differ little between images, so these are compared, not classes."""
    x = {"input": np.random.default_rng(0).standard_normal((2, 3, 224, 224), dtype=np.float32)}
    scores = {who: s.run(None, x)[0] for who, s in sessions.items()}
    for who, y in scores.items():
        noise = np.square(y - scores["FP32"]).sum() / np.square(scores["FP32"]).sum()
        if noise > 0.05:
            raise SystemExit(f"{name}: {who} gives other scores, so its times can't be compared (noise {noise:.3f})")


def measure(sessions: dict[str, ort.InferenceSession], batch: int, repeats: int) -> dict[str, np.ndarray]:
    """Seconds of the processor: one array a file, one number a repetition."""
    x = {"input": np.random.default_rng(batch).standard_normal((batch, 3, 224, 224), dtype=np.float32)}
    for s in sessions.values():
        s.run(None, x)  # once unmeasured: the first run allocates
    times: dict[str, list[float]] = {who: [] for who in sessions}
    for repetition in range(repeats):
        for who in np.roll(list(sessions), repetition):  # so that nobody always comes after the same neighbour
            start = time.thread_time()
            sessions[who].run(None, x)
            times[who].append(time.thread_time() - start)
    return {who: np.array(t) for who, t in times.items()}


def has_vnni() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


if __name__ == "__main__":
    sys.exit(main())
