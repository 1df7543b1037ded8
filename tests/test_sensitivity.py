"""quantcourse.sensitivity against networks whose weak layer is known, damages computed by hand, and brute force over all
assignments of bits.
"""

import copy
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from tqdm import tqdm

from quantcourse import data, models, ptq
from quantcourse import sensitivity as module
from quantcourse.graph import Graph, trace
from quantcourse.metrics import kl_divergence, sqnr
from quantcourse.ptq import Override, QuantizedModel, Recipe, Scheme, quantize, quantize_each
from quantcourse.sensitivity import damages, mixed, partial, selective, sensitivity

reproducible = settings(derandomize=True, deadline=None, max_examples=150, database=None)

W2 = Recipe(weights=Scheme(2, granularity="channel"))
FINE = Recipe(weights=Scheme(16, granularity="channel"), activations=Scheme(16, symmetric=False, signed=False))


def two_batches():
    images, labels, _ = data.digits("train")
    return [images[:48], images[48:64]], [labels[:48], labels[48:64]]


def weak_in_the_middle():
    """Four layers that pass on what they get.  The second has a weight for a dead input so large that a scale for
    the whole tensor rounds all others to zero."""
    net = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(4)))
    with torch.no_grad():
        for layer in net:
            layer.weight.copy_(torch.eye(6))
        net[0].weight[0, 0] = 0.0
        net[1].weight[0, 0] = 1000.0
    return net


def six_values(seed=0):
    return 5 * torch.rand(64, 6, generator=torch.Generator().manual_seed(seed))


PER_TENSOR = Recipe(weights=Scheme(8))


def float_outputs(net, x):
    return ptq.float_network(net).run([x])


def float_bytes(net):
    return 4 * sum(p.numel() for p in ptq.float_network(net).module.parameters())


# --- What damage is ---------------------------------------------------------------


def test_damage_without_labels_is_the_mean_divergence_of_the_softmaxes():
    (first, second), _ = two_batches()
    net = models.load("plain")
    found = damages(net, [first], [W2], evaluate_on=[first, second], progress=False)
    quantized = quantize(net, [first], W2, progress=False)
    images = torch.cat([first, second])
    p, q = float_outputs(net, images).double().softmax(1), quantized(images).double().softmax(1)
    by_hand = sum(kl_divergence(a, b) for a, b in zip(p, q, strict=True)) / len(images)
    assert found.unit == "nats" and by_hand > 0.1
    assert found.trials[0].damage == pytest.approx(by_hand, rel=1e-5)
    assert found.trials[0].bytes == quantized.size()


@pytest.mark.parametrize("as_one", [True, False])
def test_damage_with_labels_is_the_accuracy_lost(as_one):
    batches, labels = two_batches()
    net = models.load("plain")
    found = damages(net, batches, [W2], torch.cat(labels) if as_one else labels, progress=False)
    quantized, images, right = quantize(net, batches, W2, progress=False), torch.cat(batches), torch.cat(labels)
    lost = (float_outputs(net, images).argmax(1) == right).sum() - (quantized(images).argmax(1) == right).sum()
    assert found.unit == "points" and lost > 0
    assert found.trials[0].damage == 100 * int(lost) / 64


def test_damage_of_values_is_their_noise_to_signal_ratio():
    net, batches = weak_in_the_middle(), [six_values(), six_values(1)[:9]]
    found = damages(net, batches, ["naive"], outputs="values", progress=False)
    quantized, x = quantize(net, batches, "naive", progress=False), torch.cat(batches)
    assert found.unit == "noise / signal"
    assert found.trials[0].damage == pytest.approx(10 ** (-sqnr(float_outputs(net, x), quantized(x)) / 10), rel=1e-9)


class TwoValues(nn.Module):
    """Two inputs, and a dict of two outputs of very different size."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, x, y):
        return {"small": self.left(x), "large": 1000 * self.right(y)}


def test_several_outputs_count_alike():
    torch.manual_seed(0)
    net, batch = TwoValues().eval(), (six_values(), six_values(1))
    recipe = PER_TENSOR.kept_float("left")
    found = damages(net, [batch], [PER_TENSOR, recipe], outputs="values", progress=False)
    exact = net(*batch)
    for trial, r in zip(found.trials, (PER_TENSOR, recipe), strict=True):
        noisy = quantize(net, [batch], r, progress=False)(*batch)
        ratios = [((noisy[k] - exact[k]).square().sum() / exact[k].square().sum()).item() for k in exact]
        assert trial.damage == pytest.approx(sum(ratios) / 2, rel=1e-4)
    assert 0 < found.trials[1].damage < 0.8 * found.trials[0].damage


def test_scores_of_each_place_count_alone():
    """Of images the classes lie along axis 1, of sequences along the last."""
    torch.manual_seed(0)
    x = torch.rand(5, 3, 4, 4)
    places = nn.Conv2d(3, 7, 1)
    found = damages(places, [x], ["naive"], places(x).argmax(1), progress=False)
    assert found.trials[0].damage < 10
    flat = x.movedim(1, -1).flatten(0, 2)
    rows = nn.Linear(3, 7)
    rows.weight, rows.bias = nn.Parameter(places.weight[:, :, 0, 0]), places.bias
    same = damages(rows, [flat], ["naive"], progress=False).trials[0].damage
    assert same > 0
    assert damages(places, [x], ["naive"], progress=False).trials[0].damage == pytest.approx(same, rel=1e-4)
    sequence = damages(rows, [flat.view(5, 16, 3)], ["naive"], progress=False).trials[0].damage
    assert sequence == pytest.approx(same, rel=1e-4)


def test_sixteen_bits_do_no_damage():
    (images, _), (labels, _) = two_batches()
    net = models.load("residual")
    assert all(abs(row.damage) < 1e-5 for row in sensitivity(net, [images], FINE, progress=False).rows)
    assert {row.damage for row in sensitivity(net, [images], FINE, labels, progress=False).rows} == {0.0}


def test_damage_is_measured_on_evaluate_on():
    (first, second), (_, labels) = two_batches()
    net = models.load("plain")
    there = damages(net, iter([first]), [W2], labels, evaluate_on=iter([second]), progress=False)
    assert there.trials[0].damage == pytest.approx(100 / 16 * round(there.trials[0].damage * 16 / 100))
    quantized = quantize(net, [first], W2, progress=False)
    right = [int((answer.argmax(1) == labels).sum()) for answer in (float_outputs(net, second), quantized(second))]
    assert there.trials[0].damage == 100 * (right[0] - right[1]) / 16


# --- One layer at a time ----------------------------------------------------------


@pytest.mark.parametrize("mode", ["only", "all but"])
@pytest.mark.parametrize("judge", ["kl", "accuracy", "noise"])
def test_a_layer_made_sensitive_comes_first(mode, judge):
    net, x = weak_in_the_middle(), six_values()
    labels = float_outputs(net, x).argmax(1) if judge == "accuracy" else None
    outputs = "values" if judge == "noise" else "scores"
    found = sensitivity(net, [x], PER_TENSOR, labels, mode=mode, outputs=outputs, progress=False)
    assert [row.label for row in found.rows] == ["0", "1", "2", "3"]
    worst, *others = found.ranked
    assert worst.label == "1" and worst.damage > 20 * max(abs(row.damage) for row in others)
    assert found.recipe(1).overrides == (Override("1", keep_float=True),)


def test_only_quantizes_a_layer_and_what_it_reads():
    """Against the recipe that a person would write."""
    (images, _), _ = two_batches()
    net = models.load("residual")
    found = sensitivity(net, [images], W2, progress=False)
    labels = [row.label for row in found.rows]
    assert len(labels) == 10 and found.whole == damages(net, [images], [W2], progress=False).trials[0].damage
    for row in found.rows[:5]:
        alone = W2.kept_float(*(label for label in labels if label != row.label))
        (trial,) = damages(net, [images], [alone], progress=False).trials
        assert row.damage == trial.damage > 0
        quantized = quantize(net, [images], alone, progress=False)
        assert len(quantized.weights) == 1
        assert row.saves == float_bytes(net) - quantized.size()


def test_all_but_is_what_the_network_regains():
    (images, _), _ = two_batches()
    net = models.load("mlp")
    found = sensitivity(net, [images], W2, mode="all but", progress=False)
    whole, *without = damages(
        net, [images], [W2, *(W2.kept_float(row.label) for row in found.rows)], progress=False
    ).trials
    assert found.whole == whole.damage
    assert [row.damage for row in found.rows] == [whole.damage - trial.damage for trial in without]
    assert [row.saves for row in found.rows] == [trial.bytes - whole.bytes for trial in without]


def test_layers_that_a_recipe_keeps_float_are_left_out():
    (images, _), _ = two_batches()
    hybrid = sensitivity(models.load("plain"), [images], "hybrid", progress=False)
    assert [row.label for row in hybrid.rows] == ["3", "6", "9", "12"]
    weights_alone = sensitivity(models.load("mlp"), [], Recipe(activations=None), evaluate_on=[images], progress=False)
    values_alone = sensitivity(models.load("mlp"), [images], Recipe(weights=None), progress=False)
    assert len(weights_alone.rows) == len(values_alone.rows) == 3
    assert weights_alone.work.calibrations == 0
    # A scale and a zero point for each of four values are all that the model gains.
    assert all(row.saves < 0 for row in values_alone.rows)


def test_the_rows_tell_weights_and_bytes():
    (images, _), _ = two_batches()
    found = sensitivity(models.load("mlp"), [images], progress=False)
    assert [row.weights for row in found.rows] == [256 * 128, 128 * 128, 1280]
    # 8 bits for 32: three bytes a weight, less a scale and a zero point a channel, and those of the values read
    assert found.rows[1].saves == 3 * 128 * 128 - 5 * 128 - 5
    text = str(found)
    assert [line.split()[0] for line in text.splitlines()[2:5]] == [row.label for row in found.ranked]
    assert "65.0%" in text and str(found.work) in text


class NamedLikeKinds(nn.Module):
    """Layers with the names of operations and classes, and with the letters of patterns."""

    def __init__(self):
        super().__init__()
        names = ("conv", "linear", "Linear", "conv2", "line*", "line[a]", "lines")
        for i, name in enumerate(names):
            self.add_module(name, nn.Conv2d(1, 1, 1) if i == 0 else nn.Linear(4, 4))

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x.flatten(1)


def test_patterns_stand_for_one_layer_whatever_its_name():
    torch.manual_seed(0)
    net, x = NamedLikeKinds(), torch.rand(8, 1, 2, 4)
    graph = trace(net)
    found = sensitivity(net, [x], "naive", progress=False)
    assert len(found.rows) == 7
    for row in found.rows:
        matched = [n.label for n in graph.nodes if Override(row.pattern).matches(n, graph)]
        assert matched == [row.label]
    steps = partial(net, [x], "naive", progress=False)
    left = [len(q.weights) for q in quantize_each(net, [x], [steps.recipe(k) for k in range(8)], progress=False)]
    assert left == [7, 6, 5, 4, 3, 2, 1, 0]


# --- Layers back to float ---------------------------------------------------------


@pytest.mark.parametrize("name", ["residual", "multibranch"])
def test_with_all_layers_back_the_network_is_the_float_one(name):
    (images, _), _ = two_batches()
    net = models.load(name)
    found = partial(net, [images], W2, progress=False)
    n = len(found.patterns)
    assert len(found.steps) == n + 1
    assert found.steps[0].damage > 0.1 and found.steps[n].damage == 0.0
    quantized = quantize(net, [images], found.recipe(n), progress=False)
    assert torch.equal(quantized(images), float_outputs(net, images))
    torch.testing.assert_close(quantized(images), net(images).detach(), rtol=1e-4, atol=1e-4)
    assert found.steps[n].bytes == quantized.size() == float_bytes(net)


def test_partial_goes_by_sensitivity_and_its_recipes_give_its_damages():
    (images, _), _ = two_batches()
    net = models.load("mlp")
    found = partial(net, [images], W2, progress=False)
    ranked = sensitivity(net, [images], W2, progress=False)
    assert [step.label for step in found.steps[1:]] == [row.label for row in ranked.ranked]
    for k, step in enumerate(found.steps):
        assert found.recipe(k) == ranked.recipe(k)
        (trial,) = damages(net, [images], [Recipe.parse(str(found.recipe(k)))], progress=False).trials
        assert (trial.damage, trial.bytes) == (step.damage, step.bytes)


def test_partial_in_a_given_order():
    (images, _), _ = two_batches()
    found = partial(models.load("mlp"), [images], W2, order=["5", "1"], progress=False)
    assert [step.label for step in found.steps] == ["", "5", "1"]
    assert found.recipe(1).overrides == (Override("5", keep_float=True),)
    assert found.work.models == 3
    assert "the last" in str(found)


# --- The best scheme for each layer -----------------------------------------------


def test_selective_gives_each_tensor_what_suits_it():
    """Weights whose rows differ by a thousand need a scale each; values with one outlier a range without it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    with torch.no_grad():
        net[0].weight.mul_(torch.logspace(-3, 0, 6)[:, None])
        net[2].weight.mul_(torch.logspace(3, 0, 6)[None])
    x = torch.rand(400, 6)
    x[0, 0] = 300.0
    naive = Recipe(weights=Scheme(4), activations=Scheme(4, symmetric=False, signed=False))
    other = Recipe(
        weights=Scheme(4, granularity="channel"),
        activations=Scheme(4, symmetric=False, signed=False, observer="percentile 99.9"),
    )
    found = selective(net, [x], naive, [other], evaluate_on=[x[1:]], outputs="values", progress=False)
    best = {(c.label, c.kind): c for c in found.choices}
    assert best["0", "weights"].scheme.granularity == "channel"
    assert best["input", "activations"].scheme.observer == "percentile 99.9"
    assert list(best) == [
        ("input", "activations"),
        ("0", "weights"),
        ("0", "activations"),
        ("2", "weights"),
        ("2", "activations"),
    ]
    before, after = damages(
        net, [x], [naive, found.recipe], evaluate_on=[x[1:]], outputs="values", progress=False
    ).trials
    assert after.damage < before.damage / 5
    plans = ptq.plan(found.recipe, trace(net))
    for choice in found.choices:
        (node,) = (n for n in plans.graph.nodes if n.label == choice.label)
        assert choice.scheme == getattr(plans, choice.kind)[node.name]
        assert dict(choice.damages)[choice.scheme] == min(d for _, d in choice.damages)


def test_selective_changes_only_what_gets_better():
    (images, _), _ = two_batches()
    net = models.load("residual")
    same = selective(net, [images], "hybrid", ["hybrid", Recipe(first_last="float")], progress=False)
    assert same.recipe == Recipe.preset("hybrid")
    coarse = Recipe(weights=Scheme(4), first_last="float")
    found = selective(net, [images], coarse, [Recipe(weights=Scheme(4, granularity="channel"))], progress=False)
    assert found.recipe.overrides
    assert {tuple(o.weights.items()) for o in found.recipe.overrides} == {(("granularity", "channel"),)}
    assert Recipe.parse(str(found.recipe)) == found.recipe
    # The ends stay float.
    assert not {"0", "8"} & {o.layers for o in found.recipe.overrides}
    quantized = quantize(net, [images], found.recipe, progress=False)
    assert len(quantized.weights) == len(quantize(net, [images], coarse, progress=False).weights)


def test_selective_tries_a_scheme_with_all_else_at_16_bits():
    (images, _), _ = two_batches()
    net = models.load("mlp")
    rough = Recipe(weights=Scheme(3), activations=Scheme(3, symmetric=False, signed=False))
    found = selective(net, [images], rough, [], progress=False)
    by_hand = {
        "weights": Override("3", weights={"bits": 3, "granularity": "tensor"}),
        "activations": Override("3", activations={"bits": 3}),
    }
    for choice in found.choices:
        if choice.label == "3":
            recipe = Recipe(FINE.weights, FINE.activations, (by_hand[choice.kind],))
            (trial,) = damages(net, [images], [recipe], progress=False).trials
            assert choice.damages == ((choice.scheme, trial.damage),)


# --- Bits under a budget ----------------------------------------------------------


def test_mixed_is_the_best_of_all_assignments():
    """All 3^3 of them, each built, so that sizes are those of real models."""
    (images, _), _ = two_batches()
    net = models.load("mlp")
    base = Recipe(weights=Scheme(granularity="channel"))
    found = mixed(net, [images], base, budget=10**6, progress=False)
    assert [option.bits for option in found.chosen] == [8, 8, 8]
    alone = {(o.label, o.bits): o.damage for layer in found.options for o in layer}
    labels = [layer[0].label for layer in found.options]
    assignments = list(product((2, 4, 8), repeat=3))

    def recipe(bits):
        each = zip(labels, bits, strict=True)
        return Recipe(base.weights, overrides=tuple(Override(name, weights={"bits": b}) for name, b in each))

    sizes = [q.size() for q in quantize_each(net, [images], [recipe(b) for b in assignments], progress=False)]
    sums = [sum(alone[name, b] for name, b in zip(labels, bits, strict=True)) for bits in assignments]
    assert [trial.bytes for trial in found.uniform] == [sizes[0], sizes[13], sizes[26]]
    last = float("inf")
    for budget in sorted({*sizes, *(s - 1 for s in sizes[1:]), *(s + 1 for s in sizes)} - {min(sizes) - 1}):
        best = found.within(budget)
        assert best.damage == pytest.approx(min(d for d, s in zip(sums, sizes, strict=True) if s <= budget), rel=1e-12)
        chosen = assignments.index(tuple(option.bits for option in best.chosen))
        assert best.bytes == sizes[chosen] <= budget
        assert best.recipe == recipe(assignments[chosen])
        assert best.damage <= last
        last = best.damage


def test_one_bit_is_one_of_the_choices():
    """Layers of signs, once bytes are too few for four bits everywhere."""
    (images, _), _ = two_batches()
    found = mixed(models.load("mlp"), [images], "int8", 10**6, bits=(1, 4), progress=False)
    four = found.within(10**6)
    assert [option.bits for option in four.chosen] == [4, 4, 4]
    fewer = found.within(four.bytes - 1)
    assert 1 in [option.bits for option in fewer.chosen]
    signs = quantize(models.load("mlp"), [images], fewer.recipe, progress=False)
    assert [row.weight_bits for row in signs.report().rows if row.weight_bits] == [o.bits for o in fewer.chosen]


def test_a_layer_alone_at_some_bits():
    (images, _), _ = two_batches()
    net, base = models.load("mlp"), Recipe(first_last="8 bits", bias_correction=True)
    found = mixed(net, [images], base, 10**6, bits=(8, 3), progress=False)
    for layer in found.options:
        assert [option.bits for option in layer] == [3, 8]
    option = found.options[1][0]
    recipe = Recipe(base.weights, base.activations, (Override("3", weights={"bits": 3}),), "8 bits", True).kept_float(
        "1", "5"
    )
    (trial,) = damages(net, [images], [recipe], progress=False).trials
    assert option.damage == trial.damage
    assert option.saves == 4 * 50698 - trial.bytes


@reproducible
@given(st.data())
def test_the_least_damage_is_that_of_brute_force(draws):
    """On integers, so that sums are exact: with ties, damage below zero, and options that are never worth it."""
    counts = draws.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    sizes = [draws.draw(st.lists(st.integers(-9, 9), min_size=n, max_size=n)) for n in counts]
    losses = [draws.draw(st.lists(st.integers(-3, 9), min_size=n, max_size=n)) for n in counts]
    budget = sum(map(min, sizes)) + draws.draw(st.integers(0, 40))
    picks = module._least_damage(sizes, losses, budget)

    def total(table, chosen):
        return sum(row[pick] for row, pick in zip(table, chosen, strict=True))

    fitting = [c for c in product(*map(range, counts)) if total(sizes, c) <= budget]
    best = min((total(losses, c), total(sizes, c)) for c in fitting)
    assert (total(losses, picks), total(sizes, picks)) == best


def test_the_search_stays_small_for_many_layers():
    """Sixty layers have 3^60 assignments, but no more sizes than bytes."""
    chance = torch.Generator().manual_seed(0)
    weights = [64 * int(n) for n in torch.randint(1, 400, (60,), generator=chance)]
    sizes = [[w * bits // 8 for bits in (2, 4, 8)] for w in weights]
    losses = [[float(x) for x in torch.rand(3, generator=chance).sort(descending=True).values] for _ in weights]
    picks = module._least_damage(sizes, losses, sum(weights) // 2)
    used = sum(row[p] for row, p in zip(sizes, picks, strict=True))
    assert used <= sum(weights) // 2
    # No single change that fits makes it better.
    for row, lost, pick in zip(sizes, losses, picks, strict=True):
        for other in range(3):
            if used - row[pick] + row[other] <= sum(weights) // 2:
                assert lost[other] >= lost[pick]


def test_a_budget_that_nothing_fits_is_refused_before_layers_are_tried():
    (images, _), _ = two_batches()
    net = models.load("mlp")
    built = []
    smallest = quantize(net, [images], Recipe(weights=Scheme(2, granularity="channel")), progress=False).size()
    original = QuantizedModel.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuantizedModel, "forward", lambda self, *x: built.append(1) or original(self, *x))
        with pytest.raises(ValueError, match=f"budget: need at least the {smallest} bytes .* got {smallest - 1}$"):
            mixed(net, [images], "int8", smallest - 1, progress=False)
    assert len(built) == 3
    exactly = mixed(net, [images], "int8", smallest, progress=False)
    assert exactly.bytes == smallest and {o.bits for o in exactly.chosen} == {2}
    with pytest.raises(ValueError, match="budget: need at least"):
        exactly.within(smallest - 1)


# --- Work and progress ------------------------------------------------------------

SEARCHES = {
    "damages": (lambda *a, **k: damages(*a[:2], [a[2], a[2]], **k), lambda n: 2),
    "sensitivity": (sensitivity, lambda n: n + 1),
    "all but": (lambda *a, **k: sensitivity(*a, mode="all but", **k), lambda n: n + 1),
    "partial": (partial, lambda n: 2 * (n + 1)),
    "selective": (lambda *a, **k: selective(*a, ["naive"], **k), None),
    "mixed": (lambda *a, **k: mixed(*a, 10**6, **k), lambda n: 3 * (n + 1)),
}


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("search", SEARCHES)
def test_work_is_what_was_done_and_what_the_bars_show(search, corrected, monkeypatch):
    (first, second), _ = two_batches()
    done = {"models": 0, "evaluations": 0, "calibrations": 0, "corrections": 0}

    def counting(name, original, amount=lambda *a: 1):
        def call(*args, **kwargs):
            done[name] += amount(*args, *kwargs.values())
            return original(*args, **kwargs)

        return call

    bars = []

    class Bar(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)

    def run(graph, inputs, step=None, original=Graph.run):
        # Observers run with a step of their own, the float network without one.
        if step is None:
            done["evaluations"] += 1
        elif step.__qualname__.startswith("_observe"):
            done["calibrations"] += 1
        return original(graph, inputs, step)

    monkeypatch.setattr(QuantizedModel, "__init__", counting("models", QuantizedModel.__init__))
    monkeypatch.setattr(QuantizedModel, "forward", counting("evaluations", QuantizedModel.forward))
    monkeypatch.setattr(Graph, "run", run)
    monkeypatch.setattr(ptq, "correct_along", counting("corrections", ptq.correct_along, lambda *a: len(a[3][0])))
    monkeypatch.setattr(module, "tqdm", Bar)
    monkeypatch.setattr(ptq, "tqdm", Bar)
    function, count = SEARCHES[search]
    recipe = Recipe(bias_correction=corrected)
    found = function(models.load("mlp"), [first, second], recipe, evaluate_on=[first[:3], second[:2], first[:1]])
    assert done == vars(found.work)
    if count is not None:
        assert found.work.models == count(3)
    assert found.work.corrections == (2 * found.work.models if corrected else 0)
    judging = [bar for bar in bars if bar.desc != "calibrating"]
    watching = [bar for bar in bars if bar.desc == "calibrating"]
    assert all(bar.n == bar.total for bar in bars)
    assert sum(bar.total for bar in judging) == found.work.evaluations
    assert sum(bar.total for bar in watching) == found.work.calibrations


def test_bars_are_on_stderr_and_can_be_off(capsys):
    (images, _), _ = two_batches()
    sensitivity(models.load("mlp"), [images])
    out, err = capsys.readouterr()
    assert out == "" and "sensitivity: 100%" in err
    sensitivity(models.load("mlp"), [images], progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_network_is_left_as_it_was():
    (images, _), _ = two_batches()
    net = models.load("plain").train()
    before = copy.deepcopy(net.state_dict())
    partial(net, [images], "naive", progress=False)
    assert net.training and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


# --- What is refused --------------------------------------------------------------

X = torch.rand(4, 1, 16, 16)
Y = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: damages(net, [X], []), "recipes: need at least one, got none"),
        (lambda net: damages(net, [X], ["best"]), "name: need one of"),
        (
            lambda net: damages(net, [X], "int8"),
            "recipes: need a list of recipes, got 'int8'; put a single one in a list",
        ),
        (lambda net: damages(net, [X], [None]), "recipe: need a Recipe or the name of a preset, got None"),
        (lambda net: selective(net, [X], "int8", "naive"), "candidates: need a list of recipes, got 'naive'"),
        (lambda net: damages(net, [], ["int8"]), "batches: need at least one"),
        (lambda net: damages(net, [X], ["int8"], evaluate_on=[]), "evaluate_on: need at least one batch, got none"),
        (lambda net: damages(net, [X], ["int8"], evaluate_on=[(X, Y)]), "evaluate_on: need 1 inputs .* got 2 .labels"),
        (lambda net: damages(net, X, ["int8"]), "batches: need a list or a loader of batches, got a Tensor"),
        (lambda net: damages(net, [X], ["int8"], evaluate_on=X), "evaluate_on: need a list or a .*, got a Tensor"),
        (lambda net: damages(net, [X], ["int8"], evaluate_on=["a"]), "evaluate_on: need tensors, .* got a str"),
        (lambda net: damages(net, [X * torch.nan], ["int8"]), "NaN"),
        (lambda net: damages(net, [X], ["int8"], evaluate_on=[X * torch.nan]), "outputs: 40 of 40 values are NaN"),
        (lambda net: damages(net, [X], ["int8"], Y[:3]), r"labels: need one for each of 4 inputs, got shape \(3,\)"),
        (lambda net: damages(net, [X], ["int8"], Y.float()), "labels: need integers of shape .4,., got torch.float32"),
        (lambda net: damages(net, [X], ["int8"], Y + 10), "labels: need classes from 0 to 9, got 10 to 10"),
        (lambda net: damages(net, [X], ["int8"], Y - 1), "labels: need classes from 0 to 9, got -1 to -1"),
        (lambda net: damages(net, [X], ["int8"], [Y, Y]), "labels: need a tensor for each of 1 batches, got 2"),
        (lambda net: damages(net, [X], ["int8"], [[1, 2, 3, 4]]), "labels: need a torch tensor, got a list"),
        (lambda net: damages(net, [X], ["int8"], Y, outputs="values"), 'labels: need outputs="scores"'),
        (lambda net: damages(net, [X], ["int8"], outputs="logits"), "outputs: need one of"),
        (lambda net: damages(nn.Flatten(0), [X], ["int8"]), r"outputs: need one tensor .* got shape \(1024,\)"),
        (
            lambda net: damages(nn.Linear(16, 1), [X[:, 0]], ["int8"]),
            r"outputs: need at least two classes, .* \(4, 16, 1\)",
        ),
        (
            lambda net: damages(nn.Flatten(), [0 * X], ["int8"], outputs="values"),
            "outputs: need a value other than zero",
        ),
        (lambda net: sensitivity(net, [X], 8), "recipe: need a Recipe or the name of a preset, got 8"),
        (lambda net: sensitivity(net, [X], mode="each"), "mode: need one of 'only', 'all but', got 'each'"),
        (lambda net: sensitivity(net, [X], Recipe(None, None)), "recipe: need one that quantizes a layer"),
        (lambda net: sensitivity(net, [X]).recipe(4), "k: need an integer from 0 to 3, got 4"),
        (lambda net: partial(net, [X]).recipe(-1), "k: need an integer from 0 to 3, got -1"),
        (lambda net: partial(net, [X], order=["1", "1"]), "order: need a list of labels, each once"),
        (lambda net: partial(net, [X], order="13"), "order: need a list of labels, each once, got '13'"),
        (
            lambda net: partial(net, [X], order=["1", "2"]),
            "order: need layers that the recipe quantizes .1, 3, 5., got '2'",
        ),
        (lambda net: selective(net, [X], Recipe(None, None), ["int8"]), "recipe: need one that quantizes something"),
        (lambda net: selective(net, [X], "int8", [3]), "recipe: need a Recipe or the name of a preset, got 3"),
        (lambda net: mixed(net, [X], "int8", 1.5), "budget: need an integer"),
        (lambda net: mixed(net, [X], "int8", 10**6, bits=()), "bits: need different integers, at least one"),
        (lambda net: mixed(net, [X], "int8", 10**6, bits=(4, 4)), "bits: need different integers"),
        (lambda net: mixed(net, [X], "int8", 10**6, bits=(4, 17)), "bits: need an integer from 1 to 16, got 17"),
        (lambda net: mixed(net, [X], Recipe(weights=None), 10**6), "recipe: need one that quantizes weights"),
    ],
)
def test_what_does_not_fit_is_refused(call, message, capsys):
    with pytest.raises(ValueError, match=message):
        call(models.load("mlp"))
