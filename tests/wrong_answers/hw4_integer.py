"""Typical wrong answers to homework 4, each a cell behind the solution: (what is wrong, question, code)."""

KEEP = """import types
integer_network = types.FunctionType(integer_network.__code__, dict(globals()))
"""
"""Question 7 puts the functions of 1, 3, 5 and 6 together.  It keeps the right ones, so that a wrong one is seen at its own question."""

MULTIPLIER = (
    KEEP
    + """
def quantize_multiplier(M):
    if not 0 <= M < np.inf:
        raise ValueError("M")
    fraction, shift = np.frexp(M)
    m0, shift = int(np.floor(fraction * 2**31 + 0.5)), int(shift)
    if m0 == 2**31:
        m0, shift = 2**30, shift + 1
    if m0 == 0 or shift < -31:
        return 0, 0
    return m0, shift
"""
)

REQUANTIZE = (
    KEEP
    + """
def requantize(acc, m0, shift, z_y, q_min, q_max):
    acc = np.asarray(acc)
    if acc.dtype.kind not in "iu":
        raise ValueError("acc")
    m0, shift = np.asarray(m0, np.int64), np.asarray(shift, np.int64)
    half = np.int64(1) << (30 - shift)
    rounded = (acc.astype(np.int64) * m0 + half) >> (31 - shift)
    return np.clip(rounded + z_y, q_min, q_max)
"""
)

TWICE = """
def round_twice(acc, m0, shift):
    if shift > 0:
        raise ValueError("shift")
    v = (np.asarray(acc, np.int64) * m0 + (1 << 30)) >> 31
    if shift == 0:
        return v
    return np.sign(v) * ((np.abs(v) + (1 << (-shift - 1))) >> -shift)
"""

BOUND = """
def largest_sum(q_w, z_w, z_x, q_min, q_max, q_b):
    reach = max(z_x - q_min, q_max - z_x)
    weights = np.abs(np.asarray(q_w, np.int64) - z_w).sum(1)
    return weights * reach + np.abs(np.asarray(q_b, np.int64))
"""

FOLD = (
    KEEP
    + """
def fold_bias(q_b, q_w, z_w, z_x):
    q_w = np.asarray(q_w, np.int64)
    return np.asarray(q_b, np.int64) - z_x * q_w.sum(1) + q_w.shape[1] * z_w * z_x
"""
)

SUMS = (
    KEEP
    + """
def accumulate(q_x, q_w, z_w, folded):
    q_x, q_w = np.asarray(q_x, np.int64), np.asarray(q_w, np.int64)
    acc = q_x @ q_w.T - z_w * q_x.sum(1, keepdims=True) + folded
    if acc.size and (acc.min() < -(2**31) or acc.max() >= 2**31):
        raise ValueError("acc")
    return acc
"""
)

PREPARE = (
    KEEP
    + """
def prepare(w, b, s_x, s_y):
    largest = np.abs(w).max(1)
    s_w = np.where(largest > 0, largest / 127, 1.0)
    q_w = np.clip(np.rint(w / s_w[:, None]), -127, 127).astype(np.int64)
    q_b = np.rint(b / (s_w * s_x))
    if (q_b < -(2**31)).any() or (q_b >= 2**31).any():
        raise ValueError("b")
    return q_w, q_b.astype(np.int64), s_w * s_x / s_y
"""
)

ENDS = (
    KEEP
    + """
def clip_ends(z_y, q_min, q_max, relu):
    if not q_min <= z_y <= q_max:
        raise ValueError("z_y")
    return (z_y if relu else q_min), q_max
"""
)

NETWORK = """
def integer_network(x, layers, ranges):
    s_x, z_x = qparams(*ranges[0])
    q = quantize(x, s_x, z_x)
    for i, (w, b) in enumerate(layers):
        s_y, z_y = qparams(*ranges[i + 1])
        q_w, q_b, M = prepare(w, b, s_x, s_y)
        m0, shift = np.array([quantize_multiplier(m) for m in M]).T
        acc = accumulate(q, q_w, 0, fold_bias(q_b, q_w, 0, z_x))
        low, high = clip_ends(z_y, 0, 255, relu=i == 0)
        q = requantize(acc, m0, shift, z_y, low, high)
        s_x, z_x = s_y, z_y
    return q
"""


def changed(code: str, *changes: tuple[str, str]) -> str:
    """The code with one thing or more changed; each has to be there once."""
    for old, new in changes:
        if code.count(old) != 1:
            raise ValueError(f"changes: need {old!r} once, got {code.count(old)}")
        code = code.replace(old, new)
    return code


CARRY = """    if m0 == 2**31:
        m0, shift = 2**30, shift + 1
"""
NO_ROUNDING = ("(acc.astype(np.int64) * m0 + half)", "(acc.astype(np.int64) * m0)")
BY_FLOATS = (
    "(acc.astype(np.int64) * m0 + half) >> (31 - shift)",
    "np.floor(acc * (m0 * 2.0 ** (shift - 31)) + 0.5).astype(np.int64)",
)
AWAY = (
    "(acc.astype(np.int64) * m0 + half) >> (31 - shift)",
    "np.sign(acc.astype(np.int64)) * ((np.abs(acc.astype(np.int64)) * m0 + half) >> (31 - shift))",
)
TO_EVEN = (
    "    return np.clip(rounded",
    "    tie = ((acc.astype(np.int64) * m0 + half) & (2 * half - 1)) == 0\n    return np.clip(rounded - (tie & (rounded % 2 == 1))",
)

WRONG: list[tuple[str, str, str]] = [
    ("no carry when M_0 rounds to 2^31", "q1", changed(MULTIPLIER, (CARRY, ""))),
    ("M_0 is rounded down", "q1", changed(MULTIPLIER, ("* 2**31 + 0.5", "* 2**31"))),
    ("M_0 of a tie to even", "q1", changed(MULTIPLIER, ("np.floor(fraction * 2**31 + 0.5)", "np.rint(fraction * 2**31)"))),
    ("the shift with its sign turned", "q1", changed(MULTIPLIER, ("return m0, shift", "return m0, -shift"))),
    ("M above 1 refused", "q1", changed(MULTIPLIER, ("M < np.inf", "M < 1"))),
    ("M_0 of 30 bits", "q1", changed(MULTIPLIER, ("return m0, shift", "return m0 // 2, shift + 1"))),
    ("a tiny M keeps its M_0", "q1", changed(MULTIPLIER, ("m0 == 0 or shift < -31", "m0 == 0"))),
    ("a negative M accepted", "q1", changed(MULTIPLIER, ("not 0 <= M < np.inf", "not abs(M) < np.inf"))),
    ("off by one in the number of products", "q2", "products_b = 517"),
    ("a register of 2^32 numbers counted as unsigned", "q2", "products_b = (2**32 - 1) // (32768 * 127)"),
    ("the zero point forgotten in the largest product", "q2", "products_c = (2**15 - 1) // (15 * 7)"),
    ("the reach of the input without its zero point", "q2", changed(BOUND, ("max(z_x - q_min, q_max - z_x)", "max(-q_min, q_max)"))),
    ("the reach of the input on one side alone", "q2", changed(BOUND, ("max(z_x - q_min, q_max - z_x)", "q_max - z_x"))),
    ("the magnitude of the sum, not the sum of magnitudes", "q2", changed(BOUND, ("np.abs(np.asarray(q_w, np.int64) - z_w).sum(1)", "np.abs((np.asarray(q_w, np.int64) - z_w).sum(1))"))),
    ("the zero point subtracted in INT8", "q2", changed(BOUND, ("np.asarray(q_w, np.int64) - z_w", "np.asarray(q_w) - np.asarray(z_w, np.asarray(q_w).dtype)"))),
    ("a bare shift, which rounds down", "q3", changed(REQUANTIZE, NO_ROUNDING)),
    ("ties away from zero", "q3", changed(REQUANTIZE, AWAY)),
    ("ties to even", "q3", changed(REQUANTIZE, TO_EVEN)),
    ("by floats, which have 53 bits", "q3", changed(REQUANTIZE, BY_FLOATS)),
    ("clipped before the zero point is added", "q3", changed(REQUANTIZE, ("np.clip(rounded + z_y, q_min, q_max)", "np.clip(rounded, q_min, q_max) + z_y"))),
    ("wrapped around in 8 bits, not saturated", "q3", changed(REQUANTIZE, ("np.clip(rounded + z_y, q_min, q_max)", "(rounded + z_y - q_min) % (q_max - q_min + 1) + q_min"))),
    ("half of 2^31 whatever the shift", "q3", changed(REQUANTIZE, ("np.int64(1) << (30 - shift)", "np.int64(1) << 30"))),
    ("the product in INT32", "q3", changed(REQUANTIZE, ("acc.astype(np.int64) * m0 + half", "(acc.astype(np.int32) * m0.astype(np.int32)).astype(np.int64) + half"))),
    ("multipliers along the first axis", "q3", changed(REQUANTIZE, ("    half =", "    if m0.ndim:\n        m0, shift = np.resize(m0, acc.shape[0]), np.resize(shift, acc.shape[0])\n        m0, shift = (v.reshape(-1, *[1] * (acc.ndim - 1)) for v in (m0, shift))\n    half ="))),
    ("floats accepted", "q3", changed(REQUANTIZE, ('        raise ValueError("acc")', "        acc = acc.astype(np.int64)"))),
    ("the second rounding takes ties up", "q4", changed(TWICE, ("np.sign(v) * ((np.abs(v) + (1 << (-shift - 1))) >> -shift)", "(v + (1 << (-shift - 1))) >> -shift"))),
    ("rounds once", "q4", changed(TWICE, ("    if shift == 0:\n        return v\n", ""), ("np.sign(v) * ((np.abs(v) + (1 << (-shift - 1))) >> -shift)", "(np.asarray(acc, np.int64) * m0 + (1 << (30 - shift))) >> (31 - shift)"))),
    ("the first step is not rounded", "q4", changed(TWICE, (" + (1 << 30)", ""))),
    ("the first step takes ties away from zero", "q4", changed(TWICE, ("    if shift == 0", "    a = np.asarray(acc, np.int64)\n    v = np.sign(a) * ((np.abs(a) * m0 + (1 << 30)) >> 31)\n    if shift == 0"))),
    ("the product in the type of acc", "q4", changed(TWICE, ("np.asarray(acc, np.int64) * m0", "np.asarray(acc) * m0"))),
    ("one in 2^t in the place of one in 2^(t+1)", "q4", "differ = 2**20 // 2**5"),
    ("rounding twice thought to go up", "q4", 'direction = "A"'),
    ("the sign of term 4 turned", "q5", changed(FOLD, ("+ q_w.shape[1]", "- q_w.shape[1]"))),
    ("term 4 without n", "q5", changed(FOLD, ("q_w.shape[1] * z_w", "z_w"))),
    ("n taken from the wrong axis", "q5", changed(FOLD, ("q_w.shape[1]", "q_w.shape[0]"))),
    ("the zero point of the weights in the place of that of the input", "q5", changed(FOLD, ("- z_x * q_w.sum(1)", "- z_w * q_w.sum(1)"))),
    ("the sums of the weights in INT8", "q5", changed(FOLD, ("q_w.sum(1)", "q_w.sum(1).astype(np.int8)"))),
    ("term 3 missing", "q5", changed(SUMS, (" - z_w * q_x.sum(1, keepdims=True)", ""))),
    ("term 3 summed over the batch", "q5", changed(SUMS, ("q_x.sum(1, keepdims=True)", "q_x.sum()"))),
    ("products in INT8", "q5", changed(SUMS, ("np.asarray(q_x, np.int64), np.asarray(q_w, np.int64)", "np.asarray(q_x).astype(np.int8), np.asarray(q_w).astype(np.int8)"))),
    ("a sum that leaves INT32 goes unseen", "q5", changed(SUMS, ('        raise ValueError("acc")', "        pass"))),
    ("2^31 thought to fit INT32", "q5", changed(SUMS, ("acc.max() >= 2**31", "acc.max() > 2**31"))),
    ("the sum of the weights thought to be made anew", "q5", 'anew_a = "B"'),
    ("the sum of the inputs thought to be prepared", "q5", 'anew_b = "A"'),
    ("a scale for each column", "q6", changed(PREPARE, ("np.abs(w).max(1)", "np.resize(np.abs(w).max(0), len(w))"))),
    ("one scale for the whole layer", "q6", changed(PREPARE, ("np.abs(w).max(1)", "np.full(len(w), np.abs(w).max())"))),
    ("scales for 128 steps", "q6", changed(PREPARE, ("largest / 127", "largest / 128"))),
    ("M turned upside down", "q6", changed(PREPARE, ("s_w * s_x / s_y", "s_y / (s_w * s_x)"))),
    ("the bias in steps of the weights", "q6", changed(PREPARE, ("b / (s_w * s_x)", "b / s_w"))),
    ("the bias in 8 bits", "q6", changed(PREPARE, ("q_b.astype(np.int64)", "np.clip(q_b, -128, 127).astype(np.int64)"))),
    ("a row of zeros divides by zero", "q6", changed(PREPARE, ("np.where(largest > 0, largest / 127, 1.0)", "largest / 127 + 1e-300"))),
    ("codes of weights cut off, not rounded", "q6", changed(PREPARE, ("np.rint(w / s_w[:, None])", "np.trunc(w / s_w[:, None])"))),
    ("a bias beyond INT32 is saturated", "q6", changed(PREPARE, ('        raise ValueError("b")', "        q_b = np.clip(q_b, -(2**31), 2**31 - 1)"))),
    ("ReLU clips at the code 0", "q6", changed(ENDS, ("z_y if relu", "max(0, q_min) if relu"))),
    ("ReLU clips from above", "q6", changed(ENDS, ("(z_y if relu else q_min), q_max", "q_min, (z_y if relu else q_max)"))),
    ("a zero point outside the codes accepted", "q6", changed(ENDS, ("not q_min <= z_y <= q_max", "False"))),
    ("no ReLU between the layers", "q7", changed(NETWORK, ("relu=i == 0", "relu=False"))),
    ("a ReLU behind the last layer too", "q7", changed(NETWORK, ("relu=i == 0", "relu=True"))),
    ("the scale of the input kept for the second layer", "q7", changed(NETWORK, ("        s_x, z_x = s_y, z_y\n", "        z_x = z_y\n"))),
    ("the zero point of the input kept for the second layer", "q7", changed(NETWORK, ("        s_x, z_x = s_y, z_y\n", "        s_x = s_y\n"))),
    ("the zero point of the input not folded in", "q7", changed(NETWORK, ("fold_bias(q_b, q_w, 0, z_x)", "fold_bias(q_b, q_w, 0, 0)"))),
    ("the multiplier of the first channel for all", "q7", changed(NETWORK, ("for m in M", "for m in np.full(len(M), M[0])"))),
    ("float layers between quantizers, weights not rounded", "q7", changed(NETWORK, ("acc = accumulate(q, q_w, 0, fold_bias(q_b, q_w, 0, z_x))", "acc = np.rint(((q - z_x) * s_x @ w.T + b) / (M * s_y)).astype(np.int64)"))),
    ("the float network, quantized at the end", "q7", "def integer_network(x, layers, ranges):\n    (w1, b1), (w2, b2) = layers\n    return quantize(np.maximum(x @ w1.T + b1, 0) @ w2.T + b2, *qparams(*ranges[2]))"),
    ("sums dequantized and never brought back to codes", "q7", changed(NETWORK, ("    return q\n", "    return (q - z_x) * s_x\n"))),
    ("the multiplier blamed for the differences", "q7", 'cause = "A"'),
]  # fmt: skip
