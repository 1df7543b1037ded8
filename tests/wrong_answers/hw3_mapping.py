"""Typical wrong answers to homework 3: a label, the question that loses points, and the code that does it."""

Q1 = """
def qparams(low, high, q_min, q_max):
    if not (np.isfinite(low) and np.isfinite(high)) or low > high or q_min >= q_max:
        raise ValueError("bad range")
    low, high = {widened}
    s = (high - low) / ({steps})
    {empty}
    z = {rounded}
    return {pair}
"""
RIGHT_Q1 = {
    "widened": "min(low, 0.0), max(high, 0.0)",
    "steps": "q_max - q_min",
    "empty": "s = s if s > 0 else 1.0",
    "rounded": "round(q_min - low / s)",
    "pair": "s, min(max(z, q_min), q_max)",
}

Q2 = """
def quantize(x, s, z, q_min, q_max):
    if np.isnan(x).any():
        raise ValueError("NaN")
    return {codes}
"""

Q5 = """
def symmetric_scales(w, bits, axis=None):
    if bits < 2 or (axis is not None and not -w.ndim <= axis < w.ndim):
        raise ValueError("bad argument")
    shared = {shared}
    largest = {largest}
    return {scales}
"""
RIGHT_Q5 = {
    "shared": "tuple(i for i in range(w.ndim) if axis is None or i != axis % w.ndim)",
    "largest": "np.abs(w).max(axis=shared, keepdims=True)",
    "scales": "np.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1.0)",
}

Q6 = """
def fake_quantize_groups(w, bits, g):
    if g < 1:
        raise ValueError("g")
    q_max = 2 ** (bits - 1) - 1
    back = w.copy()
    for start in {starts}:
        part = w[:, start : start + g]
        s = np.abs(part).max(axis={axis}, keepdims=True) / q_max
        s = np.where(s > 0, s, 1.0)
        back[:, start : start + g] = s * np.rint(part / s)
    return back
"""

Q7 = """
def ternary(w):
    magnitude = np.abs(w)
    kept = {kept}
    count = kept.sum(axis=1, keepdims=True)
    scales = {scales}
    return np.where(kept, np.sign(w), 0).astype(np.int64), np.where(scales > 0, scales, 1.0)
"""

Q8 = """
def row_sqnr(w, s, bits):
    q_max = 2 ** (bits - 1) - 1
    w_hat = s * np.clip(np.rint(w / s), -q_max, q_max)
    with np.errstate(all="ignore"):
        return {answer}
"""

WRONG: list[tuple[str, str, str]] = [
    ("as many steps as codes", "q1", Q1.format(**RIGHT_Q1 | {"steps": "q_max - q_min + 1"})),
    (
        "a half of the zero point is rounded up",
        "q1",
        Q1.format(**RIGHT_Q1 | {"rounded": "int(np.floor(q_min - low / s + 0.5))"}),
    ),
    ("low / scale is rounded by itself", "q1", Q1.format(**RIGHT_Q1 | {"rounded": "q_min - round(low / s)"})),
    ("the zero point is cut off, not rounded", "q1", Q1.format(**RIGHT_Q1 | {"rounded": "int(q_min - low / s)"})),
    ("the zero point is not held", "q1", Q1.format(**RIGHT_Q1 | {"pair": "s, z"})),
    ("the range is not widened to zero", "q1", Q1.format(**RIGHT_Q1 | {"widened": "low, high"})),
    ("an empty range divides by zero", "q1", Q1.format(**RIGHT_Q1 | {"empty": ""})),
    ("steps per unit in place of the step", "q1", Q1.format(**RIGHT_Q1 | {"pair": "1 / s, min(max(z, q_min), q_max)"})),
    (
        "no check of the range",
        "q1",
        """
checked = qparams


def qparams(low, high, q_min, q_max):
    try:
        return checked(low, high, q_min, q_max)
    except ValueError:
        return 1.0, q_min
""",
    ),
    (
        "the zero point is added before rounding",
        "q2",
        Q2.format(codes="np.clip(np.rint(x / s + z), q_min, q_max).astype(np.int64)"),
    ),
    (
        "halves are rounded up",
        "q2",
        Q2.format(codes="np.clip(np.floor(x / s + 0.5) + z, q_min, q_max).astype(np.int64)"),
    ),
    (
        "halves are rounded away from zero",
        "q2",
        Q2.format(codes="np.clip(np.trunc(x / s + np.copysign(0.5, x)) + z, q_min, q_max).astype(np.int64)"),
    ),
    ("codes are not clipped", "q2", Q2.format(codes="(np.rint(x / s) + z).astype(np.int64)")),
    (
        "clipped before the zero point is added",
        "q2",
        Q2.format(codes="(np.clip(np.rint(x / s), q_min, q_max) + z).astype(np.int64)"),
    ),
    (
        "turned into an integer before clipping",
        "q2",
        "np.seterr(invalid='ignore')\n" + Q2.format(codes="np.clip(np.rint(x / s).astype(np.int64) + z, q_min, q_max)"),
    ),
    (
        "NaN gets a code",
        "q2",
        Q2.replace("np.isnan(x).any()", "False").format(
            codes="np.clip(np.rint(np.nan_to_num(x, posinf=1e300, neginf=-1e300) / s) + z, q_min, q_max).astype(np.int64)"
        ),
    ),
    (
        "the zero point is subtracted in uint8",
        "q2",
        "def dequantize(q, s, z):\n    q = np.asarray(q)\n    return s * (q - np.asarray(z).astype(q.dtype)).astype(np.float64)\n",
    ),
    ("the bound is a whole step", "q3", "bound = 0.25"),
    ("outside, too, the error is at most half a step", "q3", "error_outside = 0.125"),
    ("the last code is the end of the reach", "q3", "reach = 2.5"),
    ("rounding and clipping add up", "q3", "ends = 'A'"),
    (
        "20 times the logarithm of the powers",
        "q4",
        "right = sqnr\n\n\ndef sqnr(x, y):\n    return 2 * right(x, y)\n",
    ),
    ("noise over signal", "q4", "right = sqnr\n\n\ndef sqnr(x, y):\n    return -right(x, y)\n"),
    (
        "divided by the power of y",
        "q4",
        """
def sqnr(x, y):
    if x.shape != y.shape:
        raise ValueError("shape")
    signal, noise = np.sum(y**2), np.sum((y - x) ** 2)
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if np.any(x) else float("-inf")
""",
    ),
    ("the rule for even data, taken for normal data", "q4", "normal_6 = 36.1"),
    ("60 dB by 6 dB a bit, one bit too few", "q4", "bits_for_60 = 9"),
    (
        "scales along the other axis",
        "q5",
        Q5.format(**RIGHT_Q5 | {"shared": "tuple(i for i in range(w.ndim) if axis is None or i == axis % w.ndim)"}),
    ),
    (
        "the largest value, not the largest magnitude",
        "q5",
        Q5.format(**RIGHT_Q5 | {"largest": "w.max(axis=shared, keepdims=True)"}),
    ),
    (
        "divided by 2 to the power of bits - 1",
        "q5",
        Q5.format(**RIGHT_Q5 | {"scales": "np.where(largest > 0, largest / 2 ** (bits - 1), 1.0)"}),
    ),
    ("channels of zeros have scale 0", "q5", Q5.format(**RIGHT_Q5 | {"scales": "largest / (2 ** (bits - 1) - 1)"})),
    (
        "a negative axis is not understood",
        "q5",
        Q5.format(**RIGHT_Q5 | {"shared": "tuple(i for i in range(w.ndim) if i != axis)"}),
    ),
    (
        "shape (rows,), which does not broadcast",
        "q5",
        Q5.format(**RIGHT_Q5 | {"largest": "np.abs(w).max(axis=shared)"}),
    ),
    ("3 dB for half the codes", "q5", "symmetric_loss = 3.0"),
    ("the short group at the end is left as it is", "q6", Q6.format(starts="range(0, w.shape[1] - g + 1, g)", axis=1)),
    ("groups share a scale over all rows", "q6", Q6.format(starts="range(0, w.shape[1], g)", axis="(0, 1)")),
    (
        "the scale of a short group is not counted whole",
        "q6",
        "def bits_per_weight(bits, n, g, scale_bits):\n    return bits + scale_bits / g\n",
    ),
    (
        "the last scale is forgotten",
        "q6",
        "def bits_per_weight(bits, n, g, scale_bits):\n    return bits + n // g * scale_bits / n\n",
    ),
    (
        "a threshold of 0.7 times the mean",
        "q7",
        Q7.format(
            kept="magnitude > 0.7 * magnitude.mean(axis=1, keepdims=True)",
            scales="np.where(kept, magnitude, 0).sum(axis=1, keepdims=True) / np.maximum(count, 1)",
        ),
    ),
    (
        "the largest weight as the scale",
        "q7",
        Q7.format(
            kept="2 * magnitude > magnitude.max(axis=1, keepdims=True)", scales="magnitude.max(axis=1, keepdims=True)"
        ),
    ),
    (
        "the mean of all magnitudes as the scale",
        "q7",
        Q7.format(
            kept="2 * magnitude > magnitude.mean(axis=1, keepdims=True)", scales="magnitude.mean(axis=1, keepdims=True)"
        ),
    ),
    (
        "columns in place of rows",
        "q8",
        Q8.format(answer="10 * np.log10((w**2).sum(axis=0) / ((w_hat - w) ** 2).sum(axis=0))"),
    ),
    (
        "the SQNR of the layer for every row",
        "q8",
        Q8.format(answer="np.full(len(w), 10 * np.log10((w**2).sum() / ((w_hat - w) ** 2).sum()))"),
    ),
    (
        "a row of zeros gives NaN",
        "q8",
        Q8.format(answer="10 * np.log10((w**2).sum(axis=1) / ((w_hat - w) ** 2).sum(axis=1))"),
    ),
    ("the rows that are lost at 4 bits", "q8", "silent_3 = 4"),
    ("a whole step taken for the border", "q8", "fewest_bits = 8"),
    ("errors that cancel", "q8", "why = 'B'"),
]
