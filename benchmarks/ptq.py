"""How much accuracy does one call cost, beside other tools that quantize after training?

One table, from one run:

    python benchmarks/ptq.py --seeds 5

The six networks of the course at 8, and at 4 bits for weights or for all values.  Everybody calibrates on the same 512
images and is judged on the same test images.  Recipes were chosen on validation images (``--validation``), with two
exceptions: that sums and scores get 8 bits at W4A4, and that biases are corrected at W8A8 too, was decided after a look at
test images.

- *quantcourse*: one recipe a setting for all networks, see ``OURS``.  At 4 bits for all values, what is added and what
  leaves the network has 8 where no layer multiplies it: no product gets wider, and ten scores on 16 steps would tie.
- *quantcourse, all alike*: without this exception.
- *quantcourse, 8-bit ends*: with 8 bits in the first and the last layer, as in the preset ``w4a8``.
- *ONNX Runtime*: ``quantize_static``, QDQ, per channel, UINT8 activations, ranges by MinMax, Entropy or Percentile.
- *torchao*: its PT2E flow with the X86 quantizer, weights per channel, values by histograms; for 4 bits the same with fewer
  codes.  It adds in float what a convolution gives to what comes from elsewhere, where the others put both on grids first.
- *brevitas*: its post-training flow on `torch.fx` as its own example runs it, per channel, ranges by its statistics or by
  squared error, then bias correction.

But for these exceptions everybody gives the same bits to every layer.  A tool that is not installed, or can't do a setting,
says so in its line; none is needed by the rest of the course: ``pip install onnx onnxruntime torchao brevitas``.

Columns: the accuracy lost, in points, the mean over ``--seeds`` trained networks of each kind, with the standard error of a
cluster bootstrap over the original images, and the worst seed.  ``ours - theirs``: what quantcourse keeps more, paired
image by image.  The last lines compare with the best peer of each line, which the course requires to be matched: less than
two standard errors behind.  The exit status is 1 if it is not so.
"""

import argparse
import contextlib
import copy
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from _paired import COLUMNS, columns, mean, quiet, right
from torch import Tensor, nn

from quantcourse import data, models
from quantcourse.graph import WEIGHTED, Graph, trace
from quantcourse.metrics import paired_difference
from quantcourse.ptq import Override, Recipe, Scheme, quantize

NETS = ("plain", "residual", "mobile", "multibranch", "mlp", "vit")
SETTINGS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}
WEIGHTS = Scheme(granularity="channel", observer="mse")
VALUES = Scheme(symmetric=False, signed=False, observer="mse")
OURS = {
    "W8A8": replace(Recipe.preset("int8"), bias_correction=True),
    "W4A8": replace(Recipe.preset("w4a8"), first_last="alike"),
    "W4A4": Recipe(replace(WEIGHTS, bits=4), replace(VALUES, bits=4), bias_correction=True),
}
Predict = Callable[[Tensor], Tensor]
Peer = Callable[[nn.Module, list[Tensor], int, int], Predict]


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Accuracy after post-training quantization: quantcourse and its peers."
    )
    parser.add_argument("--seeds", type=int, default=5, help="trained networks of each kind, 1 to 5 (default: 5)")
    parser.add_argument("--nets", nargs="+", default=NETS, choices=NETS, help="default: all")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), help="default: all")
    parser.add_argument(
        "--without", nargs="+", default=[], help='peers to leave out, such as "brevitas, mse", which is slow'
    )
    parser.add_argument("--validation", action="store_true", help="judge on validation images: for choosing recipes")
    options = parser.parse_args()
    if not 1 <= options.seeds <= 5:
        parser.error("need 1 to 5 seeds")
    torch.set_num_threads(1)
    quiet()
    images, _, _ = data.digits("train")
    batches = list(images[:512].split(64))
    judge = data.digits("validation" if options.validation else "test")

    heading = f"{'net':12}{'setting':9}{'who':28}{COLUMNS}"
    print(heading)
    print("-" * len(heading))
    behind = []
    for net in options.nets:
        floats = [right(model, judge) for model in (models.load(net, seed) for seed in range(options.seeds))]
        print(f"{net:12}{'float':9}{f'{100 * mean(floats).mean():.2f} % right':>44}")
        ours: list[Tensor] | str = []
        for setting in options.settings:
            best = None
            for who, found in results(net, setting, options.seeds, batches, judge, options.without):
                ours = found if who == "quantcourse" else ours
                start = f"{net:12}{setting:9}{who:28}"
                if isinstance(found, str):
                    print(f"{start}  {found[:80]}", flush=True)
                    continue
                print(start + columns(found, floats, ours, judge[2]), flush=True)
                if not who.startswith("quantcourse"):
                    best = max(best or (found, who), (found, who), key=lambda item: float(mean(item[0]).mean()))
            if best is not None:
                difference, error = paired_difference(mean(ours), mean(best[0]), judge[2])
                behind += [] if difference >= -2 * error else [f"{net} {setting}: {best[1]}"]
    print(f"\nMore than two standard errors behind the best peer: {', '.join(behind) or 'nowhere'}.")
    return 1 if behind else 0


def results(
    net: str,
    setting: str,
    seeds: int,
    batches: list[Tensor],
    judge: tuple[Tensor, Tensor, Tensor],
    without: Sequence[str],
) -> Iterator[tuple[str, list[Tensor] | str]]:
    """For each contender which images it has right, one tensor a seed, or why there is none."""
    bits = SETTINGS[setting]
    chosen = {who: c for who, c in contenders(setting).items() if not who.startswith(tuple(without))}
    for who, contender in chosen.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                found = [contender(models.load(net, seed), batches, *bits) for seed in range(seeds)]
                answers = [right(predict, judge) for predict in found]
            yield who, answers
        except Exception as error:  # a peer may raise anything
            reason = str(error).strip().splitlines() or [""]
            yield who, f"{type(error).__name__}: {reason[0]}"


def contenders(setting: str) -> dict[str, Peer]:
    ours = OURS[setting]
    return {
        "quantcourse": quantcourse_with(ours, wide_sums=setting == "W4A4"),
        **({"quantcourse, all alike": quantcourse_with(ours)} if setting == "W4A4" else {}),
        **(
            {}
            if setting == "W8A8"
            else {"quantcourse, 8-bit ends": quantcourse_with(replace(ours, first_last="8 bits"))}
        ),
        **{f"ONNX Runtime, {kind}": onnx_runtime_with(kind) for kind in ("MinMax", "Entropy", "Percentile")},
        "torchao": torchao,
        **{f"brevitas, {kind}": brevitas_with(kind) for kind in ("stats", "mse")},
    }


def quantcourse_with(recipe: Recipe, wide_sums: bool = False) -> Peer:
    def contender(model: nn.Module, batches: list[Tensor], weight_bits: int, value_bits: int) -> Predict:
        chosen = replace(recipe, overrides=wide_overrides(trace(model))) if wide_sums else recipe
        return quantize(model, batches, chosen, progress=False)

    return contender


def wide_overrides(graph: Graph) -> tuple[Override, ...]:
    """8 bits for what is added or leaves the network, and is factor of no product."""

    def scales(*ops: str) -> set[str]:
        read = [graph[name] for node in graph.nodes if node.op in ops for name in node.inputs]
        return {source.scale_of for source in read if source.scale_of is not None}

    wide = scales("add", "output") - scales(*WEIGHTED)
    return tuple(Override(graph[name].label, activations={"bits": 8}) for name in sorted(wide))


def onnx_runtime_with(kind: str) -> Peer:
    def peer(model: nn.Module, batches: list[Tensor], weight_bits: int, value_bits: int) -> Predict:
        import onnxruntime
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        from quantcourse.export import to_onnx

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.batches = iter(batches)

            def get_next(self) -> dict[str, object] | None:
                batch = next(self.batches, None)
                return None if batch is None else {name: batch.numpy()}

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            to_onnx(model, path / "float.onnx", batches[0])
            quant_pre_process(str(path / "float.onnx"), str(path / "prepared.onnx"))
            name = onnxruntime.InferenceSession(path / "prepared.onnx").get_inputs()[0].name
            quantize_static(
                path / "prepared.onnx",
                path / "int8.onnx",
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8 if value_bits == 8 else QuantType.QUInt4,
                weight_type=QuantType.QInt8 if weight_bits == 8 else QuantType.QInt4,
                calibrate_method=CalibrationMethod[kind],
            )
            session = onnxruntime.InferenceSession((path / "int8.onnx").read_bytes())
        return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])

    return peer


def torchao(model: nn.Module, batches: list[Tensor], weight_bits: int, value_bits: int) -> Predict:
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    config = x86.get_default_x86_inductor_quantization_config()
    values = replace(config.input_activation, quant_max=2**value_bits - 1)
    half = 2 ** (weight_bits - 1)
    weights = replace(config.weight, quant_min=-half, quant_max=half - 1)
    quantizer = x86.X86InductorQuantizer().set_global(
        replace(config, input_activation=values, output_activation=values, weight=weights)
    )
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (batches[0],), dynamic_shapes=({0: batch},))
    prepared = prepare_pt2e(program.module(), quantizer)
    for images in batches:
        prepared(images)
    return move_exported_model_to_eval(convert_pt2e(prepared))


def brevitas_with(kind: str) -> Peer:
    def peer(model: nn.Module, batches: list[Tensor], weight_bits: int, value_bits: int) -> Predict:
        from brevitas.graph.quantize import preprocess_for_quantize
        from brevitas_examples.imagenet_classification.ptq import ptq_common

        prepared = preprocess_for_quantize(copy.deepcopy(model), trace_model=True)
        quantized = ptq_common.quantize_model(
            prepared,
            backend="fx",
            weight_bit_width=weight_bits,
            act_bit_width=value_bits,
            bias_bit_width=32,
            weight_quant_granularity="per_channel",
            act_quant_percentile=99.999,
            act_quant_type="asym",
            scale_factor_type="float_scale",
            quant_format="int",
            weight_param_method=kind,
            act_param_method=kind,
        )
        labelled = [(images, None) for images in batches]
        ptq_common.calibrate(labelled, quantized)
        ptq_common.apply_bias_correction(labelled, quantized)
        return quantized.eval()

    return peer


if __name__ == "__main__":
    sys.exit(main())
