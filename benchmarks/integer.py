"""How fast are the integer layers of ``quantcourse.integer``, beside the same layers in other hands?

One table, from one run:

    python benchmarks/integer.py --repeats 15

Layers as they come in ResNet-50 and MobileNet, on 8 images, one thread, UINT8 activations, INT8 weights with a scale for
each output, an INT32 bias:

- *quantcourse* is a prepared layer, codes in, codes out: the sums and the requantization, in TensorFlow Lite's rounding
  (``"double"``) and in ONNX Runtime's (``"float"``).  *sums* is its ``accumulate`` alone.
- *torch* is the layer on float32, without any quantization.
- *ONNX Runtime* is QLinearMatMul (which has no bias) or QLinearConv, codes in, codes out.

Three more lines of the table: *requantize*, sums to codes, beside a product and a sum in float32; *add*, of two scales,
beside QLinearAdd; and *ResNet-50*, all its layers one after the other, each on codes of its own (convolutions with
their ReLU, additions, pooling, the classifier), beside the same on float32.

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
from functools import partial

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from quantcourse import models
from quantcourse.affine import INT8, UINT8, QParams
from quantcourse.integer import (
    add,
    avg_pool,
    max_pool,
    prepare_add,
    prepare_conv2d,
    prepare_linear,
    requantize,
)


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
    makers = {layer.name: partial(jobs, layer) for layer in LAYERS}
    makers |= {"requantize": requantizations, "add": additions, "ResNet-50": networks}
    for name, make in makers.items():
        peers = make()
        times = measure(list(peers.values()), options.repeats)
        for who, milliseconds in zip(peers, times, strict=True):
            low, middle, high = np.percentile(milliseconds, [25, 50, 75])
            against = "" if who.startswith("quantcourse") else f"{np.median(times[0]) / middle:16.2f}"
            print(f"{name:12}{who:24}{middle:9.2f}{(high - low) / 2:9.2f}{against}")


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
        prepared = {r: prepare_linear(weight, weight_qp, None, qp, out, r) for r in ("double", "float")}
        theirs = runtime(layer, q, qp, weight, weight_qp, None, out)
        check(layer.name, prepared["float"](q), theirs())
        return {
            "quantcourse, double": lambda: prepared["double"](q),
            "quantcourse, float": lambda: prepared["float"](q),
            "quantcourse, sums": lambda: prepared["double"].accumulate(q),
            "torch float32": lambda: functional.linear(real, real_weight),
            "ONNX Runtime": theirs,
        }
    padding, groups = layer.kernel // 2, layer.groups
    geometry = {"padding": padding, "groups": groups}
    theirs = runtime(layer, q, qp, weight, weight_qp, bias, out)
    q, real, real_weight = (t.to(memory_format=torch.channels_last) for t in (q, real, real_weight))
    prepared = {
        r: prepare_conv2d(weight, weight_qp, bias, qp, out, **geometry, rounding=r) for r in ("double", "float")
    }
    check(layer.name, prepared["float"](q), theirs())
    return {
        "quantcourse, double": lambda: prepared["double"](q),
        "quantcourse, float": lambda: prepared["float"](q),
        "quantcourse, sums": lambda: prepared["double"].accumulate(q),
        "torch float32": lambda: functional.conv2d(real, real_weight, real_bias, **geometry),
        "ONNX Runtime": theirs,
    }


def images(generator: torch.Generator, channels: int, size: int) -> torch.Tensor:
    """Codes of UINT8, channels last."""
    q = torch.randint(0, 256, (8, channels, size, size), generator=generator, dtype=torch.uint8)
    return q.to(memory_format=torch.channels_last)


def requantizations() -> dict[str, Callable[[], object]]:
    """Sums of a layer of 256 channels, half of them clipped by a ReLU or none."""
    generator = torch.Generator().manual_seed(0)
    acc = torch.randint(-99_999, 99_999, (8, 256, 56, 56), generator=generator, dtype=torch.int32)
    acc = acc.to(memory_format=torch.channels_last)
    m = torch.rand(256, generator=generator, dtype=torch.float64) * 0.001 + 0.001
    out, centred = QParams(0.1, 0, UINT8), QParams(0.1, 128, UINT8)
    real, scale, bias = acc.float(), m.float().view(-1, 1, 1), torch.rand(256, 1, 1, generator=generator)
    return {
        "quantcourse, double": lambda: requantize(acc, m, centred),
        "quantcourse, ReLU": lambda: requantize(acc, m, out, activation="relu"),
        "quantcourse, float": lambda: requantize(acc, m, centred, "float"),
        "torch float32": lambda: real * scale + bias,
    }


def additions() -> dict[str, Callable[[], object]]:
    """A residual addition of 256 channels."""
    generator = torch.Generator().manual_seed(0)
    a, b = images(generator, 256, 56), images(generator, 256, 56)
    a_qp, b_qp, out = QParams(0.02, 0, UINT8), QParams(0.03, 120, UINT8), QParams(0.04, 60, UINT8)
    prepared, left, right = prepare_add(a_qp, b_qp, out), a.float(), b.float()
    names = ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"]
    parameters = zip(("a", "b", "y"), (a_qp, b_qp, out), strict=True)
    constants = {}
    for name, qp in parameters:
        constants |= {f"s{name}": qp.scale.numpy(), f"z{name}": qp.zero_point.numpy().astype(np.uint8)}
    operator = helper.make_node("QLinearAdd", names, ["y"], domain="com.microsoft")
    theirs = session(operator, constants, {"a": a.contiguous(), "b": b.contiguous()})
    found, close = add(a, a_qp, b, b_qp, out, "float").int(), theirs().int()
    if (found - close).abs().max() > 1:  # its reals are not rounded as ours
        raise SystemExit("add: ONNX Runtime gives other codes, so its time can't be compared")
    return {
        "quantcourse, double": lambda: prepared(a, b),
        "torch float32": lambda: left + right,
        "ONNX Runtime": theirs,
    }


def networks() -> dict[str, Callable[[], object]]:
    """Every layer of ResNet-50 on an input of its own, as large as in the network."""
    generator = torch.Generator().manual_seed(0)
    ours: list[Callable[[], object]] = []
    theirs: list[Callable[[], object]] = []

    def layer(module: torch.nn.Module, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        is_linear = isinstance(module, torch.nn.Linear)
        shape = module.weight.shape
        qp, out = QParams(0.02, 0, UINT8), QParams(0.005 * shape[1:].numel() ** 0.5, 0, UINT8)
        weight = (torch.randn(shape, generator=generator) * 40).clamp(-127, 127).to(torch.int8)
        weight_qp = QParams(torch.full((len(weight),), 0.005), torch.zeros(len(weight)).int(), INT8, axis=0)
        bias = torch.randint(-9999, 9999, (len(weight),), generator=generator, dtype=torch.int32)
        real_bias = bias.float()
        if is_linear:
            q = torch.randint(0, 256, inputs[0].shape, generator=generator, dtype=torch.uint8)
            real, real_weight = q.float(), weight.float()
            ours.append(partial(prepare_linear(weight, weight_qp, bias, qp, out), q))
            theirs.append(partial(functional.linear, real, real_weight, real_bias))
            return
        # The last of a block has no ReLU: the addition that follows has it.
        last = shape[2] == 1 and shape[0] >= 4 * shape[1]
        if last:
            out = QParams(out.scale, 128, UINT8)
        geometry = {"stride": module.stride, "padding": module.padding}
        activation = None if last else "relu"
        prepared = prepare_conv2d(weight, weight_qp, bias, qp, out, **geometry, activation=activation)
        q = images(generator, shape[1], inputs[0].shape[2])
        real = q.float()
        real_weight = weight.float().to(memory_format=torch.channels_last)

        def convolve() -> torch.Tensor:
            y = functional.conv2d(real, real_weight, real_bias, **geometry)
            return y if last else y.relu_()

        ours.append(partial(prepared, q))
        theirs.append(convolve)

    net = models.backbone("resnet50").eval()
    hooks = [m.register_forward_hook(layer) for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    net(torch.zeros(8, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    qp, half = QParams(0.02, 0, UINT8), QParams(0.03, 128, UINT8)
    plus = prepare_add(qp, half, qp, activation="relu")
    for channels, size, count in [(256, 56, 3), (512, 28, 4), (1024, 14, 6), (2048, 7, 3)]:
        a, b = images(generator, channels, size), images(generator, channels, size)
        left, right = a.float(), b.float()
        ours.extend([partial(plus, a, b)] * count)
        theirs.extend([lambda left=left, right=right: (left + right).relu_()] * count)
    first, final = images(generator, 64, 112), images(generator, 2048, 7)
    ours += [partial(max_pool, first, qp, 3, 2, 1), partial(avg_pool, final, qp)]
    theirs += [
        partial(functional.max_pool2d, first.float(), 3, 2, 1),
        partial(functional.adaptive_avg_pool2d, final.float(), 1),
    ]
    return {
        "quantcourse, double": lambda: [run() for run in ours],
        "torch float32": lambda: [run() for run in theirs],
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
    return session(operator, constants, {"x": q})


def session(
    operator: object, constants: dict[str, np.ndarray], inputs: dict[str, torch.Tensor]
) -> Callable[[], torch.Tensor]:
    """One operator with constant parameters, on codes of UINT8."""
    graph = helper.make_graph(
        [operator],
        "layer",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, q.shape) for name, q in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    # Exact also where its default would saturate (x86 without VNNI).
    options.add_session_config_entry("session.x64quantprecision", "1")
    run = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run
    feed = {name: q.numpy() for name, q in inputs.items()}
    return lambda: torch.from_numpy(run(None, feed)[0])


def check(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    if not torch.equal(ours, theirs):
        raise SystemExit(f"{name}: ONNX Runtime gives other codes, so their times can't be compared")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
