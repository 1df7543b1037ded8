"""Typical wrong answers to homework 2, each as a cell behind the solution."""

ALONE = """
import types

_names = dict(globals())
for _name, _value in list(_names.items()):
    if isinstance(_value, types.FunctionType):
        _names[_name] = types.FunctionType(_value.__code__, _names, _name, _value.__defaults__)
        globals()[_name] = _names[_name]
"""
"""The last question calls the functions of the first ones.  With this ahead it goes on calling the right ones, so that a
wrong answer shows in its own question alone."""

WRONG: list[tuple[str, str, str]] = [
    (
        "one place too few",
        "q1",
        ALONE
        + """
def output_size(size, kernel, stride=1, padding=0, dilation=1):
    if min(size, kernel, stride, dilation) < 1 or padding < 0 or size + 2 * padding < dilation * (kernel - 1) + 1:
        raise ValueError
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride
""",
    ),
    (
        "padding at one end alone",
        "q1",
        ALONE
        + """
def output_size(size, kernel, stride=1, padding=0, dilation=1):
    if min(size, kernel, stride, dilation) < 1 or padding < 0 or size + padding < dilation * (kernel - 1) + 1:
        raise ValueError
    return (size + padding - dilation * (kernel - 1) - 1) // stride + 1
""",
    ),
    (
        "places rounded up with a stride",
        "q1",
        ALONE
        + """
def output_size(size, kernel, stride=1, padding=0, dilation=1):
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if min(size, kernel, stride, dilation) < 1 or padding < 0 or room < 0:
        raise ValueError
    return math.ceil(room / stride) + 1
""",
    ),
    (
        "window as long as dilation times kernel",
        "q1",
        ALONE
        + """
def output_size(size, kernel, stride=1, padding=0, dilation=1):
    room = size + 2 * padding - dilation * kernel
    if min(size, kernel, stride, dilation) < 1 or padding < 0 or room < 0:
        raise ValueError
    return room // stride + 1
""",
    ),
    (
        "bad input and a window that fits nowhere pass",
        "q1",
        ALONE
        + """
def output_size(size, kernel, stride=1, padding=0, dilation=1):
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
""",
    ),
    (
        "groups forgotten",
        "q2",
        ALONE
        + """
def conv_cost(in_shape, out_shape, kernel, groups=1, bias=True):
    if groups < 1 or in_shape[1] % groups or out_shape[1] % groups or in_shape[0] != out_shape[0]:
        raise ValueError
    weights = out_shape[1] * in_shape[1] * kernel[0] * kernel[1]
    return weights + bias * out_shape[1], out_shape[0] * out_shape[2] * out_shape[3] * weights
""",
    ),
    (
        "MACs of one image, whatever the batch",
        "q2",
        ALONE
        + """
def conv_cost(in_shape, out_shape, kernel, groups=1, bias=True):
    if groups < 1 or in_shape[1] % groups or out_shape[1] % groups or in_shape[0] != out_shape[0]:
        raise ValueError
    weights = out_shape[1] * (in_shape[1] // groups) * kernel[0] * kernel[1]
    return weights + bias * out_shape[1], out_shape[2] * out_shape[3] * weights
""",
    ),
    (
        "MACs at input positions",
        "q2",
        ALONE
        + """
def conv_cost(in_shape, out_shape, kernel, groups=1, bias=True):
    if groups < 1 or in_shape[1] % groups or out_shape[1] % groups or in_shape[0] != out_shape[0]:
        raise ValueError
    weights = out_shape[1] * (in_shape[1] // groups) * kernel[0] * kernel[1]
    return weights + bias * out_shape[1], out_shape[0] * in_shape[2] * in_shape[3] * weights
""",
    ),
    (
        "one bias for each input",
        "q2",
        ALONE
        + """
def linear_cost(in_shape, outputs, bias=True):
    inputs = in_shape[-1]
    return outputs * inputs + bias * inputs, math.prod(in_shape) * outputs
""",
    ),
    (
        "only the first axis counted as rows",
        "q2",
        ALONE
        + """
def linear_cost(in_shape, outputs, bias=True):
    inputs = in_shape[-1]
    return outputs * inputs + bias * outputs, in_shape[0] * inputs * outputs
""",
    ),
    (
        "transposed convolution counted at output positions",
        "q3",
        ALONE
        + """
def transposed_cost(in_shape, out_channels, kernel, stride=1, padding=0, groups=1, bias=True):
    weights = in_shape[1] * (out_channels // groups) * kernel[0] * kernel[1]
    high, wide = ((n - 1) * stride + k - 2 * padding for n, k in zip(in_shape[2:], kernel, strict=True))
    return weights + bias * out_channels, in_shape[0] * high * wide * weights, (in_shape[0], out_channels, high, wide)
""",
    ),
    (
        "transposed convolution with a bias for each input channel",
        "q3",
        ALONE
        + """
def transposed_cost(in_shape, out_channels, kernel, stride=1, padding=0, groups=1, bias=True):
    weights = in_shape[1] * (out_channels // groups) * kernel[0] * kernel[1]
    high, wide = ((n - 1) * stride + k - 2 * padding for n, k in zip(in_shape[2:], kernel, strict=True))
    macs = in_shape[0] * in_shape[2] * in_shape[3] * weights
    return weights + bias * in_shape[1], macs, (in_shape[0], out_channels, high, wide)
""",
    ),
    (
        "size of the output as of an ordinary convolution",
        "q3",
        ALONE
        + """
def transposed_cost(in_shape, out_channels, kernel, stride=1, padding=0, groups=1, bias=True):
    weights = in_shape[1] * (out_channels // groups) * kernel[0] * kernel[1]
    high, wide = ((n + 2 * padding - k) // stride + 1 for n, k in zip(in_shape[2:], kernel, strict=True))
    macs = in_shape[0] * in_shape[2] * in_shape[3] * weights
    return weights + bias * out_channels, macs, (in_shape[0], out_channels, high, wide)
""",
    ),
    (
        "parameters of functions counted as well",
        "q4",
        """
_right = thop_total


def thop_total(steps):
    return _right(steps)[0], sum(step["params"] for step in steps)
""",
    ),
    (
        "normalization at two operations an element",
        "q4",
        """
_right = thop_total


def thop_total(steps):
    macs, params = _right(steps)
    return macs - sum(2 * step["elements"] for step in steps if step["op"] == "norm" and step["module"]), params
""",
    ),
    (
        "attention counted",
        "q4",
        """
_right = thop_total


def thop_total(steps):
    return _right([{**step, "op": "conv"} if step["op"] == "attention" else step for step in steps])
""",
    ),
    (
        "transposed convolution counted right, which thop does not",
        "q4",
        """
_right = thop_total


def thop_total(steps):
    return _right([{**step, "op": "conv"} if step["op"] == "transposed" else step for step in steps])
""",
    ),
    (
        "pooling without its division",
        "q4",
        """
_right = thop_total


def thop_total(steps):
    macs, params = _right(steps)
    return macs - sum(step["planes"] for step in steps if step["op"] == "pool" and step["module"]), params
""",
    ),
    (
        "rounded up once, behind the sum",
        "q5",
        ALONE
        + """
def bytes_moved(inputs, params, outputs, weight_bits=32, activation_bits=32):
    if min(weight_bits, activation_bits) < 1:
        raise ValueError
    return -(-(params * weight_bits + (inputs + outputs) * activation_bits) // 8)
""",
    ),
    (
        "all elements with the bits of the weights",
        "q5",
        ALONE
        + """
def bytes_moved(inputs, params, outputs, weight_bits=32, activation_bits=32):
    if min(weight_bits, activation_bits) < 1:
        raise ValueError
    return sum(-(-n * weight_bits // 8) for n in (inputs, params, outputs))
""",
    ),
    (
        "a MAC counted as one FLOP",
        "q5",
        ALONE
        + """
def bound(macs, moved, peak, bandwidth):
    if min(moved, peak, bandwidth) <= 0:
        raise ValueError
    compute, memory = macs / peak, moved / bandwidth
    return macs / moved, max(compute, memory), "memory" if memory > compute else "compute"
""",
    ),
    (
        "the two times added",
        "q5",
        ALONE
        + """
def bound(macs, moved, peak, bandwidth):
    if min(moved, peak, bandwidth) <= 0:
        raise ValueError
    compute, memory = 2 * macs / peak, moved / bandwidth
    return 2 * macs / moved, compute + memory, "memory" if memory > compute else "compute"
""",
    ),
    (
        "memory-bound at the ridge point",
        "q5",
        ALONE
        + """
def bound(macs, moved, peak, bandwidth):
    if min(moved, peak, bandwidth) <= 0:
        raise ValueError
    compute, memory = 2 * macs / peak, moved / bandwidth
    return 2 * macs / moved, max(compute, memory), "compute" if compute > memory else "memory"
""",
    ),
    ("the layer of most MACs predicted for both machines", "q6", 'longest_chip = "project"'),
    ("all layers said to gain from INT8", "q6", 'faster_board = ["expand", "depthwise", "project"]'),
    ("no layer said to gain without INT8 instructions", "q6", "faster_chip = []"),
    ("the rule of the many rows: the ridge point itself", "q7", "rows_fp32 = 20"),
    ("a quarter of the bytes taken for a quarter of the rows", "q7", "rows_weights = 5"),
    ("a larger batch said to help a depthwise layer", "q7", 'helps = "A"'),
    ("tools mixed up", "q7", 'tools = "CBA"'),
    (
        "one time from the sums of the network",
        "q8",
        """
_right = network_report


def network_report(layers, shape, peak, bandwidth, bits=32):
    found = _right(layers, shape, peak, bandwidth, bits)
    return {**found, "seconds": bound(found["macs"], found["bytes"], peak, bandwidth)[1]}
""",
    ),
    (
        "the layer of most MACs reported as the slowest",
        "q8",
        """
_right = network_report


def network_report(layers, shape, peak, bandwidth, bits=32):
    most = max(network_costs(layers, shape), key=lambda cost: cost["macs"])
    return {**_right(layers, shape, peak, bandwidth, bits), "slowest": most["name"]}
""",
    ),
    (
        "always 32 bits",
        "q8",
        """
_right = network_report


def network_report(layers, shape, peak, bandwidth, bits=32):
    return _right(layers, shape, peak, bandwidth)
""",
    ),
    (
        "an entry for the pooling",
        "q8",
        """
_right = network_costs


def network_costs(layers, shape):
    found = _right(layers, shape)
    for i, layer in enumerate(layers):
        if layer["kind"] == "pool":
            found.insert(i, {"name": layer["name"], "params": 0, "macs": 0, "inputs": 0, "outputs": 0})
    return found
""",
    ),
]
