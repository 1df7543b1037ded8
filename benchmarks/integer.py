"""How fast are the integer layers of ``quantcourse.integer``, beside the same layers in other hands?

One table, from one run:

    python benchmarks/integer.py --repeats 15

Layers as they come in ResNet-50 and MobileNet, on 8 images, one thread, UINT8 activations, INT8 weights with a scale for
each output, an INT32 bias:

- *quantcourse* is ``linear`` or ``conv2d``, codes in, codes out: the sums and the requantization, in TensorFlow Lite's
  rounding (``"double"``) and in ONNX Runtime's (``"float"``).  *sums* is ``accumulate_linear`` or ``accumulate_conv2d``
  alone.
- *torch* is the layer on float32, without any quantization.
- *ONNX Runtime* is QLinearMatMul (which has no bias) or QLinearConv, codes in, codes out.

Images lie in memory with their channels last, as the layers of quantcourse hand them on, and as torch's are fastest;
ONNX Runtime gets them as it wants them.  The peers run by turns within each repetition, so a busy machine slows all of
them alike.  Times are medians over the repetitions, the spread is half the distance between the quartiles.  ``ours /
theirs`` divides the time of quantcourse in the rounding ``"double"`` by that of the line: below 1, quantcourse is faster.
Before anything is timed, the codes in the rounding ``"float"`` must be those of ONNX Runtime, all of them.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from quantcourse.affine import INT8, UINT8, QParams
from quantcourse.integer import accumulate_conv2d, accumulate_linear, conv2d, linear


@dataclass(frozen=True)
class Layer:
    """A kind of layer; ``size`` 0 is a linear one on 256 rows."""

    name: str
    inputs: int
    outputs: int
    size: int = 0
    kernel: int = 1
    groups: int = 1


LAYERS = (
    Layer("linear", 1024, 1024),
    Layer("1x1", 256, 64, 56),
    Layer("3x3", 64, 64, 56, 3),
    Layer("3x3 deep", 512, 512, 14, 3),
    Layer("depthwise", 64, 64, 56, 3, 64),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds a layer: quantcourse.integer and its peers.")
    parser.add_argument("--repeats", type=int, default=15, help="repetitions (default: %(default)s)")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("need at least 1 repetition")
    torch.set_num_threads(1)
    print(f"8 images (linear: 256 rows), 1 thread, {options.repeats} repetitions by turns; ms a layer")
    heading = f"{'layer':12}{'who':24}{'median':>9}{'spread':>9}   ours / theirs"
    print(heading)
    print("-" * len(heading))
    for layer in LAYERS:
        peers = jobs(layer)
        times = measure(list(peers.values()), options.repeats)
        for who, milliseconds in zip(peers, times, strict=True):
            low, middle, high = np.percentile(milliseconds, [25, 50, 75])
            against = "" if who.startswith("quantcourse") else f"{np.median(times[0]) / middle:16.2f}"
            print(f"{layer.name:12}{who:24}{middle:9.2f}{(high - low) / 2:9.2f}{against}")


def measure(group: list[Callable[[], object]], repeats: int) -> list[np.ndarray]:
    """Milliseconds: one array a peer, one number a repetition."""
    for run in group:
        run()  # once unmeasured: first calls allocate and look up
    times: list[list[float]] = [[] for _ in group]
    for repetition in range(repeats):
        order = np.roll(np.arange(len(group)), repetition)  # so that nobody always comes after the same neighbour
        for index in order:
            start = time.perf_counter()
            group[index]()
            times[index].append((time.perf_counter() - start) * 1e3)
    return [np.array(t) for t in times]


def jobs(layer: Layer) -> dict[str, Callable[[], object]]:
    """quantcourse first, then its peers.  Checked to agree before they are timed."""
    generator = torch.Generator().manual_seed(0)
    is_linear = layer.size == 0
    shape = (256, layer.inputs) if is_linear else (8, layer.inputs, layer.size, layer.size)
    kernel = () if is_linear else (layer.kernel, layer.kernel)
    q = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    weight = torch.randn((layer.outputs, layer.inputs // layer.groups, *kernel), generator=generator) * 40
    weight = weight.clamp(-127, 127).to(torch.int8)
    bias = torch.randint(-9999, 9999, (layer.outputs,), generator=generator, dtype=torch.int32)
    scales = torch.rand(layer.outputs, generator=generator) * 0.01 + 0.001
    qp = QParams(0.02, 120, UINT8)
    weight_qp = QParams(scales, torch.zeros(layer.outputs, dtype=torch.int32), INT8, axis=0)
    out = QParams(0.02 * 0.005 * 40 * weight[0].numel() ** 0.5, 128, UINT8)
    real, real_weight, real_bias = q.float(), weight.float(), bias.float()
    if is_linear:
        arguments = q, qp, weight, weight_qp, None
        theirs = runtime(layer, q, qp, weight, weight_qp, None, out)
        check(layer, linear(*arguments, out, "float"), theirs())
        return {
            "quantcourse, double": lambda: linear(*arguments, out),
            "quantcourse, float": lambda: linear(*arguments, out, "float"),
            "quantcourse, sums": lambda: accumulate_linear(*arguments),
            "torch float32": lambda: functional.linear(real, real_weight),
            "ONNX Runtime": theirs,
        }
    last = torch.channels_last
    padding, groups = layer.kernel // 2, layer.groups
    geometry = {"padding": padding, "groups": groups}
    theirs = runtime(layer, q, qp, weight, weight_qp, bias, out)
    q, real, real_weight = (t.to(memory_format=last) for t in (q, real, real_weight))
    images = q, qp, weight, weight_qp, bias
    check(layer, conv2d(*images, out, **geometry, rounding="float"), theirs())
    return {
        "quantcourse, double": lambda: conv2d(*images, out, **geometry),
        "quantcourse, float": lambda: conv2d(*images, out, **geometry, rounding="float"),
        "quantcourse, sums": lambda: accumulate_conv2d(*images, **geometry),
        "torch float32": lambda: functional.conv2d(real, real_weight, real_bias, **geometry),
        "ONNX Runtime": theirs,
    }


def runtime(
    layer: Layer,
    q: torch.Tensor,
    qp: QParams,
    weight: torch.Tensor,
    weight_qp: QParams,
    bias: torch.Tensor | None,
    out: QParams,
) -> Callable[[], torch.Tensor]:
    """The layer in ONNX Runtime; weights and scales are constants of the model."""
    constants = {
        "sx": qp.scale.numpy(),
        "zx": qp.zero_point.numpy().astype(np.uint8),
        "w": (weight if weight.ndim == 4 else weight.T.contiguous()).numpy(),
        "sw": weight_qp.scale.numpy(),
        "zw": weight_qp.zero_point.numpy().astype(np.int8),
        "sy": out.scale.numpy(),
        "zy": out.zero_point.numpy().astype(np.uint8),
    }
    attributes = {}
    if bias is not None:
        constants["b"] = bias.numpy()
        attributes = {"pads": [layer.kernel // 2] * 4, "group": layer.groups}
    operator = helper.make_node(
        "QLinearMatMul" if bias is None else "QLinearConv", ["x", *constants], ["y"], **attributes
    )
    graph = helper.make_graph(
        [operator],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, q.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    # Exact also where its default would saturate (x86 without VNNI).
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": q.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def check(layer: Layer, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    if not torch.equal(ours, theirs):
        raise SystemExit(f"{layer.name}: ONNX Runtime gives other codes, so their times can't be compared")


if __name__ == "__main__":
    main()
