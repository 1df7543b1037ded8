"""Typical wrong answers to homework 5: label, question that loses points, and the cell that replaces an answer."""

WRONG: list[tuple[str, str, str]] = [
    (
        "min-max remembers the last batch alone",
        "q1",
        """
def minmax_range(batches):
    if not batches or any(not np.size(b) or not np.isfinite(b).all() for b in batches):
        raise ValueError
    return float(np.min(batches[-1])), float(np.max(batches[-1]))

def moving_range(batches, c=0.01):
    if not 0 < c <= 1 or not batches:
        raise ValueError
    ends = [minmax_range([b]) for b in batches]
    low, high = ends[0]
    for a, b in ends[1:]:
        low, high = low + c * (a - low), high + c * (b - high)
    return low, high
""",
    ),
    (
        "moving average starts at zero",
        "q1",
        """
def moving_range(batches, c=0.01):
    if not 0 < c <= 1 or not batches:
        raise ValueError
    low = high = 0.0
    for batch in batches:
        a, b = minmax_range([batch])
        low, high = low + c * (a - low), high + c * (b - high)
    return low, high
""",
    ),
    (
        "c weighs the past in place of the newest batch",
        "q1",
        """
def moving_range(batches, c=0.01):
    if not 0 < c <= 1 or not batches:
        raise ValueError
    ends = [minmax_range([b]) for b in batches]
    low, high = ends[0]
    for a, b in ends[1:]:
        low, high = c * low + (1 - c) * a, c * high + (1 - c) * b
    return low, high
""",
    ),
    (
        "observer widens the range to hold zero",
        "q1",
        """
def minmax_range(batches):
    if not batches or any(not np.size(b) or not np.isfinite(b).all() for b in batches):
        raise ValueError
    return min(0.0, *(float(np.min(b)) for b in batches)), max(0.0, *(float(np.max(b)) for b in batches))
""",
    ),
    (
        "lower edge of the bin, off by one",
        "q2",
        """
def percentile_threshold(counts, width, p):
    if not width > 0 or not 0 < p <= 100 or not np.sum(counts):
        raise ValueError
    below = np.cumsum(counts)
    return float(np.argmax(100 * below >= p * below[-1]) * width)
""",
    ),
    (
        "more than p percent in place of at least",
        "q2",
        """
def percentile_threshold(counts, width, p):
    if not width > 0 or not 0 < p <= 100 or not np.sum(counts):
        raise ValueError
    below = np.cumsum(counts)
    return float((np.searchsorted(100 * below, p * below[-1], side="right") + 1) * width)
""",
    ),
    (
        "larger values of a later batch fall into the last bin of the first",
        "q2",
        """
def histogram(batches, width):
    if not width > 0:
        raise ValueError
    size = int(np.abs(batches[0]).max() / width) + 1
    counts = np.zeros(size, np.int64)
    for batch in batches:
        indices = np.minimum((np.abs(batch) / width).astype(int), size - 1)
        counts += np.bincount(indices.ravel(), minlength=size)
    return counts
""",
    ),
    (
        "both ends shrink by the same share",
        "q3",
        """
def best_range(x, bits, steps=20):
    if not x.size or not np.isfinite(x).all():
        raise ValueError
    a, b = min(0.0, float(x.min())), max(0.0, float(x.max()))
    pairs = [(a * i / steps, b * i / steps) for i in range(steps + 1)]
    return min(pairs, key=lambda pair: float(np.sum((on_grid(x, *pair, bits) - x) ** 2)))
""",
    ),
    (
        "errors of the clipped values are not counted",
        "q3",
        """
def best_range(x, bits, steps=20):
    if not x.size or not np.isfinite(x).all():
        raise ValueError
    a, b = min(0.0, float(x.min())), max(0.0, float(x.max()))
    best = (np.inf, 0.0, 0.0)
    for low in {a * i / steps for i in range(steps + 1)}:
        for high in {b * j / steps for j in range(steps + 1)}:
            inside = x[(x >= low) & (x <= high)]
            error = float(np.sum((on_grid(inside, low, high, bits) - inside) ** 2))
            best = min(best, (error, low, high))
    return best[1:]
""",
    ),
    (
        "least of the largest errors, not of the squares",
        "q3",
        """
def best_range(x, bits, steps=20):
    if not x.size or not np.isfinite(x).all():
        raise ValueError
    a, b = min(0.0, float(x.min())), max(0.0, float(x.max()))
    pairs = [(a * i / steps, b * j / steps) for i in range(steps + 1) for j in range(steps + 1)]
    return min(pairs, key=lambda pair: float(np.max(np.abs(on_grid(x, *pair, bits) - x))))
""",
    ),
    ("moving average forgets the outlier at once", "q4", "moving_high = 1.0"),
    ("least squares always clips an outlier", "q4", 'mse_8 = "A"'),
    ("least squares keeps the outlier with few bits too", "q4", 'mse_4 = "C"'),
    (
        "eps outside the root",
        "q5",
        """
def fold_norm(weight, bias, gamma, beta, mean, var, eps):
    n = (len(weight),)
    if any(np.shape(t) != n for t in (gamma, beta, mean, var)) or np.min(var) < 0:
        raise ValueError
    factor = gamma / (np.sqrt(var) + eps)
    bias = np.zeros(n) if bias is None else bias
    return weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), (bias - mean) * factor + beta
""",
    ),
    (
        "factor along the wrong axis of a convolution",
        "q5",
        """
def fold_norm(weight, bias, gamma, beta, mean, var, eps):
    n = (len(weight),)
    if any(np.shape(t) != n for t in (gamma, beta, mean, var)) or np.min(var) < 0:
        raise ValueError
    factor = gamma / np.sqrt(var + eps)
    bias = np.zeros(n) if bias is None else bias
    return weight * factor[:, None], (bias - mean) * factor + beta
""",
    ),
    (
        "magnitude of gamma",
        "q5",
        """
def fold_norm(weight, bias, gamma, beta, mean, var, eps):
    n = (len(weight),)
    if any(np.shape(t) != n for t in (gamma, beta, mean, var)) or np.min(var) < 0:
        raise ValueError
    factor = np.abs(gamma) / np.sqrt(var + eps)
    bias = np.zeros(n) if bias is None else bias
    return weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), (bias - mean) * factor + beta
""",
    ),
    (
        "old bias without the factor",
        "q5",
        """
def fold_norm(weight, bias, gamma, beta, mean, var, eps):
    n = (len(weight),)
    if any(np.shape(t) != n for t in (gamma, beta, mean, var)) or np.min(var) < 0:
        raise ValueError
    factor = gamma / np.sqrt(var + eps)
    bias = np.zeros(n) if bias is None else bias
    return weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), bias - mean * factor + beta
""",
    ),
    (
        "missing tail fold: the norm behind the last layer is dropped",
        "q6",
        """
def fold_network(net, _complete=fold_network):
    norms = [i for i, step in enumerate(net) if step["kind"] == "norm"]
    return _complete(net[:-1] if norms and norms[-1] == len(net) - 1 else net)
""",
    ),
    (
        "norms without a layer before them are dropped",
        "q6",
        """
def fold_network(net, _complete=fold_network):
    kept = [s for i, s in enumerate(net) if s["kind"] != "norm" or (i and net[i - 1]["kind"] != "relu")]
    return _complete(kept)
""",
    ),
    (
        "a norm behind a ReLU goes into the layer before the ReLU",
        "q6",
        """
def fold_network(net, _complete=fold_network):
    net = list(net)
    for i in range(2, len(net)):
        if [step["kind"] for step in net[i - 2 : i + 1]] == ["linear", "relu", "norm"]:
            net[i - 1 : i + 1] = net[i], net[i - 1]
    return _complete(net)
""",
    ),
    (
        "layers without a norm keep their bias None",
        "q6",
        """
def fold_network(net, _complete=fold_network):
    out = _complete(net)
    if net and net[-1]["kind"] == "linear":
        out[-1]["bias"] = net[-1]["bias"]
    return out
""",
    ),
    (
        "values observed before the ReLU",
        "q7",
        """
def observed(net, x):
    values = [x]
    for step in net:
        x = np.maximum(x, 0.0) if step["kind"] == "relu" else x @ step["weight"].T + step["bias"]
        if step["kind"] == "linear":
            values.append(x)
    return values
""",
    ),
    (
        "missing tail: what leaves the network has no quantizer",
        "q7",
        """
def run_quantized(net, x, weight_grids, value_grids, _complete=run_quantized):
    return _complete(net, x, weight_grids, [*value_grids[:-1], None][: len(value_grids)])
""",
    ),
    (
        "input stays in float",
        "q7",
        """
def run_quantized(net, x, weight_grids, value_grids, _complete=run_quantized):
    return _complete(net, x, weight_grids, [None, *value_grids[1:]][: len(value_grids)])
""",
    ),
    ("the last linear step in place of the norm behind it", "q8", "forgotten = 6"),
    ("the most damage, over the budget", "q8", 'keep = "A"'),
    ("eight bits counted as new, not four more", "q8", "more_bytes = 4800"),
    ("damage measured on test images", "q8", 'measured_on = "C"'),
]
