"""Typical wrong answers to homework 6, each in place of the solution's."""

ESTIMATOR = """
class Other(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v, scale, low, high):
        t = v / scale
        ctx.save_for_backward(t)
        ctx.ends = low, high
        return FORWARD

    @staticmethod
    def backward(ctx, gradient):
        (t,) = ctx.saved_tensors
        low, high = ctx.ends
        return BACKWARD, None, None, None


def value_and_gradient(v, scale, low, high, upstream):
    if not scale > 0 or not low < high:
        raise ValueError("scale, low or high")
    leaf = v.detach().clone().requires_grad_()
    y = Other.apply(leaf, scale, low, high)
    return y.detach(), torch.autograd.grad(y, leaf, upstream)[0]
"""
FORWARD = "scale * torch.clamp(torch.round(t), low, high)"
BACKWARD = "gradient * ((t >= low) & (t <= high))"


def estimator(forward: str = FORWARD, backward: str = BACKWARD) -> str:
    """``value_and_gradient`` of an estimator with another forward or backward."""
    return ESTIMATOR.replace("FORWARD", forward).replace("BACKWARD", backward)


WEIGHT = """
def train_weight(w, wish, scale, low, high, rate, updates):
    codes = []
    w = torch.tensor(w, dtype=torch.float64)
    for _ in range(updates):
        w.requires_grad_()
        value = FakeQuantize.apply(w, scale, low, high)
        codes.append(round(value.item() / scale))
        (gradient,) = torch.autograd.grad((value - wish).square() / 2, w)
        w = (w - rate * gradient).detach()
    return codes
"""

STEP = """
def step_gradient(v, scale, low, high, upstream):
    if not scale > 0 or not high > 0:
        raise ValueError("scale or high")
    t = v / scale
    inside = (t > low) & (t < high)
    slope = torch.where(inside, torch.round(t) - t, torch.clamp(t, low, high))
    return float((upstream * slope).sum() / (v.numel() * high) ** 0.5)
"""

SCORES = """
def scores(x, parameters, scales, low, high):
    w1, b1, w2, b2 = parameters
    if scales is not None:
        w1 = FakeQuantize.apply(w1, scales[0], low, high)
        w2 = FakeQuantize.apply(w2, scales[1], low, high)
    return functional.relu(x @ w1.T + b1) @ w2.T + b2
"""

TRAIN = """
def train(parameters, x, labels, scales, low, high, updates, rate):
    parameters = [p.detach().clone() for p in parameters]
    for k in range(updates):
        now = rate * (1 - k / updates)
        leaves = [p.requires_grad_() for p in parameters]
        loss = functional.cross_entropy(scores(x, leaves, scales, low, high), labels)
        gradients = torch.autograd.grad(loss, leaves)
        parameters = [(p - now * g).detach() for p, g in zip(leaves, gradients, strict=True)]
    return [p.detach() for p in parameters]
"""

WRONG: list[tuple[str, str, str]] = [
    ("the true derivative taken for that of the estimator", "q1", "ste_gradient = [0.0, 0.0, 0.0]"),
    ("the estimator's derivative at the float weight, not the rounded one", "q1", "ste_gradient = [-0.38, -2.3, 1.2]"),
    ("the estimator's derivative taken for the true one", "q1", "true_gradient = [-0.5, -2.5, 1.0]"),
    (
        "the slope over d in place of 2 d",
        "q1",
        "def average_slope(w, d, s):\n"
        "    if d <= 0 or s <= 0:\n"
        "        raise ValueError('d or s')\n"
        "    return s * (torch.round((w + d) / s) - torch.round((w - d) / s)) / d\n",
    ),
    (
        "the slope of the codes, without the step",
        "q1",
        "def average_slope(w, d, s):\n"
        "    if d <= 0 or s <= 0:\n"
        "        raise ValueError('d or s')\n"
        "    return (torch.round((w + d) / s) - torch.round((w - d) / s)) / (2 * d)\n",
    ),
    ("scale inverted", "q2", estimator(forward="torch.clamp(torch.round(t * scale * scale), low, high) / scale")),
    (
        "half up in place of half to even",
        "q2",
        estimator(forward="scale * torch.clamp(torch.floor(t + 0.5), low, high)"),
    ),
    ("codes in place of values", "q2", estimator(forward="torch.clamp(torch.round(t), low, high)")),
    (
        "one code too few at the upper end",
        "q2",
        estimator(forward="scale * torch.clamp(torch.round(t), low, high - 1)"),
    ),
    ("slope one everywhere", "q2", estimator(backward="gradient")),
    ("edges count as outside", "q2", estimator(backward="gradient * ((t > low) & (t < high))")),
    (
        "inside is judged by the rounded value",
        "q2",
        estimator(backward="gradient * ((torch.round(t) >= low) & (torch.round(t) <= high))"),
    ),
    ("the incoming gradient is forgotten", "q2", estimator(backward="((t >= low) & (t <= high)).to(gradient.dtype)")),
    (
        "a clamp of a rounded value, which has no gradient",
        "q2",
        "def value_and_gradient(v, scale, low, high, upstream):\n"
        "    if not scale > 0 or not low < high:\n"
        "        raise ValueError('scale, low or high')\n"
        "    leaf = v.detach().clone().requires_grad_()\n"
        "    y = scale * torch.clamp(torch.round(leaf / scale), low, high)\n"
        "    return y.detach(), torch.autograd.grad(y, leaf, upstream)[0]\n",
    ),
    (
        "no errors for bad input",
        "q2",
        estimator().replace(
            '    if not scale > 0 or not low < high:\n        raise ValueError("scale, low or high")\n', ""
        ),
    ),
    ("the update is taken at the float weight", "q3", WEIGHT.replace("(value - wish)", "(w - wish)")),
    (
        "no master weight: the rounded one is kept",
        "q3",
        WEIGHT.replace("w = (w - rate * gradient)", "w = (value - rate * gradient)"),
    ),
    (
        "codes after the update in place of before",
        "q3",
        WEIGHT.replace("return codes", "return codes[1:] + codes[-1:]"),
    ),
    ("values in place of codes", "q3", WEIGHT.replace("round(value.item() / scale)", "value.item()")),
    ("codes by hand one update late", "q3", "codes_by_hand = [1, 1, 1, 1, 1, 0, 1, 1, 1]"),
    ("without a master weight, as with one", "q3", "codes_without_master = [2, 1, 1, 1, 1, 1, 0, 1, 1]"),
    ("the share of the lower code", "q3", "share_upper = 0.8"),
    ("the sign of the rounding error turned around", "q4", STEP.replace("torch.round(t) - t", "t - torch.round(t)")),
    ("no gradient scale", "q4", STEP.replace(" / (v.numel() * high) ** 0.5", "")),
    ("the gradient scale with the number of rows", "q4", STEP.replace("v.numel()", "len(v)")),
    ("the last code missing: 0 outside", "q4", STEP.replace("torch.clamp(t, low, high)", "torch.zeros_like(t)")),
    ("an edge counts as inside", "q4", STEP.replace("(t > low) & (t < high)", "(t >= low) & (t <= high)")),
    (
        "the code in place of the rounding error",
        "q4",
        STEP.replace("torch.round(t) - t", "torch.round(t)"),
    ),
    (
        "the first step without the root",
        "q4",
        "def first_step(v, high):\n"
        "    if high <= 0:\n"
        "        raise ValueError('high')\n"
        "    return float(2 * v.abs().mean() / high)\n",
    ),
    (
        "the first step from the mean without magnitudes",
        "q4",
        "def first_step(v, high):\n"
        "    if high <= 0:\n"
        "        raise ValueError('high')\n"
        "    return float(2 * v.mean().abs() / high**0.5)\n",
    ),
    ("the sign of zero is zero", "q5", "def binarize(w):\n    return torch.sign(w), w.abs().flatten(1).mean(1)\n"),
    (
        "one scale for the whole tensor",
        "q5",
        "def binarize(w):\n"
        "    signs = torch.where(w >= 0, 1.0, -1.0).to(w.dtype)\n"
        "    return signs, w.abs().mean().expand(len(w)).clone()\n",
    ),
    (
        "a scale for each input, along the wrong axis",
        "q5",
        "def binarize(w):\n"
        "    signs = torch.where(w >= 0, 1.0, -1.0).to(w.dtype)\n"
        "    return signs, w.abs().transpose(0, 1).flatten(1).mean(1)\n",
    ),
    (
        "the largest magnitude in place of the mean",
        "q5",
        "def binarize(w):\n"
        "    signs = torch.where(w >= 0, 1.0, -1.0).to(w.dtype)\n"
        "    return signs, w.abs().flatten(1).amax(1)\n",
    ),
    ("the error with 0 for the sign of 0", "q5", "left_over = 2.75"),
    ("one step for both weights", "q6", SCORES.replace("scales[1]", "scales[0]")),
    ("the second weight is not rounded", "q6", SCORES.replace("w2 = Fake", "_ = Fake")),
    (
        "the biases are rounded too",
        "q6",
        SCORES.replace("    return", "        b1 = FakeQuantize.apply(b1, scales[0], low, high)\n    return"),
    ),
    (
        "old gradients are never cleared",
        "q6",
        TRAIN.replace(
            "        gradients = torch.autograd.grad(loss, leaves)\n"
            "        parameters = [(p - now * g).detach() for p, g in zip(leaves, gradients, strict=True)]\n",
            "        loss.backward()\n"
            "        with torch.no_grad():\n"
            "            for p in leaves:\n"
            "                p -= now * p.grad\n",
        ),
    ),
    ("uphill", "q6", TRAIN.replace("p - now * g", "p + now * g")),
    ("a rate that does not fall", "q6", TRAIN.replace("p - now * g", "p - rate * g")),
    (
        "the biases are not trained",
        "q6",
        TRAIN.replace("(p - now * g).detach() for", "(p - now * g * (p.dim() == 2)).detach() for"),
    ),
    (
        "the rounded weights are written back",
        "q6",
        TRAIN.replace(
            "    return [",
            "        if scales is not None:\n"
            "            for i, s in ((0, scales[0]), (2, scales[1])):\n"
            "                parameters[i] = s * torch.clamp(torch.round(parameters[i] / s), low, high)\n"
            "    return [",
        ),
    ),
    ("no training at all", "q7", 'accuracy["qat"] = accuracy["ptq"]'),
    ("the float network taken for the control", "q7", 'accuracy["control"] = accuracy["float"]'),
    (
        "PTQ of a network that was never trained",
        "q7",
        'accuracy["float"] = right(start_parameters(), None)\naccuracy["ptq"] = right(start_parameters(), steps)',
    ),
    ("parts in place of percent", "q7", "accuracy = {k: v / 100 for k, v in accuracy.items()}"),
    ("the cost against the first float network", "q7", "cost = 0.5"),
    ("the gain over PTQ in place of the cost", "q7", "cost = 22.5"),
    ("a regularizer", "q7", 'better = "A"'),
    ("the comparison with PTQ", "q7", 'better = "D"'),
    ("QAT in any case", "q7", 'eight_bits = "A"'),
]
