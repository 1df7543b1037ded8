"""Training with quantization: the network learns on the grids that it will run on.

``prepare`` puts estimators of rounding into a network, an ordinary loop or ``train``
trains it, and ``convert`` gives the model of integers.  The weights that learn stay
floats.  Explained in the chapter *Training with quantization*; scales that learn too in
*Learned quantization parameters*.
"""

import copy
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from quantcourse._calls import copied
from quantcourse._checks import integer, number, one_of
from quantcourse._estimators import (
    LSQ,
    PACT,
    LSQPlus,
    SignThrough,
    StraightThrough,
    applied,
    lsq,
    lsq_gradient_scale,
    lsq_plus,
    lsq_start,
    pact,
    straight_through,
    xnor,
)
from quantcourse._forms import norm_factor
from quantcourse._grids import (
    ClippedGrid,
    DynamicGrid,
    FixedGrid,
    Grid,
    LearnedGrid,
    LearnedOffsetGrid,
    ObservedGrid,
    RelativeGrid,
    SignGrid,
    check,
)
from quantcourse._recipe import Plan, Recipe, Scheme, plan
from quantcourse._tensor_checks import dense, finite_floats
from quantcourse.affine import SMALLEST_NORMAL, QParams
from quantcourse.graph import Graph, Node, Values, trace
from quantcourse.ptq import (
    MOST_BIAS,
    Batch,
    Modules,
    QuantizedModel,
    Quantizer,
    as_layer_has_it,
    assembled,
    codes_on,
    fold_into_layers,
    folded,
    inputs_of,
    need_float32,
    norms_of,
    on_grids,
    outputs_first,
    quantize,
    weight_codes,
)

__all__ = [
    "LSQ",
    "PACT",
    "LSQPlus",
    "SignThrough",
    "StraightThrough",
    "TrainableLayer",
    "TrainableModel",
    "convert",
    "lsq",
    "lsq_gradient_scale",
    "lsq_plus",
    "lsq_start",
    "pact",
    "prepare",
    "straight_through",
    "train",
    "xnor",
]

Scales = Literal["fixed", "observed", "lsq", "lsq+", "pact"]
Start = Literal["calibrated", "lsq"]
INT32 = -float(1 << 31), float((1 << 31) - 1)
AVERAGING = 0.01
"""The share of a new batch in the moving average of a range, as calibration has it."""


# --- From a network to one that is trained on grids -------------------------------


def prepare(
    model: nn.Module,
    batches: Iterable[Batch],
    recipe: Recipe | str = "int8",
    scales: Scales = "fixed",
    start: Start = "calibrated",
    freeze_norms_after: int | None = None,
    freeze_ranges_after: int | None = None,
    progress: bool = True,
) -> "TrainableModel":
    """A network that computes on grids, and can be trained so.

    The network is quantized by `quantcourse.ptq.quantize` first: where quantizers sit, and
    on which scales training starts, is what that gives.  Weights stay floats, and meet
    their grid in each forward pass.

    Batch norms go into the weights as they will in the end, since the grid must fit the
    folded weight ``w gamma / sigma``.  While they use the statistics of the batch, the grid
    is that of the folded weight with *running* statistics; the batch norm behind the
    convolution goes on as ever.  Once they are frozen, weight and bias are folded with
    running statistics, and the batch norm is gone.  Where each output has scales of its
    own, they go along with ``|gamma / sigma|`` of that output all the time.

    Parameters keep their names behind ``network.``, those of layers and batch norms with
    ``.layer`` or ``.norm`` in between, and stay frozen if they were
    (``requires_grad_(False)``); learned scales go on learning.  A correction of biases
    that the recipe asks for is where the biases start.  Dropout is left out.

    Args:
        model: as for ``quantize``; its weights are where training starts, and stay as
            they are.
        batches: as for ``quantize``.
        recipe: as for ``quantize``.  With ``Scheme(bits=1)``, weights are signs times
            their mean magnitude, as in XNOR-Net.
        scales: ``"fixed"``: those of calibration stay.  ``"observed"``: the ranges of
            weights are their smallest and largest values of the moment, those of values
            moving averages of these, also over all processes of `torch.distributed`.
            ``"lsq"``: the steps of weights and values are learned.  ``"lsq+"``: and so
            are the offsets of affine values.  ``"pact"``: the ends of ranges are learned
            for values that are never negative; other scales are fixed.
        start: where learned steps start: at those of calibration, or ``"lsq"``: at
            ``2 mean |v| / sqrt(Q_P)``, for values on the first batch (for
            ``scales="lsq"`` alone).
        freeze_norms_after: so many forward passes in training; None: never.  Batch norms
            then use their running statistics.
        freeze_ranges_after: so many forward passes in training; None: never.  Observed
            ranges then stay.
        progress: show a bar on stderr.

    Returns:
        The model in training mode, on the device of ``model``.

    Raises:
        ValueError: as for ``quantize``; for other settings than these; for rounding
            other than to even.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3; Krishnamoorthi 2018, arXiv
    1806.08342, section 3.2 (batch norm).  Chapter: *Training with quantization*.

    >>> from quantcourse import data, models
    >>> images, labels, _ = data.digits("train")
    >>> net = prepare(models.load("mlp"), [images[:256]], progress=False)
    >>> loss = functional.cross_entropy(net(images[:32]), labels[:32])
    >>> loss.backward()
    >>> convert(net).size()
    52846
    """
    if isinstance(model, TrainableModel):
        raise ValueError("model: need a network in floats, got one that is in training")
    one_of(scales, get_args(Scales), "scales")
    one_of(start, get_args(Start), "start")
    for name, after in (
        ("freeze_norms_after", freeze_norms_after),
        ("freeze_ranges_after", freeze_ranges_after),
    ):
        if after is not None:
            integer(after, 0, 2**63 - 1, name)
    if start == "lsq" and scales != "lsq":
        raise ValueError(f'start: "lsq" needs scales="lsq", got {scales!r}')
    quantized = quantize(model, batches, recipe, progress)
    # The same nodes, but with their batch norms.
    worked_out = plan(quantized.recipe, trace(copied(model).float()))
    _check_rounding(worked_out)
    graph = worked_out.graph
    _take_biases(quantized, graph)
    grids = {n: _value_grid(q, scales) for n, q in quantized.quantizers.items()}
    for node in graph.layers():
        scheme = worked_out.weights.get(node.name)
        grid = None
        if scheme is not None:
            grid = _weight_grid(scheme, quantized.weights[node.name].qp, scales)
        _wrap(graph, node, grid, grids)
    _leave_relus_to(grids, graph)
    net = TrainableModel(
        graph, quantized, grids, freeze_norms_after, freeze_ranges_after
    )
    if start == "lsq":
        net.restart()
    return net.train()


def _check_rounding(worked_out: Plan) -> None:
    schemes = [*worked_out.weights.values(), *worked_out.activations.values()]
    for scheme in schemes:
        if scheme.rounding != "even":
            raise ValueError(
                f'recipe: need rounding="even" in training, got {scheme.rounding!r}'
            )


@torch.no_grad()
def _take_biases(quantized: QuantizedModel, graph: Graph) -> None:
    """Give the network what the recipe's correction of biases added to them."""
    if not quantized.recipe.bias_correction or quantized.measured_on is None:
        return
    exact, _ = quantized.measured_on
    for name in quantized.weights:
        node = graph[name]
        layer: Any = graph.layer(node)
        before: Any = exact.layer(node).bias
        after: Any = quantized.graph.layer(node).bias
        shift = after - (0.0 if before is None else before)
        norms = norms_of(node, graph)
        owner: Any = graph.module.get_submodule(norms[0]) if norms else layer
        bias = 0.0 if owner.bias is None else owner.bias
        # Of its own, since layers may share one that was corrected twice.
        owner.bias = nn.Parameter(bias + shift)


def _wrap(
    graph: Graph, node: Node, grid: Grid | None, grids: Mapping[str, Grid]
) -> None:
    """Put a layer and its batch norm behind a grid for its weight, if it has one."""
    norm = None
    for name in norms_of(node, graph):
        norm = graph.module.get_submodule(name)
        graph.module.set_submodule(name, nn.Identity())
    source = graph[node.inputs[0]].scale_of if node.integer else None
    before = None if source is None else grids[source]
    layer = TrainableLayer(graph.layer(node), norm, grid, before)
    graph.module.set_submodule(str(node.layer), layer)


def _leave_relus_to(grids: Mapping[str, Grid], graph: Graph) -> None:
    """Take out each ReLU in front of a grid that begins at zero, which clips alike."""
    for name in _relus(grids, graph).values():
        graph.module.set_submodule(name, nn.Identity())


def _relus(grids: Mapping[str, Grid], graph: Graph) -> dict[str, str]:
    """By node, the dotted names of the ReLUs in front of such grids."""
    calls = {call.name: call for call in graph.module.graph.nodes}
    # What floats compute meets its grid only where integers read it.
    return {
        name: str(calls[graph[name].parts[-1]].target)
        for name, grid in grids.items()
        if graph[name].integer
        and graph[name].activation == "relu"
        and grid.begins_at_zero
    }


def _weight_grid(scheme: Scheme, qp: QParams, scales: Scales) -> Grid:
    """The grid of a weight, whose groups, if any, are rows."""
    if scheme.binary:
        return SignGrid(scheme, qp.axis if qp.group_size is None else 0)
    if qp.group_size is not None:
        scale, zero_point = qp.scale.flatten(), qp.zero_point.flatten()
        qp = QParams(scale, zero_point, qp.dtype, axis=0)
    if scales == "observed":
        return ObservedGrid(scheme, qp, rate=1.0)
    if scales in ("lsq", "lsq+"):
        return LearnedGrid(scheme, qp, of_weights=True)
    return FixedGrid(scheme, qp)


def _value_grid(quantizer: Quantizer, scales: Scales) -> Grid:
    """The grid of a value."""
    scheme, qp = quantizer.scheme, quantizer.qp
    if qp is None:
        return DynamicGrid(quantizer)
    if scales == "observed":
        kind, *numbers = scheme.observer.split()
        rate = float(numbers[0]) if kind == "moving" and numbers else AVERAGING
        return ObservedGrid(scheme, qp, rate)
    if scales == "lsq" or (scales == "lsq+" and scheme.symmetric):
        return LearnedGrid(scheme, qp, of_weights=False)
    if scales == "lsq+":
        return LearnedOffsetGrid(scheme, qp)
    from_zero = bool((qp.zero_point == scheme.dtype.min).all())
    if scales == "pact" and from_zero and qp.axis is None:
        return ClippedGrid(scheme, qp)
    return FixedGrid(scheme, qp)


# --- The model --------------------------------------------------------------------


class TrainableLayer(nn.Module):
    """A layer with weights, the batch norm behind it, and the grid of its weight.

    Args:
        layer: as torch has it.
        norm: a batch norm, or None.
        grid: of the folded weight; None for weights that stay floats.
        before: the grid of the values that the layer reads, if they have one.

    Source: Krishnamoorthi 2018, arXiv 1806.08342, section 3.2.2.
    Chapter: *Training with quantization*.
    """

    first_factor: Tensor | None

    def __init__(
        self,
        layer: nn.Module,
        norm: nn.Module | None,
        grid: Grid | None,
        before: Grid | None,
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.grid = layer, norm, grid
        # One scale for all of a weight can't go along with each output's factor.
        apart = norm is not None and grid is not None and grid.axis is not None
        self.register_buffer("first_factor", self._factor().abs() if apart else None)
        # In a tuple, since it is a part of the model, not of this layer.
        self.before = (before,)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer gives of its arguments, with its weight on the grid."""
        if self.norm is None or not self.norm.training:
            # In training, time counts for more than the last bit.
            precision = torch.float32 if self.training else torch.float64
            weight, bias = self.folded(precision)
            stretch = self.stretch
            on_grid = self.on_grid(weight, stretch)
            if bias is not None:
                bias = self.bias_on_grid(bias, weight, stretch, precision)
            return self._called(on_grid, bias, args, kwargs)
        # The codes are those of the folded weight; the factor is there for them alone.
        weight = outputs_first(self.layer)
        factor = self._factor()
        if self.first_factor is not None:
            # The grid stretches with the factor, so both may stay as they were.
            factor = self.first_factor.copysign(factor)
        factor = factor.view(-1, *[1] * (weight.dim() - 1))
        weight = self.on_grid(weight * factor) / factor
        own: Any = self.layer.bias
        return self.norm(self._called(weight, own, args, kwargs))

    def folded(
        self, precision: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor | None]:
        """Weight, outputs first, and bias with running statistics in them, in float32."""
        weight, bias = outputs_first(self.layer), self.layer.bias
        if self.norm is None:
            return weight, bias  # type: ignore[return-value]
        wide, shift = folded(weight.to(precision), bias, self.norm)  # type: ignore[arg-type]
        return wide.to(weight.dtype), shift.to(weight.dtype)

    def _factor(self) -> Tensor:
        """``gamma / sigma`` with the running sigma, for each output; 1 in place of 0."""
        with torch.no_grad():
            factor = norm_factor(self.norm)
            return torch.where(factor == 0, 1.0, factor).to(torch.float32)

    @property
    def stretch(self) -> Tensor | None:
        """How many times as large as at the start ``|gamma / sigma|`` is, for each output.

        The scale of the folded weight goes along with it.  Then what a batch norm does to
        the size of a channel changes no code.  None without a batch norm, and where
        outputs share a scale.
        """
        if self.first_factor is None:
            return None
        return self._factor().abs() / self.first_factor

    def on_grid(self, weight: Tensor, stretch: Tensor | None = None) -> Tensor:
        """A weight, outputs first, on its grid, or on one that is stretched."""
        if self.grid is None:
            return weight
        rows = self.rows(weight)
        if stretch is not None and len(stretch) < len(rows):
            stretch = stretch.repeat_interleave(len(rows) // len(stretch))
        result: Tensor = self.grid(rows, stretch).view_as(weight)
        return result

    def rows(self, weight: Tensor) -> Tensor:
        """A weight, outputs first, with one index of axis 0 for each scale, if many."""
        group = self.grid.scheme.granularity  # type: ignore[union-attr]
        return weight if isinstance(group, str) else weight.reshape(-1, group)

    def bias_on_grid(
        self,
        bias: Tensor,
        weight: Tensor,
        stretch: Tensor | None,
        precision: torch.dtype,
    ) -> Tensor:
        """The folded bias as its codes will have it: multiples of ``s_x s_w``."""
        (before,) = self.before
        if before is None or before.varies or self.grid is None:
            return bias
        if isinstance(self.grid.scheme.granularity, int):
            return bias
        of_weight = self.grid.step(weight, stretch)
        step = before.step(bias).to(precision) * of_weight.to(precision)
        # Where weights are tiny, codes would leave INT32; conversion widens the grid too.
        least = bias.detach().abs().to(precision) / MOST_BIAS
        step = torch.maximum(step, least).clamp(min=SMALLEST_NORMAL)
        on_grid = applied(StraightThrough, bias.to(precision), step.detach(), *INT32)
        return on_grid.to(bias.dtype)

    def codes(self) -> tuple[Tensor, QParams]:
        """The codes of the folded weight, and what they stand for, if it has a grid."""
        weight, _ = self.folded()
        grid: Any = self.grid
        scheme, qp = grid.scheme, grid.qp
        if qp is None:
            return weight_codes(weight, scheme)
        scale, zero_point, axis, size = qp.scale, qp.zero_point, qp.axis, None
        if isinstance(scheme.granularity, int):
            weight, axis, size = weight.flatten(1), 1, scheme.granularity
            scale, zero_point = (t.view(len(weight), -1) for t in (scale, zero_point))
        if self.stretch is not None:
            scale = scale * self.stretch.view(-1, *[1] * (scale.dim() - 1))
        qp = QParams(scale, zero_point, qp.dtype, axis, size)
        return codes_on(weight, qp, scheme), qp

    def _called(
        self, weight: Tensor, bias: Tensor | None, args: Any, kwargs: Any
    ) -> Any:
        weight = as_layer_has_it(weight, self.layer)
        like: Any = self.layer.weight
        if weight.stride() != like.stride() and like.dim() == 4:
            # Of one input channel, arithmetic forgets that the layer is channels_last,
            # and with it the order of all that comes behind.
            weight = weight.clone(memory_format=torch.channels_last)
        own = {"weight": weight, "bias": bias}
        return functional_call(self.layer, own, args, kwargs)  # type: ignore[arg-type]


class TrainableModel(nn.Module):
    """A network that computes on grids, with weights in floats that learn.

    ``prepare`` makes it; any loop can train it.  In evaluation mode it computes what the
    model that ``convert`` gives will, but for the rounding of biases to codes.  Its
    ``state_dict`` has all that training changes, with the number of steps done.

    Attributes:
        steps: forward passes in training mode so far.

    Raises:
        ValueError: from a forward pass, for NaN or infinity in the inputs; for a learned
            scale that is no longer positive and finite.

    Chapter: *Training with quantization*: ``prepare`` has an example.
    """

    def __init__(
        self,
        graph: Graph,
        quantized: QuantizedModel,
        grids: Mapping[str, Grid],
        freeze_norms_after: int | None,
        freeze_ranges_after: int | None,
    ) -> None:
        super().__init__()
        self.graph, self.recipe = graph, quantized.recipe
        self.measured_on = quantized.measured_on
        self.network = graph.module
        self.grids = Modules(grids)
        self.freeze_norms_after = freeze_norms_after
        self.freeze_ranges_after = freeze_ranges_after
        self.steps = 0
        layers, values = self.layers().items(), self.grids.items()
        by_place = [
            *((f"weight of {graph[n].label}", layer.grid) for n, layer in layers),
            *((f"values of {graph[n].label}", grid) for n, grid in values),
        ]
        self._learning = [(p, g) for p, g in by_place if isinstance(g, RelativeGrid)]

    def forward(self, *inputs: Any) -> Any:
        """What the network gives, with weights and values on their grids.

        Args:
            inputs: as the network takes them.

        Returns:
            What the network returns, in float32.
        """
        given = inputs_of(inputs)
        for x in given:
            if isinstance(x, Tensor) and x.is_floating_point():
                finite_floats(x, "inputs")
        self._check_scales()
        if self.training:
            self._freeze()
        outputs = self.graph.run(given, self.step)
        self.steps += self.training
        return outputs

    def _check_scales(self) -> None:
        for place, grid in self._learning:
            check(grid, place)

    def step(self, node: Node, values: Values) -> Any:
        """The value of one node, on grids where integers will be."""
        return on_grids(self.graph, self.grids, node, values)

    def scales(self) -> list[nn.Parameter]:
        """What grids learn: of steps and ends of ranges ``ln(s / s_0)``, with s_0 where they
        started; offsets in starting steps.

        Chapter: *Learned quantization parameters*.

        >>> net = prepare(nn.Linear(2, 1), [torch.eye(2)], scales="lsq", progress=False)
        >>> [tuple(scale.shape) for scale in net.scales()]
        [(1,), (), ()]
        """
        return [scale for _, grid in self._learning for scale in grid.parameters()]

    def parameter_groups(
        self,
        learning_rate: float,
        scale_learning_rate: float | None = None,
        weight_decay: float = 0.0,
    ) -> list[dict[str, Any]]:
        """All parameters, for an optimizer; learned scales apart, without decay.

        Args:
            learning_rate: of weights, biases and batch norms.
            scale_learning_rate: of learned scales; None: the same.  Since their
                logarithms learn, a step of Adam moves a scale by about that part of
                it, and an offset by that part of a step.
            weight_decay: of all but learned scales.

        Chapter: *Learned quantization parameters*.

        >>> net = prepare(nn.Linear(2, 1), [torch.eye(2)], scales="lsq", progress=False)
        >>> optimizer = AdamW(net.parameter_groups(1e-3, weight_decay=1e-4))
        >>> len(optimizer.param_groups)
        2
        """
        number(learning_rate, 0, math.inf, "learning_rate")
        number(weight_decay, 0, math.inf, "weight_decay")
        rate = learning_rate if scale_learning_rate is None else scale_learning_rate
        number(rate, 0, math.inf, "scale_learning_rate")
        learned = self.scales()
        apart = {id(scale) for scale in learned}
        others = [p for p in self.parameters() if id(p) not in apart]
        groups = [{"params": others, "lr": learning_rate, "weight_decay": weight_decay}]
        if learned:
            groups.append({"params": learned, "lr": rate, "weight_decay": 0.0})
        return groups

    @torch.no_grad()
    def restart(self) -> None:
        """Start learned steps where LSQ's authors do: ``2 mean |v| / sqrt(Q_P)``.

        For weights, and for values as the network in floats has them on the first batch.

        Source: Esser et al. 2020, arXiv 1902.08153, section 2.1.
        Chapter: *Learned quantization parameters*: see ``prepare``.
        """
        for layer in self.layers().values():
            if isinstance(layer.grid, LearnedGrid):
                weight, _ = layer.folded()
                if layer.stretch is not None:
                    weight = layer.grid.along(1 / layer.stretch, weight) * weight
                layer.grid.restart(layer.rows(weight))
        if self.measured_on is None:
            return
        exact, batch = self.measured_on
        for node, value in exact.walk(batch):
            grid = dict(self.grids.items()).get(node.name)
            if isinstance(grid, LearnedGrid):
                grid.restart(value)

    def layers(self) -> dict[str, TrainableLayer]:
        """By node, the layers whose weights have a grid."""
        found: dict[str, Any] = {
            n.name: self.graph.layer(n) for n in self.graph.layers()
        }
        return {name: layer for name, layer in found.items() if layer.grid is not None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        need_float32(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def train(self, mode: bool = True) -> Self:
        """As of any module; but what is frozen stays in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def settings(self) -> dict[str, Any]:
        """What ``prepare`` was told, as plain data."""
        kinds = [type(m).__name__ for m in self.modules() if isinstance(m, Grid)]
        return {
            "recipe": str(self.recipe),
            "grids": " ".join(kinds),
            "freeze_norms_after": self.freeze_norms_after,
            "freeze_ranges_after": self.freeze_ranges_after,
        }

    def _freeze(self) -> None:
        for after, kind in (
            (self.freeze_norms_after, _BatchNorm),
            (self.freeze_ranges_after, ObservedGrid),
        ):
            if after is not None and self.steps >= after:
                for module in self.modules():
                    if isinstance(module, kind):
                        module.eval()

    def get_extra_state(self) -> dict[str, int]:
        """What ``state_dict`` has beside tensors."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Undo ``get_extra_state``."""
        self.steps = int(state["steps"])
        self.train(self.training)


# --- To integers ------------------------------------------------------------------


@torch.no_grad()
def convert(trainable: TrainableModel) -> QuantizedModel:
    """The model of integers that a network was trained to be.

    Batch norms are folded with their running statistics, weights become codes on the
    grids they learned for, values get the scales they had in training.

    Args:
        trainable: made by ``prepare``, in any mode; it is not changed, and can be trained
            on.

    Returns:
        The same kind of model as `quantcourse.ptq.quantize` gives; its report compares
        with the trained weights in floats.

    Raises:
        ValueError: for another object; for weights that are no longer finite.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3.
    Chapter: *Training with quantization*.

    >>> net = prepare(nn.Sequential(nn.Linear(2, 1)), [torch.eye(2)], progress=False)
    >>> quantized = convert(net)
    >>> torch.equal(quantized(torch.eye(2)), net.eval()(torch.eye(2)))
    True
    """
    if not isinstance(trainable, TrainableModel):
        raise ValueError(
            f"trainable: need what prepare gives, got a {type(trainable).__name__}"
        )
    trainable._check_scales()
    exact = copy.deepcopy(trainable.graph)
    exact.module.eval().requires_grad_(False)
    made = {}
    for node in exact.layers():
        layer: Any = exact.layer(node)
        weight, bias = layer.folded()
        finite_floats(weight, f"trainable: weight of {node.label}")
        if layer.grid is not None:
            made[node.name] = (*layer.codes(), layer.grid.scheme)
        plain = layer.layer
        plain.weight = nn.Parameter(as_layer_has_it(weight, plain), requires_grad=False)
        if bias is not None:
            finite_floats(bias, f"trainable: bias of {node.label}")
            plain.bias = nn.Parameter(bias, requires_grad=False)
        exact.module.set_submodule(str(node.layer), plain)
    for name in _relus(dict(trainable.grids.items()), exact).values():
        exact.module.set_submodule(name, nn.ReLU())
    fold_into_layers(exact)
    quantizers = {}
    for name, grid in trainable.grids.items():
        quantizers[name] = Quantizer(grid.scheme, grid.qp, grid.axis)
    batch = trainable.measured_on and trainable.measured_on[1]
    graphs = exact, copy.deepcopy(exact)
    return assembled(graphs, trainable.recipe, made, quantizers, batch)


# --- Training ---------------------------------------------------------------------


def train(
    trainable: TrainableModel,
    images: Tensor,
    labels: Tensor,
    epochs: int = 3,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    scale_learning_rate: float | None = None,
    weight_decay: float = 1e-4,
    teacher: Callable[[Tensor], Tensor] | None = None,
    temperature: float = 2.0,
    teacher_share: float = 0.5,
    seed: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_every: int = 100,
    progress: bool = True,
) -> list[float]:
    """Train a classifier of images on its grids, with AdamW and a cosine schedule.

    For other losses, inputs or optimizers write a loop: the model is an ordinary module.

    The loss is cross entropy.  With a teacher it is ``(1 - c) CE + c T**2 KL(p || q)``, with
    the teacher's probabilities p and the student's q, both at temperature T.

    With a checkpoint, a run that was interrupted goes on where the file says, and ends
    with the same weights as one that was not: the file has all that matters, and the
    order of images follows from ``seed`` alone.  (Of random numbers, for a teacher that
    draws some, it has the state of the CPU's.)

    Args:
        trainable: made by ``prepare``; trained in place, and left in evaluation mode.
        images: all inputs, one index of axis 0 for each.
        labels: int64, as many.
        epochs: how often each image is seen, but for the incomplete last batch of an
            epoch, which is left out; other images each time.
        batch_size: images in a step; all if there are fewer.
        learning_rate: at the start.
        scale_learning_rate: of learned scales, as a part of each; None: the same.
        weight_decay: of all but learned scales.
        teacher: gives scores of images; a module in evaluation mode, for example.
        temperature: T, above 0.
        teacher_share: c, from 0 to 1.
        seed: of the order of images.
        checkpoint: a file to go on from, if it exists, and to write.
        checkpoint_every: steps between two writings.
        progress: show a bar on stderr.

    Returns:
        The loss of each step.

    Raises:
        ValueError: for other types, shapes and numbers; for a loss that is not finite;
            for a checkpoint of a training with other settings.

    Source: Hinton et al. 2015, arXiv 1503.02531, section 2 (the teacher).
    Chapter: *Training with quantization*.

    >>> from quantcourse import data, models
    >>> images, labels, _ = data.digits("train")
    >>> recipe = Recipe(Scheme(2, granularity="channel"), None)
    >>> net = prepare(models.load("mlp"), [], recipe, progress=False)
    >>> losses = train(net, images[:1024], labels[:1024], epochs=5, progress=False)
    >>> len(losses), sum(losses[-8:]) < sum(losses[:8])
    (40, True)
    """
    rate, decay = learning_rate, weight_decay
    rate_of_scales = rate if scale_learning_rate is None else scale_learning_rate
    settings = {
        "epochs": integer(epochs, 1, 2**31, "epochs"),
        "batch_size": integer(batch_size, 1, 2**31, "batch_size"),
        "learning_rate": number(rate, 0, math.inf, "learning_rate"),
        "scale_learning_rate": number(
            rate_of_scales, 0, math.inf, "scale_learning_rate"
        ),
        "weight_decay": number(decay, 0, math.inf, "weight_decay"),
        "temperature": number(temperature, 1e-6, math.inf, "temperature"),
        "teacher_share": number(teacher_share, 0, 1, "teacher_share"),
        "seed": integer(seed, 0, 2**31, "seed"),
        "images": _count(trainable, images, labels),
        "teacher": teacher is not None,
    }
    settings |= trainable.settings()
    every = integer(checkpoint_every, 1, 2**31, "checkpoint_every")
    path = None if checkpoint is None else _path(checkpoint)
    _check_teacher(teacher)
    _check_scores(trainable, images, labels, teacher)
    device = next(trainable.parameters()).device
    optimizer = AdamW(trainable.parameter_groups(rate, rate_of_scales, decay))
    batches = max(1, len(images) // batch_size)
    total = epochs * batches
    schedule = LambdaLR(optimizer, lambda t: (1 + math.cos(math.pi * t / total)) / 2)
    losses: list[float] = []
    parts = trainable, optimizer, schedule
    if path is not None and path.exists():
        losses = _resume(path, parts, settings)
    trainable.train()
    bar = tqdm(desc="training", total=total, initial=len(losses), disable=not progress)
    with bar:
        for chosen in _order(settings, batches, start=len(losses)):
            x, y = images[chosen].to(device), labels[chosen].to(device)
            scores = trainable(x)
            loss = functional.cross_entropy(scores, y)
            if teacher is not None:
                taught = _distillation(scores, teacher, x, temperature)
                loss = (1 - teacher_share) * loss + teacher_share * taught
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise ValueError(
                    f"learning_rate: the loss became {losses[-1]} in step "
                    f"{len(losses)}; need a smaller one than {learning_rate}"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            at_end = len(losses) == total
            if path is not None and (at_end or len(losses) % every == 0):
                _save(path, parts, settings, losses)
    trainable.eval()
    return losses


def _distillation(
    scores: Tensor, teacher: Callable[[Tensor], Tensor], x: Tensor, temperature: float
) -> Tensor:
    """``T**2 KL(p || q)``, the mean over images."""
    with torch.no_grad():
        wanted = finite_floats(teacher(x), "teacher: its scores")
    q = functional.log_softmax(scores / temperature, dim=-1)
    p = functional.log_softmax(wanted / temperature, dim=-1)
    kl = functional.kl_div(q, p, reduction="batchmean", log_target=True)
    return temperature**2 * kl


def _order(settings: Mapping[str, Any], batches: int, start: int) -> Iterator[Tensor]:
    """The images of each step, from step ``start`` on."""
    generator = torch.Generator().manual_seed(settings["seed"])
    for epoch in range(settings["epochs"]):
        shuffled = torch.randperm(settings["images"], generator=generator)
        done = min(max(0, start - epoch * batches), batches)
        yield from torch.split(shuffled, settings["batch_size"])[done:batches]


Parts = tuple[TrainableModel, AdamW, LambdaLR]


def _save(
    path: Path, parts: Parts, settings: Mapping[str, Any], losses: list[float]
) -> None:
    """Write a checkpoint so that there is a whole one at any time."""
    model, optimizer, schedule = parts
    state = {
        "settings": dict(settings),
        "losses": losses,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "chance": torch.get_rng_state(),
    }
    file = io.BytesIO()
    torch.save(state, file)
    content = file.getvalue()
    # Beside it, since a file is replaced at once within one file system alone.
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(sha256(content).digest() + content)
    os.replace(unfinished, path)


def _resume(path: Path, parts: Parts, settings: Mapping[str, Any]) -> list[float]:
    """Take up the state of a checkpoint; the losses so far."""
    model, optimizer, schedule = parts
    try:
        data = path.read_bytes()
        digest, content = data[:32], data[32:]
        if sha256(content).digest() != digest:
            raise ValueError("it is damaged, or no checkpoint")
        file = io.BytesIO(content)
        state = torch.load(file, map_location="cpu", weights_only=True)
        before, losses = dict(state["settings"]), list(state["losses"])
    except Exception as error:  # a damaged file may break anything
        raise ValueError(f"checkpoint: can't read {path}: {error}") from error
    if before != settings:
        changed = [key for key in settings if before.get(key) != settings[key]]
        raise ValueError(
            f"checkpoint: need the settings of {path}, got another "
            + ", ".join(f"{k} ({settings[k]}, was {before.get(k)})" for k in changed)
        )
    own = copy.deepcopy(model.state_dict())
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["chance"])
    except Exception as error:  # likewise
        model.load_state_dict(own)
        raise ValueError(f"checkpoint: {path} is of another model: {error}") from error
    return losses


def _path(checkpoint: object) -> Path:
    """Where to write, refused before there is anything to lose."""
    if not isinstance(checkpoint, str | PathLike):
        raise ValueError(f"checkpoint: need a path, got {checkpoint!r}")
    path = Path(checkpoint)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"checkpoint: need a file in a folder that exists, got {path}")
    return path


def _check_teacher(teacher: object) -> None:
    if teacher is not None and not callable(teacher):
        raise ValueError(f"teacher: need a network, got {teacher!r}")
    if isinstance(teacher, nn.Module) and teacher.training:
        raise ValueError("teacher: need evaluation mode, call eval() first")


@torch.no_grad()
def _check_scores(
    trainable: TrainableModel,
    images: Tensor,
    labels: Tensor,
    teacher: Callable[[Tensor], Tensor] | None,
) -> None:
    """Try one image before training changes anything."""
    x = images[:1].to(next(trainable.parameters()).device)
    mode = trainable.training
    try:
        scores = trainable.eval()(x)
    except RuntimeError as error:
        raise ValueError(f"images: the network can't take them: {error}") from error
    finally:
        trainable.train(mode)
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores)
        raise ValueError(
            f"trainable: need scores of shape (images, classes), got {got}"
        )
    if int(labels.max()) >= scores.shape[1]:
        raise ValueError(
            f"labels: need classes from 0 to {scores.shape[1] - 1}, which the network "
            f"has, got {int(labels.max())}"
        )
    if teacher is not None:
        wanted = dense(teacher(x), "teacher: its scores")
        if wanted.shape != scores.shape:
            raise ValueError(
                f"teacher: need scores of shape {tuple(scores.shape)}, got "
                f"{tuple(wanted.shape)}"
            )


def _count(trainable: object, images: Tensor, labels: Tensor) -> int:
    """How many images there are, refusing what can't be trained on."""
    if not isinstance(trainable, TrainableModel):
        raise ValueError(
            f"trainable: need what prepare gives, got a {type(trainable).__name__}"
        )
    if not any(p.requires_grad for p in trainable.parameters()):
        raise ValueError("trainable: need a parameter that learns, all are frozen")
    count = len(finite_floats(images, "images"))
    labels = dense(labels, "labels")
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError(
            f"labels: need int64 of shape ({count},), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if int(labels.min()) < 0:
        raise ValueError(f"labels: need at least 0, got {int(labels.min())}")
    return count
