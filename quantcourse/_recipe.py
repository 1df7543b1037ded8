"""Recipes: how a network shall be quantized, layer by layer where it matters.

Public names are those of `quantcourse.ptq`, which carries recipes out.
"""

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, get_args

import tomli_w

from quantcourse import calibrate
from quantcourse._checks import integer, one_of, shown
from quantcourse.affine import INT2_NARROW, IntType, QParams, Rounding
from quantcourse.calibrate import Observer
from quantcourse.graph import WEIGHTED, Graph, Node

SIGNS = INT2_NARROW
"""What signs are kept as: its codes -1 and 1, without 0."""


@dataclass(frozen=True)
class Scheme:
    """How one kind of tensor is quantized.

    Args:
        bits: 1 to 16.
        symmetric: whether the grid is centred on zero.  With one bit, which leaves no
            code for zero, it is the sign times the mean magnitude (weights alone, and no
            observer is used).
        signed: whether codes are.
        granularity: one scale for the ``"tensor"``, one for each ``"channel"``, or one
            for each group of so many inputs of an output (weights alone).
        observer: what chooses the range: ``"minmax"``, ``"moving"``, ``"percentile"``,
            ``"entropy"``, ``"mse"``, ``"admm"``; with a number of its own where it takes
            one: ``"percentile 99.9"``, ``"moving 0.1"``.
        rounding: as for ``affine.quantize``; ``"stochastic"`` for weights alone, since
            a value must have the same code whenever it is read.  It draws from torch's
            own generator: ``torch.manual_seed`` makes it repeatable.
        dynamic: whether the range is that of each batch, measured when the network runs
            (activations alone); then ``observer`` is not used.

    Raises:
        ValueError: for any other value.

    Chapter: *Post-training quantization*.

    >>> Scheme(bits=4, observer="mse").dtype
    INT4
    """

    bits: int = 8
    symmetric: bool = True
    signed: bool = True
    granularity: str | int = "tensor"
    observer: str = "minmax"
    rounding: Rounding = "even"
    dynamic: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", integer(self.bits, 1, 16, "bits"))
        for name in ("symmetric", "signed", "dynamic"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name}: need True or False, got {value!r}")
        if isinstance(self.granularity, str):
            one_of(self.granularity, ("tensor", "channel"), "granularity")
        else:
            integer(self.granularity, 1, 2**31 - 1, "granularity")
        one_of(self.rounding, get_args(Rounding), "rounding")
        if self.binary and not self.signed:
            raise ValueError("signed: need True for signs, symmetric codes of one bit")
        self.watcher(None)

    @property
    def binary(self) -> bool:
        """Whether codes are signs, -1 and 1.

        Source: Rastegari et al. 2016, XNOR-Net, arXiv 1603.05279, section 3.1.
        """
        return self.symmetric and self.bits == 1

    @property
    def dtype(self) -> IntType:
        """The integers that codes are taken from."""
        return SIGNS if self.binary else IntType(self.bits, self.signed)

    def watcher(self, axis: int | None) -> Observer:
        """A new observer of this kind.

        Args:
            axis: the axis of channels, or None.

        Raises:
            ValueError: for an unknown observer.

        Chapter: *Calibration*.

        >>> Scheme(observer="percentile 99.9").watcher(None)
        Percentile(p=99.9, bins=2048, axis=None)
        """
        name, *numbers = self.observer.split() if isinstance(self.observer, str) else ""
        kinds: dict[str, Callable[..., Observer]] = {
            "minmax": calibrate.MinMax,
            "moving": calibrate.MovingAverageMinMax,
            "percentile": calibrate.Percentile,
            "entropy": calibrate.Entropy,
            "mse": calibrate.MSE,
            "admm": calibrate.ADMM,
        }
        takes_one = name in ("moving", "percentile")
        try:
            if name not in kinds or len(numbers) > takes_one:
                raise ValueError
            return kinds[name](*map(float, numbers), axis=axis)
        except ValueError as error:
            raise ValueError(
                f"observer: need one of {', '.join(kinds)}, or moving and percentile "
                f'with a number, as in "percentile 99.9", got {shown(self.observer)} '
                f"{error}".rstrip()
            ) from error

    def qparams(self, observer: Observer) -> QParams:
        """Scale and zero point for what an observer of this kind has seen.

        Thresholds that depend on the number of codes are chosen for those that
        magnitudes have here: half of all where values have both signs.

        Args:
            observer: made by ``watcher``.

        Raises:
            ValueError: if it has seen no values.

        Chapter: *Calibration*.

        >>> import torch
        >>> scheme = Scheme(symmetric=False, signed=False)
        >>> observer = scheme.watcher(None).observe(torch.tensor([0.0, 2.55]))
        >>> round(float(scheme.qparams(observer).scale), 4)
        0.01
        """
        if isinstance(observer, calibrate.Entropy | calibrate.MSE | calibrate.ADMM):
            low, _ = observer.extremes()
            one_sided = not self.signed and not (low < 0).any()
            codes_of_magnitudes = 1 << self.bits - (not one_sided)
            # A histogram can't tell more levels apart than it has bins.
            levels = min(max(2, codes_of_magnitudes), observer.bins)
            observer = observer.with_levels(levels)
        return observer.qparams(self.dtype, self.symmetric)


WEIGHTS = Scheme(granularity="channel")
ACTIVATIONS = Scheme(symmetric=False, signed=False)


@dataclass(frozen=True)
class Override:
    """What is different for some layers.

    Args:
        layers: a pattern such as ``"features.*"`` for the labels that `Graph.table`
            shows, or the name of a class of layers or of an operation: ``"Linear"``,
            ``"add"``.
        keep_float: whether they compute in float; None: as the rest of the recipe says.
        weights: those fields of the scheme of their weights that differ.
        activations: those fields of the scheme of the values they compute that differ.

    Raises:
        ValueError: for other types, or a field that a scheme does not have.

    Chapter: *Selective quantization*.

    >>> Override("classifier.*", weights={"bits": 8})
    Override('classifier.*', weights={'bits': 8})
    """

    layers: str
    keep_float: bool | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    activations: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.layers, str) or not self.layers:
            raise ValueError(f"layers: need a name or a pattern, got {self.layers!r}")
        if not isinstance(self.keep_float, bool | None):
            raise ValueError(
                f"keep_float: need True, False or None, got {self.keep_float!r}"
            )
        for name in ("weights", "activations"):
            changes = getattr(self, name)
            known = {f.name for f in fields(Scheme)}
            if not isinstance(changes, Mapping) or not known.issuperset(changes):
                raise ValueError(
                    f"{name}: need a dict with some of {', '.join(sorted(known))}, "
                    f"got {changes!r}"
                )
            object.__setattr__(self, name, dict(changes))

    def matches(self, node: Node, graph: Graph) -> bool:
        """Whether it is about this node.

        Chapter: *Selective quantization*.

        >>> from torch import nn
        >>> from quantcourse.graph import trace
        >>> graph = trace(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)))
        >>> [node.label for node in graph.nodes if Override("1").matches(node, graph)]
        ['1']
        """
        kind = type(graph.layer(node)).__name__ if node.layer else ""
        return self.layers in (kind, node.op) or fnmatchcase(node.label, self.layers)

    def __repr__(self) -> str:
        changed = [f"{k}={v!r}" for k, v in self.changes().items() if k != "layers"]
        return f"Override({', '.join([repr(self.layers), *changed])})"

    def changes(self) -> dict[str, Any]:
        """Its fields, without those that change nothing.

        Chapter: *Selective quantization*.

        >>> Override("head", keep_float=True).changes()
        {'layers': 'head', 'keep_float': True}
        """
        return {k: v for k, v in asdict(self).items() if v not in (None, {})}


FirstLast = Literal["alike", "8 bits", "float"]


@dataclass(frozen=True)
class Recipe:
    """How a network shall be quantized.

    Args:
        weights: the scheme of weights, None to leave them float.
        activations: the scheme of all other values, None to leave them float.
        overrides: what is different for some layers; a later one wins.
        first_last: the layers with weights next to the input and to the output:
            ``"alike"``; ``"8 bits"`` for their weights, the values they read and what
            the last of them computes; or ``"float"``.  Overrides win over it.
        bias_correction: whether biases shall make up for the shift that the rounding
            of weights brings, measured on the batches.

    Raises:
        ValueError: for other types and values.

    Chapter: *Post-training quantization*.

    >>> print(Recipe.preset("w4a8"))
    first_last = "8 bits"
    bias_correction = true
    <BLANKLINE>
    [weights]
    bits = 4
    symmetric = true
    signed = true
    granularity = "channel"
    observer = "mse"
    rounding = "even"
    dynamic = false
    <BLANKLINE>
    [activations]
    bits = 8
    symmetric = false
    signed = false
    granularity = "tensor"
    observer = "minmax"
    rounding = "even"
    dynamic = false
    """

    weights: Scheme | None = WEIGHTS
    activations: Scheme | None = ACTIVATIONS
    overrides: tuple[Override, ...] = ()
    first_last: FirstLast = "alike"
    bias_correction: bool = False

    def __post_init__(self) -> None:
        for name in ("weights", "activations"):
            if not isinstance(value := getattr(self, name), Scheme | None):
                raise ValueError(f"{name}: need a Scheme or None, got {value!r}")
            if value is not None:
                _check_scheme(value, name)
        overrides = tuple(self.overrides)
        if not all(isinstance(o, Override) for o in overrides):
            raise ValueError(f"overrides: need Override objects, got {overrides!r}")
        for name in ("weights", "activations"):
            changing = [o.layers for o in overrides if getattr(o, name)]
            if changing and getattr(self, name) is None:
                raise ValueError(
                    f"overrides: need a scheme of {name} to change for {changing[0]!r}, "
                    "but the recipe leaves them float"
                )
        object.__setattr__(self, "overrides", overrides)
        one_of(self.first_last, get_args(FirstLast), "first_last")
        if not isinstance(self.bias_correction, bool):
            raise ValueError(
                f"bias_correction: need True or False, got {self.bias_correction!r}"
            )

    @classmethod
    def preset(cls, name: str) -> Self:
        """A recipe by name.

        - ``"naive"``: INT8 for all, one scale a tensor, symmetric, largest magnitude.
        - ``"int8"``: as engines on CPUs like it: weights INT8 with a scale for each
          channel, activations affine UINT8.
        - ``"w4a8"``: weights of 4 bits on ranges of least squared error, but 8 at both
          ends; biases corrected.
        - ``"hybrid"``: as ``"int8"``, but both ends in float.

        Args:
            name: one of these.

        Raises:
            ValueError: for another name.

        Chapter: *Post-training quantization*.

        >>> Recipe.preset("naive").weights.granularity
        'tensor'
        """
        presets: dict[str, dict[str, Any]] = {
            "naive": {"weights": Scheme(), "activations": Scheme()},
            "int8": {},
            "w4a8": {
                "weights": replace(WEIGHTS, bits=4, observer="mse"),
                "first_last": "8 bits",
                "bias_correction": True,
            },
            "hybrid": {"first_last": "float"},
        }
        one_of(name, tuple(presets), "name")
        return cls(**presets[name])

    def kept_float(self, *layers: str) -> Self:
        """This recipe, with more layers left in float.

        Args:
            layers: names or patterns, as for ``Override``.

        Chapter: *Selective quantization*.

        >>> Recipe().kept_float("head").overrides
        (Override('head', keep_float=True),)
        """
        more = tuple(Override(name, keep_float=True) for name in layers)
        return replace(self, overrides=(*self.overrides, *more))

    def __str__(self) -> str:
        record: dict[str, Any] = {
            "first_last": self.first_last,
            "bias_correction": self.bias_correction,
        }
        for name in ("weights", "activations"):
            if (scheme := getattr(self, name)) is not None:
                record[name] = asdict(scheme)
            else:
                record[name] = "float"
        record = dict(
            sorted(record.items(), key=lambda item: isinstance(item[1], dict))
        )
        if self.overrides:
            record["overrides"] = [o.changes() for o in self.overrides]
        return tomli_w.dumps(record).strip()

    def save(self, path: str | PathLike[str]) -> None:
        """Write the recipe as a TOML file.

        Raises:
            OSError: if it can't be written.

        Chapter: *Post-training quantization*.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     Recipe.preset("w4a8").save(f"{folder}/recipe.toml")
        ...     Recipe.load(f"{folder}/recipe.toml") == Recipe.preset("w4a8")
        True
        """
        Path(path).write_text(f"{self}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a recipe from a TOML file; what the file leaves out is the default.

        Raises:
            OSError: if it can't be read.
            ValueError: if it holds anything but a recipe.

        Chapter: *Post-training quantization*: see ``save`` for an example.
        """
        try:
            return cls.parse(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"path: need a text file, got {path}: {error}") from error

    @classmethod
    def parse(cls, text: str) -> Self:
        r"""The recipe that a TOML text describes.

        Raises:
            ValueError: if it is anything but a recipe.

        Chapter: *Post-training quantization*.

        >>> Recipe.parse('[weights]\nbits = 4').weights.bits
        4
        """
        try:
            record = tomllib.loads(text)
            _check_keys(record, cls, "a recipe")
            for name, default in (("weights", WEIGHTS), ("activations", ACTIVATIONS)):
                given = record.get(name, {})
                if given != "float":
                    _check_keys(given, Scheme, f"[{name}]")
                record[name] = None if given == "float" else replace(default, **given)
            overrides = record.pop("overrides", [])
            for override in overrides:
                _check_keys(override, Override, "[[overrides]]")
            made = tuple(Override(**o) for o in overrides)
            return cls(**record, overrides=made)
        except (TypeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"text: need a recipe in TOML, got {error}") from error


def _check_keys(record: Any, kind: type, where: str) -> None:
    """Refuse a part of a recipe with keys that it does not have."""
    keys = [f.name for f in fields(kind)]
    if not isinstance(record, dict):
        raise ValueError(f"text: need a table for {where}, got {record!r}")
    if unknown := [key for key in record if key not in keys]:
        raise ValueError(
            f"text: need keys of {where} ({', '.join(keys)}), got {unknown[0]!r}"
        )


def recipe_of(recipe: Recipe | str) -> Recipe:
    """A recipe, or the preset of this name."""
    chosen = Recipe.preset(recipe) if isinstance(recipe, str) else recipe
    if not isinstance(chosen, Recipe):
        raise ValueError(
            f"recipe: need a Recipe or the name of a preset, got {chosen!r}"
        )
    return chosen


def recipes_of(recipes: Sequence[Recipe | str], name: str) -> list[Recipe]:
    """Several of them."""
    if isinstance(recipes, str | Recipe) or not isinstance(recipes, Iterable):
        raise ValueError(
            f"{name}: need a list of recipes, got {recipes!r}; put a single one in a list"
        )
    return [recipe_of(recipe) for recipe in recipes]


@dataclass(frozen=True)
class Plan:
    """A recipe worked out for one network."""

    graph: Graph
    weights: dict[str, Scheme]  # of the layers with codes for weights, by node
    activations: dict[str, Scheme]  # of the values with a quantizer of their own


def plan(recipe: Recipe, graph: Graph) -> Plan:
    """Which node computes how.

    Raises:
        ValueError: for an override that nothing in the network answers to; for two
            that together make no scheme.
    """
    first, last = _ends(graph)
    overrides = {
        node.name: [o for o in recipe.overrides if o.matches(node, graph)]
        for node in graph.nodes
    }

    def keeps(node: Node) -> bool:
        said = [o.keep_float for o in overrides[node.name] if o.keep_float is not None]
        at_end = recipe.first_last == "float" and node.name in first | last
        return said[-1] if said else at_end

    kept = {node.name for node in graph.nodes if node.op != "input" and keeps(node)}
    placed = graph.placed(kept, weights_only=recipe.activations is None)
    for override in recipe.overrides:
        _check_matches(override, graph, placed)

    def scheme(kind: str, base: Scheme, node: Node, at_end: bool) -> Scheme:
        eight = at_end and recipe.first_last == "8 bits"
        changes: dict[str, Any] = {"bits": 8} if eight else {}
        for override in overrides[node.name]:
            changes |= getattr(override, kind)
        try:
            changed = replace(base, **changes)
            _check_scheme(changed, kind)
        except ValueError as error:
            raise ValueError(f"overrides: for {node.label}, {error}") from error
        return changed

    read = {name for end in first | last for name in graph[end].inputs}
    ends = {placed[name].scale_of for name in read} | last
    weights, activations = {}, {}
    for node in placed.nodes:
        if recipe.weights and node.op in WEIGHTED and node.name not in kept:
            at_end = node.name in first | last
            weights[node.name] = scheme("weights", recipe.weights, node, at_end)
        if recipe.activations and node.quantizer:
            at_end = node.name in ends
            activations[node.name] = scheme(
                "activations", recipe.activations, node, at_end
            )
    return Plan(placed, weights, activations)


def _check_scheme(scheme: Scheme, kind: str) -> None:
    """Refuse what makes sense for the other kind alone."""
    if kind == "weights" and scheme.dynamic:
        raise ValueError("weights: need a static scheme, weights never change")
    if kind == "activations" and scheme.binary:
        raise ValueError(
            "activations: need at least 2 bits for a symmetric grid; of one bit, "
            "symmetric=False, signed=False gives 0 and one step"
        )
    if kind == "activations" and not isinstance(scheme.granularity, str):
        raise ValueError(
            'activations: need granularity "tensor" or "channel", got groups of '
            f"{scheme.granularity}"
        )
    if kind == "activations" and scheme.rounding == "stochastic":
        raise ValueError(
            "activations: need a rounding that gives a value the same code whenever it "
            'is read, got "stochastic"'
        )


def _check_matches(override: Override, graph: Graph, placed: Graph) -> None:
    """Refuse an override that changes nothing, probably for a slip in its pattern."""
    matched = [node for node in graph.nodes if override.matches(node, graph)]
    if not matched:
        raise ValueError(
            f"overrides: {override.layers!r} matches nothing in this network, which "
            f"has {', '.join(n.label for n in graph.nodes if n.op != 'shape')}"
        )
    labels = ", ".join(node.label for node in matched)
    if override.weights and not any(node.op in WEIGHTED for node in matched):
        raise ValueError(
            f"overrides: {override.layers!r} changes weights, but {labels} has none"
        )
    own = any(node.quantizer or placed[node.name].quantizer for node in matched)
    if override.activations and not own:
        raise ValueError(
            f"overrides: {override.layers!r} changes activations, but {labels} has no "
            "quantizer of its own"
        )


def _ends(graph: Graph) -> tuple[set[str], set[str]]:
    """The layers with weights that are the first to see an input, and the last."""

    def nearest(seen: set[str], nodes: Iterable[Node], forward: bool) -> set[str]:
        found = set()
        for node in nodes:
            touched = seen.intersection(node.inputs) if forward else {node.name} & seen
            if not touched:
                continue
            if node.op in WEIGHTED:
                found.add(node.name)
            elif node.op not in ("shape", "constant"):
                seen.update([node.name] if forward else node.inputs)
        return found

    inputs = {node.name for node in graph.inputs}
    outputs = {node.name for node in graph.nodes if node.op == "output"}
    return nearest(inputs, graph.nodes, True), nearest(
        outputs, graph.nodes[::-1], False
    )
