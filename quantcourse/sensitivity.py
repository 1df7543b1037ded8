"""Which layers does quantization hurt, and where are bits best spent?

One layer at a time is quantized, or left out, and the damage to the network is measured:
accuracy lost, or how far its scores move.  From that follow recipes: the worst layers in
float, each layer with the scheme that suits it, or bits handed out under a budget of
bytes.  Explained in the chapter *Selective quantization*.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from quantcourse._calls import listed
from quantcourse._checks import integer, one_of
from quantcourse._recipe import (
    FirstLast,
    Override,
    Recipe,
    Scheme,
    plan,
    recipe_of,
    recipes_of,
)
from quantcourse._tensor_checks import dense, finite_floats
from quantcourse.affine import INTEGERS
from quantcourse.graph import Graph, Node, text_table
from quantcourse.ptq import Batch, float_network, inputs_of, quantize_each

__all__ = [
    "Choice",
    "Damages",
    "LayerDamage",
    "Mixed",
    "Option",
    "Partial",
    "Selective",
    "Sensitivity",
    "Step",
    "Trial",
    "Work",
    "damages",
    "mixed",
    "partial",
    "selective",
    "sensitivity",
]

Labels = Tensor | Sequence[Tensor]
Outputs = Literal["scores", "values"]
Mode = Literal["only", "all but"]
Kind = Literal["weights", "activations"]


# --- Damage -----------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What a search has cost.  A pass is one call of a network on one batch.

    Args:
        models: quantized models that were built.
        evaluations: passes to judge with, of those models and of the float network.
        calibrations: passes of the float network that observers watched.
        corrections: passes of a float and a rounded network side by side, to correct
            biases.

    Chapter: *Selective quantization*.

    >>> print(Work(models=7, evaluations=8, calibrations=1))
    7 models, 8 evaluations, 1 calibrations, 0 corrections
    """

    models: int = 0
    evaluations: int = 0
    calibrations: int = 0
    corrections: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{n} {name}" for name, n in asdict(self).items())


@dataclass(frozen=True)
class Trial:
    """A recipe that was tried.  Chapter: *Selective quantization*.

    Args:
        recipe: as it was carried out.
        damage: to the network; what `damages` says.
        bytes: what the quantized model takes.
    """

    recipe: Recipe
    damage: float
    bytes: int


@dataclass(frozen=True)
class Damages:
    """The recipes that were tried, in their order.  Chapter: *Selective quantization*.

    Args:
        trials: one for each recipe.
        unit: of the damage.
        work: what it has cost.
    """

    trials: tuple[Trial, ...]
    unit: str
    work: Work


def damages(
    model: nn.Module,
    batches: Iterable[Batch],
    recipes: Sequence[Recipe | str],
    labels: Labels | None = None,
    *,
    evaluate_on: Iterable[Batch] | None = None,
    outputs: Outputs = "scores",
    progress: bool = True,
) -> Damages:
    """How much each recipe harms a network.

    - With labels: the accuracy that is lost, in points (percent of the answers);
      negative if some is gained.
    - Without: the Kullback-Leibler divergence ``sum(p ln(p / q))`` of the quantized
      network's class probabilities q from the float network's p, in nats, the mean over
      all inputs (all places, where each has scores).  It needs no labels, and tells
      apart what gives the same answers.
    - For outputs that are no scores: the power of the error over that of the output,
      the mean over outputs if there are several.  -10 dB of it is an SQNR of 10 dB.

    The second and the third add up, more or less, where several layers do small damage.

    Args:
        model: as for ``ptq.quantize``.
        batches: what ranges are measured on, as for ``ptq.quantize``.
        recipes: or names of presets; at least one.
        labels: the classes that are right for the inputs that are judged on: one
            tensor of integers for all, or one for each batch.
        evaluate_on: the batches to judge on; None: ``batches``.  Recipes that are
            chosen by them fit them: judge the winner on others, and keep test images
            out of the choice.
        outputs: ``"scores"`` of classes (logits, along axis 1 of images, else along
            the last), or ``"values"`` of any kind.
        progress: show bars on stderr.

    Returns:
        A trial for each recipe, and what it has cost.

    Raises:
        ValueError: as ``ptq.quantize``; for labels that do not fit the outputs; for
            outputs that are no single tensor of scores, unless they are ``"values"``.

    Source: the divergence: Kullback and Leibler, On information and sufficiency, 1951.
    Chapter: *Selective quantization*.

    >>> from quantcourse import data, models
    >>> images, _, _ = data.digits("train")
    >>> found = damages(models.load("mlp"), [images[:64]], ["naive"], progress=False)
    >>> found.trials[0].damage < 0.01, found.work.evaluations
    (True, 2)
    """
    bench = _Bench(model, batches, labels, evaluate_on, outputs, progress)
    if not (chosen := recipes_of(recipes, "recipes")):
        raise ValueError("recipes: need at least one, got none")
    return Damages(tuple(bench.judge(chosen, "trying")), bench.unit, bench.work)


class _Bench:
    """A network, what to judge it on, and what that has cost so far."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        labels: Labels | None,
        evaluate_on: Iterable[Batch] | None,
        outputs: Outputs,
        progress: bool,
    ) -> None:
        one_of(outputs, get_args(Outputs), "outputs")
        if labels is not None and outputs == "values":
            raise ValueError(
                'labels: need outputs="scores", got values, which have none'
            )
        self.model, self.progress = model, progress
        self.graph = float_network(model)
        self.batches = listed(batches, "batches")
        judged_on, name = self.batches, "batches"
        if evaluate_on is not None:
            judged_on, name = listed(evaluate_on, "evaluate_on"), "evaluate_on"
        self.judged_on = _calls(judged_on, name, self.graph)
        self.labels, self.outputs = labels, outputs
        self.damage: Callable[[list[Any]], float] | None = None
        self.work = Work()

    @property
    def unit(self) -> str:
        """What damage is measured in."""
        if self.outputs == "values":
            return "noise / signal"
        return "nats" if self.labels is None else "points"

    def judge(self, recipes: Sequence[Recipe], task: str) -> Iterator[Trial]:
        """Try recipes one after the other; one pass calibrates all of them."""
        networks = len(recipes) + (self.damage is None)
        total = networks * len(self.judged_on)
        with tqdm(total=total, desc=task, disable=not self.progress) as bar:
            if self.damage is None:
                exact = list(self._run(lambda *x: self.graph.run(x), bar))
                self.damage = _damage_from(exact, self.labels, self.outputs)
            models = quantize_each(self.model, self.batches, recipes, self.progress)
            self._count(recipes, total)
            for recipe, quantized in zip(recipes, models, strict=True):
                damage = self.damage(list(self._run(quantized, bar)))
                yield Trial(recipe, damage, quantized.size())

    @torch.no_grad()
    def _run(self, network: Callable[..., Any], bar: "tqdm[Any]") -> Iterator[Any]:
        for inputs in self.judged_on:
            yield network(*inputs)
            bar.update()

    def _count(self, recipes: Sequence[Recipe], evaluations: int) -> None:
        plans = (plan(recipe, self.graph) for recipe in recipes)
        calibrated = any(not s.dynamic for p in plans for s in p.activations.values())
        corrected = sum(recipe.bias_correction for recipe in recipes)
        self.work = Work(
            self.work.models + len(recipes),
            self.work.evaluations + evaluations,
            self.work.calibrations + len(self.batches) * calibrated,
            self.work.corrections + len(self.batches) * corrected,
        )


def _calls(batches: Sequence[Batch], name: str, graph: Graph) -> list[tuple[Any, ...]]:
    """The arguments of the calls to judge on."""
    if not batches:
        raise ValueError(f"{name}: need at least one batch, got none")
    need = len(graph.inputs)
    for batch in batches:
        if not isinstance(batch, Tensor | tuple | list):
            got = type(batch).__name__
            raise ValueError(f"{name}: need tensors, or tuples of them, got a {got}")
        if (got_inputs := len(inputs_of(batch))) != need:
            raise ValueError(
                f"{name}: need {need} inputs for each call, got {got_inputs} (labels "
                "are an argument of their own)"
            )
    return [inputs_of(batch) for batch in batches]


def _damage_from(
    exact: list[Any], labels: Labels | None, outputs: Outputs
) -> Callable[[list[Any]], float]:
    """What measures the damage of other outputs than these, the float network's."""
    if outputs == "values":
        values = _joined(exact)
        return lambda noisy: _noise(values, _joined(noisy))
    scores = [_scores(x) for x in exact]
    if labels is None:
        return lambda noisy: _divergence(scores, [_scores(x) for x in noisy])
    classes = _labels_of(labels, scores)
    before = _right(scores, classes)
    count = sum(c.numel() for c in classes)
    return lambda noisy: (
        100 * (before - _right([_scores(x) for x in noisy], classes)) / count
    )


def _scores(output: Any) -> Tensor:
    """Outputs with the scores of the classes along the last axis."""
    if not isinstance(output, Tensor) or output.dim() < 2:
        got = type(output).__name__
        if isinstance(output, Tensor):
            got = f"shape {tuple(output.shape)}"
        raise ValueError(
            'outputs: need one tensor with a score for each class, or outputs="values", '
            f"got {got}"
        )
    scores = finite_floats(output, "outputs").movedim(1 if output.dim() > 3 else -1, -1)
    if scores.shape[-1] < 2:
        raise ValueError(
            'outputs: need at least two classes, or outputs="values", got shape '
            f"{tuple(output.shape)}"
        )
    return scores.to(torch.float64)


def _divergence(exact: list[Tensor], noisy: list[Tensor]) -> float:
    """``sum(p ln(p / q))`` over the classes, the mean over all inputs."""
    total, count = 0.0, 0
    for x, y in zip(exact, noisy, strict=True):
        log_p, log_q = x.log_softmax(-1), y.log_softmax(-1)
        total += float((log_p.exp() * (log_p - log_q)).sum())
        count += log_p[..., 0].numel()
    return total / count


def _labels_of(labels: Labels, scores: list[Tensor]) -> list[Tensor]:
    """The right classes, one tensor a batch."""
    if isinstance(labels, Tensor):
        sizes = [len(x) for x in scores]
        if labels.dim() < 1 or len(labels) != sum(sizes):
            raise ValueError(
                f"labels: need one for each of {sum(sizes)} inputs, "
                f"got shape {tuple(labels.shape)}"
            )
        labels = torch.split(labels, sizes)
    labels = list(labels)
    if len(labels) != len(scores):
        raise ValueError(
            f"labels: need a tensor for each of {len(scores)} batches, got {len(labels)}"
        )
    for x, right in zip(scores, labels, strict=True):
        classes, shape = x.shape[-1], tuple(x.shape[:-1])
        if dense(right, "labels").dtype not in INTEGERS or right.shape != shape:
            raise ValueError(
                f"labels: need integers of shape {shape}, got {right.dtype} of shape "
                f"{tuple(right.shape)}"
            )
        if right.min() < 0 or right.max() >= classes:
            raise ValueError(
                f"labels: need classes from 0 to {classes - 1}, got {int(right.min())} "
                f"to {int(right.max())}"
            )
    return labels


def _right(scores: list[Tensor], classes: list[Tensor]) -> int:
    """How many answers are right."""
    answers = (x.argmax(-1) for x in scores)
    return sum(
        int((a == c.to(a.device)).sum()) for a, c in zip(answers, classes, strict=True)
    )


def _joined(outputs: list[Any]) -> list[Tensor]:
    """Each tensor of floats that a network gives, from all batches, as one vector."""
    leaves = [
        [
            x
            for x in tree_leaves(output)
            if isinstance(x, Tensor) and x.is_floating_point()
        ]
        for output in outputs
    ]
    if not leaves[0]:
        raise ValueError("outputs: need a tensor of floats, got none")
    columns = zip(*leaves, strict=True)
    return [
        torch.cat([finite_floats(x, "outputs").double().flatten() for x in column])
        for column in columns
    ]


def _noise(exact: list[Tensor], noisy: list[Tensor]) -> float:
    """Power of the error over that of the signal, the mean over outputs."""
    ratios = []
    for x, y in zip(exact, noisy, strict=True):
        if not x.any():
            raise ValueError("outputs: need a value other than zero, got zeros alone")
        ratios.append(float((x - y).square().sum() / x.square().sum()))
    return sum(ratios) / len(ratios)


# --- One layer at a time ----------------------------------------------------------


@dataclass(frozen=True)
class LayerDamage:
    """What quantizing one layer does.  Chapter: *Selective quantization*.

    Args:
        label: of the layer, as `Graph.table` shows it.
        pattern: what stands for this layer alone in an ``Override``.
        damage: done by it alone, or with mode ``"all but"`` regained without it.
        weights: how many it has.
        saves: bytes of the model that quantizing it saves.
    """

    label: str
    pattern: str
    damage: float
    weights: int
    saves: int


@dataclass(frozen=True)
class Sensitivity:
    """The damage of each layer.

    Args:
        base: the recipe that was taken apart.
        rows: one for each layer that it quantizes, in the order of the network.
        whole: the damage of the whole recipe.
        unit: of the damage.
        work: what it has cost.

    Chapter: *Selective quantization*: `sensitivity` has an example.
    """

    base: Recipe
    rows: tuple[LayerDamage, ...]
    whole: float
    unit: str
    work: Work

    @property
    def ranked(self) -> tuple[LayerDamage, ...]:
        """The rows, the most damaging first."""
        return tuple(sorted(self.rows, key=lambda row: -row.damage))

    def recipe(self, k: int) -> Recipe:
        """The recipe with the k most damaging layers kept in float.

        Raises:
            ValueError: if ``k`` is none of 0 to the number of layers.
        """
        k = integer(k, 0, len(self.rows), "k")
        return self.base.kept_float(*(row.pattern for row in self.ranked[:k]))

    def __str__(self) -> str:
        weights = sum(row.weights for row in self.rows)
        heading = ("layer", self.unit, "weights", "share", "bytes saved")
        lines = [
            (
                row.label,
                _number(row.damage),
                f"{row.weights:,}",
                f"{row.weights / weights:.1%}",
                f"{row.saves:,}",
            )
            for row in self.ranked
        ]
        whole = f"the whole recipe: {_number(self.whole)} {self.unit}"
        return f"{text_table(heading, lines)}\n{whole}; {self.work}"


def sensitivity(
    model: nn.Module,
    batches: Iterable[Batch],
    recipe: Recipe | str = "int8",
    labels: Labels | None = None,
    *,
    mode: Mode = "only",
    evaluate_on: Iterable[Batch] | None = None,
    outputs: Outputs = "scores",
    progress: bool = True,
) -> Sensitivity:
    """Which layers does a recipe harm most?

    For each layer with weights a model is made in which only this layer is quantized,
    that is its weights and the values it reads, or all but this one.  The network is
    calibrated once for all of them.

    Args:
        model, batches, labels, evaluate_on, outputs, progress: as for `damages`.
        recipe: or the name of a preset.
        mode: ``"only"``: the damage of a layer is what it does alone.  ``"all but"``:
            what the network regains if this layer alone stays float.  The second sees
            layers act together, and says little where several do great damage each.

    Returns:
        A row for each of n layers; n + 1 models and n + 2 networks are judged, as the
        whole recipe and the float network are too.

    Raises:
        ValueError: as for `damages`; for another mode; if the recipe quantizes no
            layer of this network.

    Source: Wu et al. 2020, arXiv 2004.09602, section 5.1.
    Chapter: *Selective quantization*.

    >>> from quantcourse import data, models
    >>> images, _, _ = data.digits("train")
    >>> two_bits = Recipe(weights=Scheme(bits=2, granularity="channel"))
    >>> plain = models.load("plain")
    >>> found = sensitivity(plain, [images[:256]], two_bits, progress=False)
    >>> len(found.rows), found.ranked[-1].label
    (6, '17')
    >>> print(found.work)
    7 models, 8 evaluations, 1 calibrations, 0 corrections
    """
    bench = _Bench(model, batches, labels, evaluate_on, outputs, progress)
    return _sensitivity(bench, recipe_of(recipe), mode)


def _sensitivity(bench: _Bench, recipe: Recipe, mode: Mode) -> Sensitivity:
    one_of(mode, get_args(Mode), "mode")
    layers = _layers(recipe, bench.graph)
    patterns = [_exactly(node, bench.graph) for node in layers]
    alone = mode == "only"
    kept = [
        [other for other in patterns if (other != pattern) == alone]
        for pattern in patterns
    ]
    recipes = [recipe.kept_float(*names) for names in kept]
    whole, *trials = bench.judge([recipe, *recipes], "sensitivity")
    floats = _bytes_in_float(bench.graph)
    rows = [
        LayerDamage(
            node.label,
            pattern,
            trial.damage if alone else whole.damage - trial.damage,
            _count_weights(node, bench.graph),
            floats - trial.bytes if alone else trial.bytes - whole.bytes,
        )
        for node, pattern, trial in zip(layers, patterns, trials, strict=True)
    ]
    return Sensitivity(recipe, tuple(rows), whole.damage, bench.unit, bench.work)


def _layers(recipe: Recipe, graph: Graph) -> list[Node]:
    """The layers with weights that a recipe does not leave as they are."""
    worked_out = plan(recipe, graph)
    layers = [
        node
        for node in worked_out.graph.layers()
        if node.name in worked_out.weights or node.integer
    ]
    if not layers:
        raise ValueError(
            "recipe: need one that quantizes a layer of this network, got one that "
            "leaves all in float"
        )
    return layers


def _exactly(node: Node, graph: Graph) -> str:
    """A pattern for the label of this node and nothing else.

    A layer may have the name of an operation, or of a class, and then stand for all of
    that kind.
    """
    kinds = {n.op for n in graph.nodes}
    kinds |= {type(graph.layer(n)).__name__ for n in graph.nodes if n.layer}
    pattern = re.sub(r"([*?[])", r"[\1]", node.label)
    return f"[{pattern[0]}]{pattern[1:]}" if node.label in kinds else pattern


def _count_weights(node: Node, graph: Graph) -> int:
    layer: Any = graph.layer(node)
    return int(layer.weight.numel())


def _bytes_in_float(graph: Graph) -> int:
    tensors = graph.module.state_dict().values()
    return sum(t.numel() * t.element_size() for t in tensors)


def _number(damage: float) -> str:
    return f"{damage:.3g}"


# --- Layers back to float ---------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A network with some of its layers in float.  Chapter: *Selective quantization*.

    Args:
        label: of the layer that is float from here on, empty where none is.
        damage: to the network.
        bytes: what it takes.
    """

    label: str
    damage: float
    bytes: int


@dataclass(frozen=True)
class Partial:
    """How a network recovers while layers go back to float.

    Args:
        base: the recipe before.
        steps: with k = 0, 1, ... layers in float.
        patterns: what stands for each of these layers in an ``Override``.
        unit: of the damage.
        work: what it has cost.

    Chapter: *Selective quantization*: `partial` has an example.
    """

    base: Recipe
    steps: tuple[Step, ...]
    patterns: tuple[str, ...]
    unit: str
    work: Work

    def recipe(self, k: int) -> Recipe:
        """The recipe of step k.

        Raises:
            ValueError: if there is no such step.
        """
        k = integer(k, 0, len(self.patterns), "k")
        return self.base.kept_float(*self.patterns[:k])

    def __str__(self) -> str:
        lines = [
            (str(k), step.label, _number(step.damage), f"{step.bytes:,}")
            for k, step in enumerate(self.steps)
        ]
        heading = ("float", "the last", self.unit, "bytes")
        return f"{text_table(heading, lines)}\n{self.work}"


def partial(
    model: nn.Module,
    batches: Iterable[Batch],
    recipe: Recipe | str = "int8",
    labels: Labels | None = None,
    *,
    order: Sequence[str] | None = None,
    evaluate_on: Iterable[Batch] | None = None,
    outputs: Outputs = "scores",
    progress: bool = True,
) -> Partial:
    """What is regained with the k most sensitive layers in float, for each k.

    Args:
        model, batches, labels, evaluate_on, outputs, progress: as for `damages`.
        recipe: or the name of a preset.
        order: labels of layers, the first to go back to float first; None: by
            `sensitivity`, the most damaging first.

    Returns:
        n + 1 steps for n layers.  After the last all of them compute in float.

    Raises:
        ValueError: as for `sensitivity`; for an order that names a layer twice, or one
            that the recipe does not quantize.

    Source: Wu et al. 2020, arXiv 2004.09602, section 5.1, algorithm 1.
    Chapter: *Selective quantization*.

    >>> from quantcourse import data, models
    >>> images, _, _ = data.digits("train")
    >>> mlp = models.load("mlp")
    >>> found = partial(mlp, [images[:64]], order=["5", "1"], progress=False)
    >>> [(step.label, step.bytes) for step in found.steps]
    [('', 52846), ('5', 56626), ('1', 154285)]
    >>> found.recipe(1).overrides
    (Override('5', keep_float=True),)
    """
    bench = _Bench(model, batches, labels, evaluate_on, outputs, progress)
    base = recipe_of(recipe)
    layers = {node.label: node for node in _layers(base, bench.graph)}
    if order is None:
        order = [row.label for row in _sensitivity(bench, base, "only").ranked]
    elif isinstance(order, str) or len(set(order)) < len(order):
        raise ValueError(f"order: need a list of labels, each once, got {order!r}")
    if unknown := [label for label in order if label not in layers]:
        raise ValueError(
            f"order: need layers that the recipe quantizes ({', '.join(layers)}), "
            f"got {unknown[0]!r}"
        )
    patterns = tuple(_exactly(layers[label], bench.graph) for label in order)
    recipes = [base.kept_float(*patterns[:k]) for k in range(len(order) + 1)]
    trials = bench.judge(recipes, "partial")
    steps = tuple(
        Step(label, trial.damage, trial.bytes)
        for label, trial in zip(("", *order), trials, strict=True)
    )
    return Partial(base, steps, patterns, bench.unit, bench.work)


# --- The best scheme for each layer -----------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A scheme that was chosen.  Chapter: *Selective quantization*.

    Args:
        label: of the layer, or of the node whose values it is for.
        kind: ``"weights"`` or ``"activations"``.
        scheme: the best.
        damages: of all schemes that were tried here, each alone.
    """

    label: str
    kind: Kind
    scheme: Scheme
    damages: tuple[tuple[Scheme, float], ...]


@dataclass(frozen=True)
class Selective:
    """The best scheme for each tensor.

    Args:
        recipe: which applies them.
        choices: one for each tensor, in the order of the network.
        unit: of the damage.
        work: what it has cost.

    Chapter: *Selective quantization*: `selective` has an example.
    """

    recipe: Recipe
    choices: tuple[Choice, ...]
    unit: str
    work: Work

    def __str__(self) -> str:
        lines = [
            (
                choice.label,
                choice.kind,
                _scheme_text(choice.scheme),
                _number(min(d for _, d in choice.damages)),
                _number(max(d for _, d in choice.damages)),
            )
            for choice in self.choices
        ]
        heading = ("layer", "of its", "best scheme", self.unit, "worst")
        return f"{text_table(heading, lines)}\n{self.work}"


def _scheme_text(scheme: Scheme) -> str:
    kind = "symmetric" if scheme.symmetric else "affine"
    return f"{scheme.dtype!r} {kind} {scheme.granularity} {scheme.observer}"


def selective(
    model: nn.Module,
    batches: Iterable[Batch],
    recipe: Recipe | str,
    candidates: Sequence[Recipe | str],
    labels: Labels | None = None,
    *,
    evaluate_on: Iterable[Batch] | None = None,
    outputs: Outputs = "scores",
    progress: bool = True,
) -> Selective:
    """For each tensor that a recipe quantizes, the best of several schemes.

    Each scheme is tried on this tensor alone, with all others at 16 bits, where their
    rounding does next to nothing.  Weights of a layer and the values that it computes
    are two tensors; so is each branch of a sum.

    Meant for schemes of equal bits, which differ in observer, granularity or symmetry:
    of unequal ones the widest wins.  For bits there is `mixed`.

    Args:
        model, batches, labels, evaluate_on, outputs, progress: as for `damages`.
        recipe: what says which tensors are quantized, and the first candidate.
        candidates: recipes whose schemes are tried beside those of ``recipe``.

    Returns:
        The recipe that applies the best, and how good each was.

    Raises:
        ValueError: as for `damages`; if ``recipe`` quantizes nothing.

    Chapter: *Selective quantization*.

    >>> from quantcourse import data, models
    >>> images, _, _ = data.digits("train")
    >>> naive, mse = Recipe(weights=Scheme(3)), Recipe(weights=Scheme(3, observer="mse"))
    >>> found = selective(
    ...     models.load("mlp"), [images[:64]], naive, [mse], progress=False
    ... )
    >>> found.recipe.overrides[0]
    Override('1', weights={'observer': 'mse'})
    """
    bench = _Bench(model, batches, labels, evaluate_on, outputs, progress)
    base, others = recipe_of(recipe), recipes_of(candidates, "candidates")
    tensors = _tensors(base, others, bench.graph)
    cases = [(t, scheme) for t in tensors for scheme in t.schemes]
    trials = bench.judge([_alone(base, t, scheme) for t, scheme in cases], "selective")
    tried = {case: t.damage for case, t in zip(cases, trials, strict=True)}
    choices = []
    for t in tensors:
        each = tuple((scheme, tried[t, scheme]) for scheme in t.schemes)
        best, _ = min(each, key=lambda pair: pair[1])
        choices.append(Choice(t.label, t.kind, best, each))
    changes = [
        _override(t, choice.scheme, t.schemes[0])
        for t, choice in zip(tensors, choices, strict=True)
        if choice.scheme != t.schemes[0]
    ]
    best_recipe = replace(base, overrides=(*base.overrides, *changes))
    return Selective(best_recipe, tuple(choices), bench.unit, bench.work)


@dataclass(frozen=True)
class _Tensor:
    """One of the tensors that get a scheme, with those to choose from."""

    label: str
    pattern: str
    kind: Kind
    schemes: tuple[Scheme, ...]


def _tensors(base: Recipe, others: Sequence[Recipe], graph: Graph) -> list[_Tensor]:
    first, *rest = [plan(recipe, graph) for recipe in (base, *others)]
    tensors = []
    for node in first.graph.nodes:
        for kind in get_args(Kind):
            if node.name in getattr(first, kind):
                schemes = (getattr(p, kind).get(node.name) for p in (first, *rest))
                unique = tuple(dict.fromkeys(s for s in schemes if s is not None))
                tensors.append(_Tensor(node.label, _exactly(node, graph), kind, unique))
    if not tensors:
        raise ValueError("recipe: need one that quantizes something, got all in float")
    return tensors


def _alone(base: Recipe, tensor: _Tensor, scheme: Scheme) -> Recipe:
    """The recipe with all else at 16 bits."""
    fine = Scheme(16, granularity="channel")
    fine_values = Scheme(16, symmetric=False, signed=False)
    kept = [
        replace(o, weights={}, activations={})
        for o in base.overrides
        if o.keep_float is not None
    ]
    ends: FirstLast = "float" if base.first_last == "float" else "alike"
    return replace(
        base,
        weights=base.weights and fine,
        activations=base.activations and fine_values,
        overrides=(*kept, _override(tensor, scheme, None)),
        first_last=ends,
    )


def _override(tensor: _Tensor, scheme: Scheme, before: Scheme | None) -> Override:
    """What gives this tensor a scheme, in the fields that were different before."""
    changes = {
        name: value
        for name, value in asdict(scheme).items()
        if before is None or value != getattr(before, name)
    }
    if tensor.kind == "weights":
        return Override(tensor.pattern, weights=changes)
    return Override(tensor.pattern, activations=changes)


# --- Bits under a budget ----------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """One layer at so many bits, with the others in float.

    Chapter: *Selective quantization*.

    Args:
        label: of the layer.
        pattern: what stands for this layer alone in an ``Override``.
        bits: of its weights.
        damage: done by it alone.
        saves: bytes of the model that it saves against float.
    """

    label: str
    pattern: str
    bits: int
    damage: float
    saves: int


@dataclass(frozen=True)
class Mixed:
    """The bits of each layer that do the least damage within a budget.

    Args:
        base: the recipe that the bits are put into.
        chosen: the option of each layer, in the order of the network.
        bytes: the size of the model.
        options: for each layer all that it could have had.
        uniform: all layers alike, tried for comparison: one for each number of bits.
        unit: of the damage.
        work: what it has cost.

    Chapter: *Selective quantization*: `mixed` has an example.
    """

    base: Recipe
    chosen: tuple[Option, ...]
    bytes: int
    options: tuple[tuple[Option, ...], ...]
    uniform: tuple[Trial, ...]
    unit: str
    work: Work

    @property
    def recipe(self) -> Recipe:
        """The recipe that gives each layer its bits."""
        return _with_bits(self.base, self.chosen)

    @property
    def damage(self) -> float:
        """The sum of what the layers do alone: an estimate of what they do together."""
        return sum(option.damage for option in self.chosen)

    def within(self, budget: int) -> "Mixed":
        """The same for another budget, from what was measured already.

        Args:
            budget: in bytes, of the whole model.

        Raises:
            ValueError: if the smallest model is larger.
        """
        budget = integer(budget, 0, 2**62, "budget")
        _check_budget(budget, self.uniform)
        # Sizes add up: what a layer saves is the same whatever the others do.
        rest = self.bytes + sum(option.saves for option in self.chosen)
        picks = _least_damage(
            [[-option.saves for option in layer] for layer in self.options],
            [[option.damage for option in layer] for layer in self.options],
            budget - rest,
        )
        chosen = tuple(
            layer[pick] for layer, pick in zip(self.options, picks, strict=True)
        )
        size = rest - sum(option.saves for option in chosen)
        return replace(self, chosen=chosen, bytes=size)

    def __str__(self) -> str:
        lines = [
            (o.label, str(o.bits), _number(o.damage), f"{o.saves:,}")
            for o in self.chosen
        ]
        table = text_table(("layer", "bits", self.unit, "bytes saved"), lines)
        total = (
            f"{self.bytes:,} bytes, sum of damages {_number(self.damage)} {self.unit}"
        )
        return f"{table}\n{total}; {self.work}"


def mixed(
    model: nn.Module,
    batches: Iterable[Batch],
    recipe: Recipe | str,
    budget: int,
    labels: Labels | None = None,
    *,
    bits: Sequence[int] = (2, 4, 8),
    evaluate_on: Iterable[Batch] | None = None,
    outputs: Outputs = "scores",
    progress: bool = True,
) -> Mixed:
    """The bits for the weights of each layer that do the least damage within a budget.

    Each layer is quantized alone at each number of bits.  The damage of a whole
    assignment is taken to be the sum of these, its size is exact, and of all that fit
    the budget the one of least damage is found.  That it is the best of its kind holds
    for the sum; how well the sum foretells the true damage is to be measured.

    Args:
        model, batches, labels, evaluate_on, outputs, progress: as for `damages`.
        recipe: what says all but the bits of weights, for every layer whose weights it
            quantizes, first and last too.
        budget: the most bytes that the model may take, as ``QuantizedModel.size()``
            counts them: scales, biases and what stays float included.
        bits: to choose from.

    Returns:
        The bits; ``within`` answers for other budgets without further work.

    Raises:
        ValueError: as for `damages`; if the smallest model is above the budget; if the
            recipe leaves weights in float; for bits that are not different integers
            that its scheme can have.

    Source: Dong et al. 2019, HAWQ-V2, arXiv 1911.03852, which adds up damages of single
    layers likewise and keeps the assignments that no other one beats in both respects.
    Chapter: *Selective quantization*.

    >>> from quantcourse import data, models
    >>> images, _, _ = data.digits("train")
    >>> mlp = models.load("mlp")
    >>> found = mixed(mlp, [images[:64]], "int8", budget=30_000, progress=False)
    >>> [option.bits for option in found.chosen], found.bytes
    ([4, 4, 8], 28142)
    >>> found.bytes == next(quantize_each(mlp, [images], [found.recipe], False)).size()
    True
    """
    bench = _Bench(model, batches, labels, evaluate_on, outputs, progress)
    base, widths = recipe_of(recipe), _widths(bits)
    budget = integer(budget, 0, 2**62, "budget")
    if not (names := plan(base, bench.graph).weights):
        raise ValueError("recipe: need one that quantizes weights, got none that does")
    layers = [bench.graph[name] for name in names]
    patterns = [_exactly(node, bench.graph) for node in layers]
    floats = _bytes_in_float(bench.graph)

    def alone(pattern: str, width: int) -> Recipe:
        others = [other for other in patterns if other != pattern]
        one = Override(pattern, weights={"bits": width})
        return replace(base, overrides=(*base.overrides, one)).kept_float(*others)

    def alike(width: int) -> Recipe:
        all_of_them = [
            Override(pattern, weights={"bits": width}) for pattern in patterns
        ]
        return replace(base, overrides=(*base.overrides, *all_of_them))

    cases = [(pattern, width) for pattern in patterns for width in widths]
    recipes = [alike(width) for width in widths] + [alone(*case) for case in cases]
    trials = bench.judge(recipes, "mixed")
    uniform = tuple(islice(trials, len(widths)))
    _check_budget(budget, uniform)
    tried = dict(zip(cases, trials, strict=True))

    def option(node: Node, pattern: str, width: int) -> Option:
        trial = tried[pattern, width]
        return Option(node.label, pattern, width, trial.damage, floats - trial.bytes)

    options = [
        tuple(option(node, pattern, width) for width in widths)
        for node, pattern in zip(layers, patterns, strict=True)
    ]
    start = tuple(layer[0] for layer in options)
    every = Mixed(
        base, start, uniform[0].bytes, tuple(options), uniform, bench.unit, bench.work
    )
    return every.within(budget)


def _widths(bits: Sequence[int]) -> list[int]:
    widths = sorted(integer(b, 1, 16, "bits") for b in bits)
    if not widths or len(set(widths)) < len(widths):
        raise ValueError(f"bits: need different integers, at least one, got {bits!r}")
    return widths


def _with_bits(base: Recipe, options: Iterable[Option]) -> Recipe:
    bits = [Override(o.pattern, weights={"bits": o.bits}) for o in options]
    return replace(base, overrides=(*base.overrides, *bits))


def _check_budget(budget: int, uniform: Sequence[Trial]) -> None:
    # With the fewest bits for all, no model is smaller than the first.
    if budget < (least := uniform[0].bytes):
        raise ValueError(
            f"budget: need at least the {least} bytes of the smallest model, got {budget}"
        )


def _least_damage(
    sizes: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: int
) -> list[int]:
    """Which option each layer takes, so that losses sum to the least within a budget.

    Exact: layer after layer, what is kept is each partial assignment that no other one
    beats in size without losing more.  There are never more of them than bytes.

    Args:
        sizes: of each option of each layer; the least of all layers fit the budget.
        losses: likewise.
        budget: for the sum of sizes.

    Returns:
        The index of an option for each layer; of equal losses the smaller size.
    """
    size, loss = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    steps: list[tuple[Tensor, int]] = []
    still = sum(map(min, sizes))
    for of_layer, lost in zip(sizes, losses, strict=True):
        still -= min(of_layer)  # the least that the layers after this one need
        size = (size[:, None] + torch.tensor(of_layer)).flatten()
        loss = (loss[:, None] + torch.tensor(lost, dtype=torch.float64)).flatten()
        by_loss = loss.argsort(stable=True)
        order = by_loss[size[by_loss].argsort(stable=True)]
        order = order[size[order] + still <= budget]
        best_before = loss[order].cummin(0).values.roll(1)
        best_before[0] = torch.inf
        kept = order[loss[order] < best_before]
        size, loss = size[kept], loss[kept]
        steps.append((kept, len(of_layer)))
    picks, state = [], len(loss) - 1  # the last is the largest and does the least harm
    for kept, count in reversed(steps):
        state, pick = divmod(int(kept[state]), count)
        picks.append(pick)
    return picks[::-1]
