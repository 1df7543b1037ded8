"""The scripts of the chapter *Scaling out*: what two processes find and train is what all of them have, and for the
counts what one process finds.
"""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import scaling_processes
from quantcourse import calibrate, data, models, ptq, qat

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, there is none")

# Three batches, the last one short: two for the first process, one for the second.
UNEQUAL = ["--images", "150", "--batch", "64"]
# One batch: the second process has none.
NOTHING = ["--images", "40", "--batch", "64"]
FEW = ["--images", "512", "--batch", "64"]  # two epochs of eight steps
FEWER = ["--images", "512", "--batch", "128", "--epochs", "1"]


def script(name):
    """An example as a module, without running it."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shards = script("calibrate_shards")


def run(processes, name, *arguments):
    """What a script prints, started by itself or by torchrun."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [*start, str((EXAMPLES / name).with_suffix(".py")), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def calibrated(folder):
    """What a run has saved, by name."""
    return {path.name: calibrate.load(path) for path in sorted(folder.iterdir())}


def assert_alike(mine, other):
    """The same names, and of each the same settings, count, ends, and counts of bins of the same width."""
    assert mine.keys() == other.keys()
    for name, observer in mine.items():
        them = other[name]
        assert repr(observer) == repr(them)
        assert observer.count == them.count, name
        counted = isinstance(observer, calibrate.HistogramObserver)
        for what in ("extremes", "histogram")[: 1 + counted]:
            for a, b in zip(getattr(observer, what)(), getattr(them, what)(), strict=True):
                assert torch.equal(a, b), f"{what} of {name}"


def assert_same_tensors(mine, other):
    """Two models with the same codes, scales and biases, bit by bit."""
    mine, other = mine.state_dict(), other.state_dict()
    assert mine.keys() == other.keys()
    assert [name for name, t in mine.items() if not torch.equal(t, other[name])] == []


@pytest.fixture(autouse=True)
def settings_of_torch():
    """What the scripts set for their process, and here for all tests after them."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    cudnn.allow_tf32, cudnn.deterministic = before


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """A folder with all that two processes print and save."""
    folder = tmp_path_factory.mktemp("two")
    shard, train = (str(EXAMPLES / f"{name}.py") for name in ("calibrate_shards", "train_qat_ddp"))
    cpu = ["--device", "cpu"]
    lines = {
        "unequal": [shard, *UNEQUAL, *cpu, "--folder", str(folder / "unequal"), "--save", str(folder / "quantized")],
        "nothing": [shard, *NOTHING, *cpu, "--folder", str(folder / "nothing")],
        "observed": [train, *FEW, *cpu, "--scales", "observed", "--save", str(folder / "trained")],
        "lsq": [train, *FEWER, *cpu, "--scales", "lsq"],
        "lsq+": [train, *FEWER, *cpu, "--scales", "lsq+"],
    }
    (folder / "lines").write_text(json.dumps(lines))
    run(2, scaling_processes.__file__, folder, folder / "lines")
    assert all((folder / f"{name} 1").read_text() == "" for name in lines)  # one process speaks for all
    return folder


def here(monkeypatch, *arguments):
    """Calibrate in this process."""
    monkeypatch.setattr(sys, "argv", ["calibrate_shards.py", *UNEQUAL, "--device", "cpu", *map(str, arguments)])
    shards.main()


def job(monkeypatch, folder, *arguments):
    here(monkeypatch, "--folder", folder, "--job", *arguments)


@pytest.fixture
def alone(monkeypatch, tmp_path, capsys):
    """What one process prints and saves."""
    here(monkeypatch, "--folder", tmp_path / "alone")
    return capsys.readouterr().out, tmp_path / "alone"


def test_two_processes_count_what_one_counts(alone, two_processes):
    printed, folder = alone
    both = (two_processes / "unequal 0").read_text()
    assert printed.startswith("1 process, 150 images in 3 batches\n")
    assert both.startswith("2 processes, 150 images in 3 batches\n")
    assert both.splitlines()[1:] == printed.splitlines()[1:]  # with the digest of all counts and ranges
    assert_alike(calibrated(two_processes / "unequal"), calibrated(folder))


def test_a_process_without_images_takes_part(two_processes, monkeypatch, tmp_path, capsys):
    here(monkeypatch, *NOTHING, "--folder", tmp_path / "one")
    both = (two_processes / "nothing 0").read_text()
    assert both.splitlines()[1:] == capsys.readouterr().out.splitlines()[1:]
    assert_alike(calibrated(two_processes / "nothing"), calibrated(tmp_path / "one"))


def test_two_processes_quantize_as_one(two_processes):
    """Merged observers give what ``ptq.quantize`` gives of all batches, watched where it watches."""
    batches = data.digits("train")[0][:150].split(64)
    alone = ptq.quantize(models.load("mobile"), batches, progress=False)
    assert_same_tensors(ptq.QuantizedModel.load(two_processes / "quantized"), alone)
    names = {name.rpartition(" ")[0] for name in calibrated(two_processes / "unequal")}
    assert names == {alone.graph[name].label for name in alone.quantizers}


def test_jobs_that_never_talk(alone, monkeypatch, tmp_path, capsys):
    for number in (1, 2):
        for i in (3, 1, 0, 2):  # of four shards of three batches, the last has none
            job(monkeypatch, tmp_path, number, "--shard", f"{i}/4")
        last = ["--save", tmp_path / "quantized", "--ranges", "mse"] if number == 2 else []
        job(monkeypatch, tmp_path, number, "--merge", 4, *last)
    model = ptq.QuantizedModel.load(tmp_path / "quantized")
    for name, quantizer in model.quantizers.items():
        observer = calibrate.load(tmp_path / "pass 2" / f"{model.graph[name].label} mse")
        assert torch.equal(quantizer.scale, model.recipe.activations.qparams(observer).scale)
    assert capsys.readouterr().out.splitlines()[-1] == alone[0].splitlines()[-1]  # the digest
    assert_alike(calibrated(tmp_path / "pass 1") | calibrated(tmp_path / "pass 2"), calibrated(alone[1]))


def test_a_shard_is_neither_lost_nor_counted_twice(monkeypatch, tmp_path):
    job(monkeypatch, tmp_path, 1, "--shard", "0/2")
    with pytest.raises(SystemExit, match=r"pass 1, 1 of 2 is missing"):
        job(monkeypatch, tmp_path, 1, "--merge", 2)
    with pytest.raises(SystemExit, match=r"pass 1, 0 of 2 is there already"):
        job(monkeypatch, tmp_path, 1, "--shard", "0/2")
    with pytest.raises(SystemExit, match=r"pass 1 is missing"):
        job(monkeypatch, tmp_path, 2, "--shard", "0/2")
    # A shard of other data, and one that comes twice.
    job(monkeypatch, tmp_path, 1, "--shard", "1/2", "--images", 100)
    with pytest.raises(SystemExit, match=r"need 38400 values of the input, minmax has seen 31232"):
        job(monkeypatch, tmp_path, 1, "--merge", 2)
    shutil.rmtree(tmp_path / "pass 1, 1 of 2")
    shutil.copytree(tmp_path / "pass 1, 0 of 2", tmp_path / "pass 1, 1 of 2")
    with pytest.raises(SystemExit, match=r"need 38400 values of the input, minmax has seen 44032"):
        job(monkeypatch, tmp_path, 1, "--merge", 2)
    assert not (tmp_path / "pass 1").exists()


def test_half_a_folder_is_none(monkeypatch, tmp_path):
    """What broke off while it was written can be written anew."""
    found, save = seen([0]), calibrate.MinMax.save

    def full(observer, path):
        if any(tmp_path.rglob("* minmax")):
            raise OSError("disk full")
        save(observer, path)

    with monkeypatch.context() as broken:
        broken.setattr(calibrate.MinMax, "save", full)
        with pytest.raises(OSError, match="disk full"):
            shards.save(found, tmp_path / "pass 1")
    assert not (tmp_path / "pass 1").exists()
    shards.save(found, tmp_path / "pass 1")
    assert_alike(calibrated(tmp_path / "pass 1"), shards.flat(found))


def test_a_run_that_lost_a_batch_is_refused(monkeypatch):
    watch = shards.watch
    monkeypatch.setattr(shards, "watch", lambda graph, batches, observers: watch(graph, batches[1:], observers))
    with pytest.raises(SystemExit, match=r"^need 24576 values of the input, minmax has seen 16384$"):
        shards.together(GRAPH, BATCHES, 0, 1)


def test_every_process_computes_as_any_other(monkeypatch):
    """As many threads, and no shortcuts in the products."""
    torch.set_num_threads(2)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = True, False
    here(monkeypatch, *NOTHING)
    assert torch.get_num_threads() == 1
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == (False, True)


NETWORK = models.load("mlp")
GRAPH = ptq.float_network(NETWORK)
IMAGES = data.digits("train")[0]
BATCHES = IMAGES[:96].split(32)


def seen(which, ends=None):
    """Observers of the first or the second pass that have seen some of the batches."""
    observers = shards.first_pass(GRAPH) if ends is None else shards.second_pass(ends)
    shards.watch(GRAPH, [BATCHES[i] for i in which], observers)
    return observers


def test_a_digest_knows_every_end_and_every_count():
    """Observers of the same places, kinds and numbers of values that have seen other images."""
    ends = seen(range(3))
    one, again, other = seen([0], ends), seen([0], ends), seen([1], ends)
    assert shards.digest(one) == shards.digest(again) != shards.digest(other)
    assert shards.digest(seen([0])) != shards.digest(seen([1]))


def merged(first, *others):
    for other in others:
        for name, observer in shards.flat(first).items():
            observer.merge(shards.flat(other)[name])
    return first


def test_any_order_and_any_grouping():
    ends = seen(range(3))
    whole = seen(range(3), ends)
    assert sum(observer.count for observer in shards.flat(whole).values()) > 0
    for a, b, c in permutations(range(3)):
        for groups in ([[a, b, c]], [[a, b], [c]], [[a], [b], [], [c]]):
            assert_alike(shards.flat(merged(*map(seen, groups))), shards.flat(ends))
            parts = (seen(group, ends) for group in groups)
            assert_alike(shards.flat(merged(*parts)), shards.flat(whole))


def test_merged_observers_take_the_place_of_the_recipes():
    ends = merged(seen([2]), seen([0, 1]))
    found = merged(seen([1], ends), seen([0, 2], ends))
    found = {place: ends[place] | found[place] for place in ends}
    scales = set()
    for kind in ("minmax", *shards.HISTOGRAMS):
        model = shards.quantized(NETWORK, found, kind)
        for name, quantizer in model.quantizers.items():
            qp = model.recipe.activations.qparams(found[model.graph[name].label][kind])
            assert torch.equal(quantizer.scale, qp.scale)
            assert torch.equal(quantizer.zero_point, qp.zero_point)
        scales.add(tuple(float(quantizer.scale) for quantizer in model.quantizers.values()))
    assert len(scales) == 5  # each kind has ranges of its own
    minmax = shards.quantized(NETWORK, found, "minmax")
    assert_same_tensors(minmax, ptq.quantize(NETWORK, BATCHES, progress=False))


def test_observers_of_some_values_leave_the_others_to_the_batches():
    first, *_ = (node.label for node in GRAPH.nodes if node.quantizer)
    wide = calibrate.MinMax().observe(torch.tensor([-100.0, 100.0]))
    model = ptq.quantize(NETWORK, BATCHES, progress=False, observers={first: wide})
    alone = ptq.quantize(NETWORK, BATCHES, progress=False)
    for name, quantizer in model.quantizers.items():
        same = torch.equal(quantizer.scale, alone.quantizers[name].scale)
        assert same == (model.graph[name].label != first)


@pytest.mark.parametrize(
    ("observers", "message"),
    [
        ({"nowhere": calibrate.MinMax().observe(torch.ones(1))}, r"\['nowhere'\]: need labels of values"),
        ({"input": calibrate.MinMax()}, r"\['input'\]: MinMax: has seen no values"),
        ({"input": calibrate.MinMax(axis=1).observe(torch.ones(2, 3))}, r"\['input'\]: need granularity 'tensor'"),
        ({"input": (0.0, 1.0)}, r"\['input'\]: need an observer, got \(0.0, 1.0\)"),
    ],
)
def test_observers_that_do_not_fit_are_refused(observers, message):
    with pytest.raises(ValueError, match="observers" + message):
        ptq.quantize(NETWORK, BATCHES, progress=False, observers=observers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--job", "1"], "--job goes with --shard or --merge"),
        (["--shard", "0/2"], "--job goes with --shard or --merge"),
        (["--job", "1", "--merge", "2"], "--job needs a --folder, and no torchrun"),
        (["--job", "1", "--shard", "2/2"], "need I/N with I from 0 to N - 1, got '2/2'"),
        (["--save", "x", "--folder", "y", "--job", "2", "--shard", "0/2"], "--save goes with the merging of job 2"),
        (["--save", "x", "--folder", "y", "--job", "1", "--merge", "2"], "--save goes with the merging of job 2"),
        (["--images", "0"], "need a whole number above 0, got '0'"),
    ],
)
def test_what_the_command_line_refuses(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["calibrate_shards.py", *arguments])
    with pytest.raises(SystemExit):
        shards.settings()
    assert message in capsys.readouterr().err


def compared(printed):
    """What the script says of the parts of the network, for each epoch."""
    found = {}
    for epoch in printed.split("after epoch ")[1:]:
        for line in epoch.splitlines()[1:5]:
            *what, verdict, fingerprint = line.split()
            found[int(epoch[0]), " ".join(what)] = verdict, fingerprint
    return found


def test_processes_that_train_keep_one_network(two_processes):
    printed = (two_processes / "observed 0").read_text()
    assert "2 processes" in printed
    found = compared(printed)
    assert {part: verdict for part, (verdict, _) in found.items()} == {
        (1, "weights and biases"): "alike",
        (1, "scales and ranges"): "alike",
        (1, "running statistics"): "different",  # each norm saw its own share, and will be overruled
        (1, "steps"): "alike",
        (2, "weights and biases"): "alike",
        (2, "scales and ranges"): "alike",
        (2, "running statistics"): "alike",
        (2, "steps"): "alike",
    }
    assert [found[epoch, "steps"][1] for epoch in (1, 2)] == ["8", "16"]
    for what in ("weights and biases", "scales and ranges"):
        assert found[1, what][1] != found[2, what][1]  # it is not alike because nothing moved
    images, labels, _ = data.digits("test")
    trained = ptq.QuantizedModel.load(two_processes / "trained")
    percent = 100 * float((trained(images).argmax(1) == labels).double().mean())
    assert printed.splitlines()[-1].split() == f"trained {percent:.1f} % of the test images right".split()


@pytest.mark.parametrize("scales", ["lsq", "lsq+"])
def test_processes_learn_the_same_scales(scales, two_processes):
    """And running statistics, which all take from the first in each pass, once these are frozen."""
    found = compared((two_processes / f"{scales} 0").read_text())
    assert [verdict for verdict, _ in found.values()] == ["alike"] * 4


def test_one_process_trains_without_a_group(monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", ["train_qat_ddp.py", *FEW, "--epochs", "1", "--scales", "lsq+", "--device", "cpu"])
    script("train_qat_ddp").main()
    printed = capsys.readouterr().out
    assert "after epoch 1 of 1, in 1 process\n" in printed
    calibrated, trained = (float(line.split()[1]) for line in printed.splitlines()[-2:])
    assert calibrated + 5 < trained  # at two bits training is worth much


def test_rates_orders_and_freezing_of_the_script(monkeypatch):
    """A cosine over all steps, the same images in another order in each epoch, norms that stay after half of the steps
    and ranges after three quarters.
    """
    monkeypatch.syspath_prepend(EXAMPLES)
    line = ["--images", "128", "--batch", "32", "--epochs", "2", "--scales", "lsq", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["train_qat_ddp.py", *line])
    nets, rates, seen, prepare = [], [], [], qat.prepare

    def watched(*arguments, **options):
        net = prepare(*arguments, **options)
        net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0]) if net.training else None)
        nets.append(net)
        return net

    def step(optimizer, *_):
        rates.append([group["lr"] for group in optimizer.param_groups])

    monkeypatch.setattr(qat, "prepare", watched)
    hook = register_optimizer_step_pre_hook(step)
    try:
        script("train_qat_ddp").main()
    finally:
        hook.remove()
    (net,) = nets
    assert net.steps == len(rates) == len(seen) == 8
    for t, of_groups in enumerate(rates):
        assert of_groups == pytest.approx([1e-3 * (1 + math.cos(math.pi * t / 8)) / 2] * 2)
    first, second, images = (x.flatten(1).tolist() for x in (torch.cat(seen[:4]), torch.cat(seen[4:]), IMAGES[:128]))
    assert first != second and sorted(first) == sorted(second) == sorted(images)
    assert (net.freeze_norms_after, net.freeze_ranges_after) == (4, 6)


def test_a_batch_that_processes_can_not_share_is_refused(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", ["train_qat_ddp.py", "--batch", "65"])
    ddp = script("train_qat_ddp")
    with pytest.raises(SystemExit, match=r"^--batch: need a multiple of 2, the number of processes, got 65$"):
        ddp.train(ddp.settings(), 1, 2, torch.device("cpu"))


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_ranges_are_those_of_all_images(granularity, monkeypatch):
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    x[5], x[50] = -7, 9  # one end in each shard
    values = ptq.Scheme(symmetric=False, signed=False, granularity=granularity)
    recipe = ptq.Recipe(ptq.Scheme(granularity="channel"), values)

    def prepared():
        return qat.prepare(torch.nn.Linear(4, 2), [x[:8]], recipe, scales="observed", progress=False)

    start = prepared().state_dict()
    names = [f"grids.input_1.{part}" for part in ("low", "high", "scale", "zero_point")]

    def grid_of_input(images):
        net = prepared()
        net.load_state_dict(start)
        net(images)
        return [net.state_dict()[name] for name in names]

    def ends_of(images):
        axes = 0 if granularity == "channel" else (0, 1)
        return torch.stack([-images.amin(axes), images.amax(axes)])

    def reduced(ends, operation):
        """What two processes would find, of which the other has the second half of the images."""
        assert operation == torch.distributed.ReduceOp.MAX
        if torch.equal(ends, ends_of(x[:32])):
            torch.maximum(ends, ends_of(x[32:]), out=ends)

    whole = grid_of_input(x)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", reduced)
    assert all(map(torch.equal, grid_of_input(x[:32]), whole))


@pytest.mark.parametrize("scales", ["fixed", "observed", "lsq", "lsq+", "pact"])
def test_the_mean_of_gradients_is_the_gradient_of_all(scales):
    """With norms and ranges frozen, a process knows nothing of other images but what its gradient says."""
    images, labels, _ = data.digits("train")
    scheme = ptq.Scheme(2, symmetric=False, signed=False, observer="mse")
    recipe = ptq.Recipe(ptq.Scheme(2, granularity="channel", observer="mse"), scheme)
    frozen = {"freeze_norms_after": 0, "freeze_ranges_after": 0}
    net = qat.prepare(models.load("plain"), [images[:128]], recipe, scales=scales, progress=False, **frozen)

    def gradients(part):
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(images[part]), labels[part]).backward()
        return [p.grad.double() for p in net.parameters()]

    whole, first, second = (gradients(part) for part in (slice(64), slice(32), slice(32, 64)))
    for g, a, b in zip(whole, first, second, strict=True):
        assert float((g - (a + b) / 2).norm()) <= 1e-4 * float(g.norm())


@needs_cuda
def test_two_processes_on_cuda_count_what_one_counts(tmp_path):
    for processes in (1, 2):
        run(processes, "calibrate_shards", *UNEQUAL, "--device", "cuda", "--folder", tmp_path / str(processes))
    assert_alike(calibrated(tmp_path / "2"), calibrated(tmp_path / "1"))


@needs_cuda
@pytest.mark.parametrize("scales", ["observed", "lsq", "lsq+"])
def test_processes_on_cuda_keep_one_network(scales):
    found = compared(run(2, "train_qat_ddp", *FEW, "--scales", scales, "--device", "cuda"))
    assert {part for part, (verdict, _) in found.items() if verdict != "alike"} <= {(1, "running statistics")}
