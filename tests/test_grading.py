"""The grader against broken and hostile submissions: each gets its row, none more points than its honest work earns."""

import contextlib
import csv
import gc
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import psutil
import pytest

from coursework import grade, kernel, referee, report, submissions, values
from coursework.jail import JailError, check, command
from coursework.journal import Journal

ROOT = Path(__file__).parents[1]
try:
    check()
    JAILED = True
except JailError:
    JAILED = False
jailed = pytest.mark.skipif(not JAILED, reason="needs bubblewrap: make test-grading")


def case(code, points, hidden):
    code = "".join(f">>> {line}\n" for line in code.splitlines())
    return {"code": code, "points": points, "hidden": hidden, "locked": False}


def question(name, *cases):
    suite = {"cases": list(cases), "scored": True, "setup": "", "teardown": "", "type": "doctest"}
    return {"name": name, "points": None, "suites": [suite]}


QUICK = referee.Limits(seconds=16)
SECRET = 271828
TOY = {
    "name": "toy",
    "answers": ["double", "answer", "spread"],
    "without": ["ml_dtypes"],
    "tests": {
        "q1": question(
            "q1",
            case("assert double(2) == 4, 'twice as much'", 1, False),
            case(f"assert type(double({SECRET})) is int and double({SECRET}) == {2 * SECRET}", 3, True),
        ),
        "q2": question("q2", case("assert answer in ('a', 'b')", 0, False), case("assert answer == 'b'", 2, True)),
        "q3": question(
            "q3",
            case(
                "import numpy as np\ny = spread(np.arange(3.0))\n"
                "assert isinstance(y, np.ndarray) and y.shape == (2,) and np.allclose(y, [0.0, 2.0])",
                4,
                True,
            ),
        ),
    },
}
DOUBLE = "def double(x):\n    return 2 * x"
ALL = [DOUBLE, "answer = 'b'", "import numpy as np\ndef spread(x):\n    return np.array([x.min(), x.max()])"]
LOOP = "while True:\n    pass"

# What each is in front of: a notebook with the first question right, the others wrong or missing: 4 points.
HONEST = 4.0
ATTACKS = {
    "endless loop": LOOP,
    "SystemExit": "raise SystemExit(0)",
    "_exit": "import os\nos._exit(0)",
    "50 GB": "x = bytearray(50 << 30)",
    "50 GB bit by bit": "x = []\nwhile True:\n    x.append(bytearray(1 << 26))",
    "disk fill": "with open('full', 'wb') as f:\n    while True:\n        f.write(bytes(1 << 20))",
    "many files": "import os\nfor i in range(100):\n    open(str(i), 'wb').write(bytes(1 << 24))",
    "huge output": "for i in range(20000):\n    print('x' * 10000)",
    "output by itself": "import os\nfor i in range(2000):\n    os.write(1, b'x' * 100000)",
    "SIGALRM ignored": f"import signal\nfor s in set(signal.Signals) - {{9, 19}}:\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n{LOOP}",
    "network": "import socket\nsocket.create_connection(('192.0.2.1', 80), 2)",
    "grader": "grader = None",
    "fake score": "print('{\"score\": 10}')\nprint('10 of 10 points')",
    "numpy.allclose": "import numpy\nnumpy.allclose = numpy.array_equal = lambda *a, **k: True\ndef spread(x):\n    return numpy.zeros(2)",
    "OKTestFile.run": "import otter.test_files\notter.test_files.OKTestFile.run = lambda *a: None",
    "DocTestRunner.run": "import doctest\ndoctest.DocTestRunner.run = lambda *a, **k: doctest.TestResults(0, 1)",
    "tests on disk": "import pathlib\nfor p in pathlib.Path('/').rglob('*autograder*'):\n    p.write_text('{}')",
    "files outside": f"raise Exception(open({__file__!r}).read())",
    "folder outside": f"import os\nraise Exception(os.listdir({os.path.dirname(__file__)!r}))",
    "home": "import os\nraise Exception(os.listdir('/root') + os.listdir('/home'))",
    "environment": "import os\nraise Exception([k for k in os.environ if k in ('USER', 'PYTHONPATH', 'VIRTUAL_ENV')][0])",
    "kills all": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "kills its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "the oracle": "import ml_dtypes\nSTOLEN = 1",
    "no UTF-8": "print(chr(0xD800))",
    "syntax": "def (:",
    "recursion": "def f(): f()\nf()",
    "crash": "import ctypes\nctypes.string_at(0)",
    "stolen channel": "import gc\nfor o in gc.get_objects():\n    if type(o).__name__ == 'Channel':\n        o.close()",
    "threads": "import threading\nfor i in range(1000):\n    threading.Thread(target=lambda: __import__('time').sleep(99)).start()",
}
# Answers that want to look right. At most the points of their honest rest.
EQUAL = "class Same({base}):\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n    __hash__ = None\n"
EQUAL += "    def __array__(self, *a, **k): return __import__('numpy').array([0.0, 2.0])\n    shape = (2,)\n"
LIES = {
    f"always equal {base}": EQUAL.format(base=base)
    + "answer = Same()\ndef double(x): return Same()\ndef spread(x): return Same()"
    for base in ("object", "int", "str", "float")
}
FRAMES = {
    "forged frames": "bytes([5, 0, 0, 0, 1, 0, 0, 0, 2]) + b'AB'",
    "huge frame": "bytes([5, 0, 0, 0, 1]) + b'\\x7f\\xff\\xff\\xff' + b'A' * (1 << 20)",
    "huge list": "bytes([5, 0, 0, 0, 1, 0, 0, 0, 6]) + b'K\\x7f\\xff\\xff\\xffQ'",
    "runs outside": "bytes([3, 0, 0, 0, 9, 0, 0, 0, 8]) + b'1/0;1/0;'",
    "ends the grader": "bytes([2, 0, 0, 0, 0, 0, 0, 0, 0])",
}


def frames(content):
    return f"import os\nfor f in range(3, 40):\n    try: os.write(f, {content})\n    except OSError: pass"


def notebook(*cells, **metadata):
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    node.metadata.update({"otter": {"assignment_name": "toy"}, **metadata})
    return nbformat.writes(node).encode(errors="surrogatepass")


WHOLE = notebook(*ALL)
FILES = {
    "correct": WHOLE,
    "blank": notebook("def double(x):\n    ...", "answer = ...", "def spread(x):\n    ..."),
    "wrong": notebook("def double(x):\n    return x + 3", "answer = 'a'", "def spread(x):\n    return x"),
    "partly": notebook(DOUBLE),
    "copied cells": notebook(*ALL, *ALL),
    "deleted cells": notebook(*ALL[1:]),
    "no cells": notebook(),
    "loops when called": notebook(*ALL[1:], f"def double(x):\n    {LOOP.replace(chr(10), chr(10) + '    ')}"),
    "exits when called": notebook(*ALL[1:], "def double(x):\n    import os\n    os._exit(0)"),
    "magics": notebook("%matplotlib inline\n!pip install x\n" + ALL[0], *ALL[1:]),
    "fork bomb": notebook("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", *ALL),
    "truncated": WHOLE[: len(WHOLE) // 2],
    "empty": b"",
    "binary": bytes(range(256)) * 50,
    "list": b"[1, 2, 3]",
    "deep": b"[" * 100_000,
    "other language": notebook("x <- 1", kernelspec={"name": "ir", "language": "R", "display_name": "R"}),
    "other assignment": notebook(*ALL, otter={"assignment_name": "toy2"}),
    "language no text": notebook(*ALL, kernelspec={"name": "x", "language": "\ud800" * 1000, "display_name": "x"}),
    "language no word": notebook(*ALL, kernelspec={"name": "x", "language": {"a": 1}, "display_name": "x"}),
    "source no text": notebook(*ALL).replace(b"2 * x", b"2 * x # \\ud800"),
    "too large": WHOLE + b" " * submissions.MOST_BYTES,
    "=cmd|' ,\"x": WHOLE,
}
FULL = ("correct", "copied cells", "magics", "fork bomb", "=cmd|' ,\"x")
NOTHING = ("blank", "wrong", "no cells", "truncated", "empty", "binary", "list", "deep", "other language")
NOTHING += ("other assignment", "language no text", "language no word", "too large")
NOTHING += ("a link", "two", "none", "text")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All of them graded at once, as an instructor would."""
    folder = tmp_path_factory.mktemp("class")
    hostile = {name: notebook(attack, DOUBLE, "answer = 'a'") for name, attack in ATTACKS.items()}
    hostile |= {name: notebook(frames(content), DOUBLE, "answer = 'a'") for name, content in FRAMES.items()}
    hostile |= {name: notebook(lie) for name, lie in LIES.items()}
    for name, content in (FILES | hostile).items():
        (folder / f"{name}.ipynb").write_bytes(content)
    (folder / "a link.ipynb").symlink_to(folder / "correct.ipynb")
    for name, count in (("alone", 1), ("two", 2), ("none", 0)):
        (folder / name).mkdir()
        for i in range(count):
            (folder / name / f"{i}.ipynb").write_bytes(WHOLE)
    (folder / "text.txt").write_text("I forgot")
    # What programs leave, not students.
    (folder / "alone" / ".ipynb_checkpoints").mkdir()
    (folder / "alone" / ".ipynb_checkpoints" / "0-checkpoint.ipynb").write_bytes(WHOLE)
    (folder / "__MACOSX").mkdir()
    (folder / ".DS_Store").write_bytes(b"x")
    out = tmp_path_factory.mktemp("grades") / "grades.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "load", lambda name: TOY)
        assert (
            grade.main([str(folder), "--assignment", "toy", "--out", str(out), "--jobs", "2", "--seconds", "16"]) == 0
        )
    with open(out, newline="") as file:
        rows = {row["file"].removesuffix(".ipynb"): row for row in csv.DictReader(file)}
    return folder, out, rows


def points(row):
    return float(row["score"])


def command_line(folder, out):
    """Two at a time, of the first homework."""
    options = ["--assignment", "hw1", "--out", str(out), "--jobs", "2"]
    return [sys.executable, "-m", "coursework.grade", str(folder), *options]


def journal(out):
    """The students in whole lines."""
    path = out.with_suffix(".journal")
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["row"]["student"] for line in lines if line.endswith(b"\n")]


def slow(count, seconds=1.0):
    """Submissions that take a while and do nothing else."""
    content = notebook(f"import time\ntime.sleep({seconds})\n{DOUBLE}", otter={})
    return {f"student {i}": content for i in range(count)}


@jailed
def test_each_has_its_row(run):
    folder, out, rows = run
    assert len(rows) == len(list(folder.iterdir())) - 2  # __MACOSX and .DS_Store
    with open(out, newline="") as file:
        assert [row["possible"] for row in csv.DictReader(file)] == ["10"] * len(rows)


@jailed
@pytest.mark.parametrize("name", FULL)
def test_full_points(run, name):
    (row,) = [row for file, row in run[2].items() if file.strip("'") == name.strip("'")]
    assert points(row) == 10 and row["status"] == "graded"


@jailed
@pytest.mark.parametrize("name", NOTHING)
def test_no_points(run, name):
    (row,) = [row for file, row in run[2].items() if file.removesuffix(".txt") == name]
    assert points(row) == 0


@jailed
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_its_cell_at_most(run, name):
    """The honest rest keeps its points, and nothing is added."""
    row = run[2][name]
    print(row)
    assert points(row) == HONEST
    assert "forgot" not in row["notes"] and "SECRET" not in row["notes"]


@jailed
@pytest.mark.parametrize("name", [*FRAMES, *LIES])
def test_a_lie_wins_nothing(run, name):
    row = run[2][name]
    print(row)
    assert points(row) <= (HONEST if name in FRAMES else 0)


@jailed
def test_a_call_that_never_ends_costs_its_question(run):
    for name in ("loops when called", "exits when called", "deleted cells", "source no text"):
        assert points(run[2][name]) == 6, run[2][name]
    assert points(run[2]["partly"]) == 4


@jailed
def test_feedback_tells_nothing_of_hidden_tests(run):
    _, out, rows = run
    files = list(out.with_name("grades_feedback").glob("*.md"))
    assert len(files) == len(rows)
    for file in files:
        text = file.read_text()
        assert str(SECRET) not in text and str(2 * SECRET) not in text and "np.arange" not in text
    told = (out.with_name("grades_feedback") / "wrong.md").read_text()
    assert "twice as much" in told and "of 1 further tests 0 passed" in told
    assert (out.with_name("grades_histogram.png")).stat().st_size > 1000
    assert "mean" in out.with_name("grades_summary.md").read_text()


@jailed
def test_what_hidden_tests_ask_is_not_told_later():
    """A function that remembers its arguments can say them in the error of another question."""
    spy = "seen = []\ndef double(x):\n    seen.append(x)\n    return 2 * x\ndef answer(): pass\n"
    spy += "def spread(x):\n    raise ValueError(f'{seen} {x}')"
    shown = TOY | {"tests": TOY["tests"] | {"q3": question("q3", case("spread(7)", 4, False))}}
    result = grade.judge([spy], shown, referee.Limits())
    assert [question["score"] for question in result["questions"]] == [4, 0, 0]
    assert "ValueError: [2] 7" in str(result) and str(SECRET) not in str(result)


PROBE = """
import ctypes, json, os, resource, socket, sys
def writes(path):
    try:
        open(path, "w").close()
        return True
    except OSError:
        return False
def size(path):
    return os.statvfs(path).f_blocks * os.statvfs(path).f_frsize
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
try:
    from ml_dtypes import float8_e4m3fn
except ImportError:
    float8_e4m3fn = None
print(json.dumps({
    "interfaces": [name for _, name in socket.if_nameindex()],
    "environment": sorted(os.environ),
    "names": socket.gethostname(),
    "folders": sorted(os.listdir("/")),
    "temporary": os.listdir("/tmp"),
    "processes": sorted(int(p) for p in os.listdir("/proc") if p.isdigit())[0],
    "writes": [p for p in ("/x", "/usr/x", "/dev/x", "/etc/x", sys.prefix + "/x", "/proc/sys/kernel/x") if writes(p)],
    "sizes": [size("/tmp") >> 20, size("/dev/shm") >> 20],
    "rights": [status[k].strip().strip("0") for k in ("CapEff", "CapPrm")],
    "no_new": status["NoNewPrivs"].strip(),
    "user": os.getuid(),
    "oracle": float8_e4m3fn is not None,
    "fixed": [bool(os.statvfs(path).f_flag & os.ST_RDONLY) for path in ("/", "/usr", "/dev", sys.prefix)],
}))
"""


@jailed
def test_the_walls(monkeypatch):
    """What is not there: network, files, environment, rights, other processes."""
    monkeypatch.setenv("SECRET_OF_THE_GRADER", "x")
    ended = subprocess.run([*command(["ml_dtypes"]), "-c", PROBE], capture_output=True, text=True, check=True)
    found = json.loads(ended.stdout)
    assert found["interfaces"] == ["lo"] and found["names"] == "jail"
    assert set(found["environment"]) - {"LC_CTYPE", "PWD"} == {
        *("PATH", "HOME", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
        *("PYTHONDONTWRITEBYTECODE", "MPLBACKEND"),
    }
    system = {"usr", "lib", "lib64", "bin", "etc", "proc", "dev", "tmp"}
    assert set(found["folders"]) <= system | {Path(p).parts[1] for p in (sys.prefix, sys.base_prefix)}
    assert found["temporary"] == [] or Path(sys.prefix).parts[1] == "tmp"
    assert found["processes"] == 1 and found["writes"] == [] and all(found["fixed"])
    assert found["sizes"][0] == 256 and found["sizes"][1] == 16
    assert found["no_new"] == "1" and found["rights"][0] == found["rights"][1] == ""
    assert found["user"] >= 200_000 if os.geteuid() == 0 else found["user"] == os.geteuid()
    assert not found["oracle"]
    environment = subprocess.run(
        [*command(), "-c", "print(open('/proc/1/environ').read())"], capture_output=True, text=True, check=False
    )
    assert "SECRET_OF_THE_GRADER" not in environment.stdout


def told(*cells, answers=(), without=(), **limits):
    """What a notebook says of the jail from within, by raising it."""
    assignment = {"name": "toy", "answers": list(answers), "without": list(without), "tests": {}}
    return grade.judge(list(cells), assignment, referee.Limits(seconds=16, **limits))


@jailed
def test_limits_that_no_cell_can_raise():
    names = ("AS", "CPU", "NPROC", "FSIZE", "NOFILE", "CORE")
    reading = f"import resource as r\nraise Exception([r.getrlimit(getattr(r, 'RLIMIT_' + n)) for n in {names}])"
    raising = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))"
    result = told(reading, raising, processes=30, memory=3 << 30)
    assert result["notes"] == [
        f"cell 1: Exception: {[(n, n) for n in (3 << 30, 17, 30, 256 << 20, 256, 0)]}",
        "cell 2: ValueError: not allowed to raise maximum limit",
    ]


@jailed
@pytest.mark.parametrize("call", ["memfd_create('x')", "unshare(0x10000000)", "setns(3)", "add_key"])
def test_calls_that_nobody_needs_are_refused(call):
    """Among them those that hold memory beyond all limits, or leave something behind."""
    number = {"memfd_create('x')": 319, "unshare(0x10000000)": 272, "setns(3)": 308, "add_key": 248}[call]
    if platform.machine() != "x86_64":
        number = {319: 279, 272: 97, 308: 268, 248: 217}[number]
    cell = f"import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nraise Exception(c.syscall({number}, 0, 0, 0), ctypes.get_errno())"
    thread = "import _thread, time\n_thread.start_new_thread(time.sleep, (0,))\nimport subprocess\nraise Exception(subprocess.call('/bin/true'))"
    assert told(cell, thread)["notes"] == ["cell 1: Exception: (-1, 1)", "cell 2: Exception: 0"]


def test_the_filter_knows_its_processor():
    for machine in kernel.PROCESSORS:
        lines = kernel.program(machine)
        assert lines[-1] == (kernel.RETURN, 0, 0, kernel.ALLOW)
        assert all(i + 1 + max(there, here) < len(lines) for i, (_, there, here, _) in enumerate(lines[:-1]))
    with pytest.raises(OSError, match="knows x86_64, aarch64, got abacus"):
        kernel.program("abacus")


@jailed
def test_what_notebooks_use_of_jupyter():
    """Magics do nothing but run code; a line that begins with a sign of arithmetic is none."""
    cells = submissions.cells_of(
        notebook(
            "%matplotlib inline\n!exit 3\nx = (17\n     % 5)\ntry:\n    import nowhere\nexcept ImportError:\n    !pip install nowhere",
            "%%time\ny = x + 1",
            "%time z = y + 1",
            "import otter\ngrader = otter.Notebook('toy.ipynb')\ngrader.check('q')\ngrader.check_all()\ndisplay(x)\nx?",
            "raise Exception((x, y, z))",
            "import ml_dtypes",
        ),
        "toy",
    )
    assert told(*cells, without=["ml_dtypes"])["notes"] == [
        "cell 5: Exception: (2, 3, 4)",
        "cell 6: ModuleNotFoundError: import of ml_dtypes halted; None in sys.modules",
    ]


REACH = "import sys\nf = sys._getframe()\nwhile 'serve' not in f.f_globals: f = f.f_back\n"


@jailed
@pytest.mark.parametrize("lie", ["[12345]", "[b'x']", "['x', 'y']", "'x'", "[['x']]"])
def test_forged_notes_cost_their_cell(lie):
    """What is no list of one text comes from no honest jail, and must not reach the table."""
    result = grade.judge([DOUBLE, "answer = 'b'", f"{REACH}f.f_globals['run'] = lambda *a: {lie}", "1"], TOY, QUICK)
    assert [q["score"] for q in result["questions"]] == [4, 2, 0]
    assert result["notes"] == ["cell 4: answered with what is no message"]


@jailed
def test_notes_have_an_end():
    result = told(f"{REACH}f.f_globals['run'] = lambda *a: ['x' * 10**7]", *["1"] * 50)
    assert len(result["notes"]) == referee.MOST_NOTES
    assert all(len(note) <= referee.MOST_TEXT for note in result["notes"])
    result = told("raise Exception('x' * 5000)", "a = ...", answers=["a"])
    assert result["notes"] == [f"cell 1: Exception: {'x' * 5000}"[: referee.MOST_TEXT], "a: not answered"]


@jailed
def test_a_note_of_a_later_jail_is_not_told():
    """Cells run again after a function that ended its process; what they say then may come from a hidden test."""
    clock = f"import time\nif time.time() > {time.time() + 4}: raise Exception('later')"
    leaving = "def double(x):\n    if x > 9:\n        import os, time\n        time.sleep(5)\n        os._exit(0)\n    return 2 * x"
    result = grade.judge([clock, leaving], TOY, referee.Limits(seconds=40))
    assert "later" not in str(result)
    assert result["notes"] == ["double: ended its own process, or wanted more memory than there is"]
    assert [q["score"] for q in result["questions"]] == [1, 0, 0]


@jailed
def test_too_many_jails():
    result = told(*["import os\nos._exit(0)"] * 6)
    assert result["status"] == "needs more than 4 jails"


@jailed
def test_time_is_over():
    result = grade.judge([DOUBLE, LOOP, LOOP, LOOP], TOY, referee.Limits(8))
    assert result["status"] == "took more than 8 s"
    assert result["seconds"] < 10 and result["final"] and result["notes"] == ["cell 2: took more than 4 s"]


@jailed
def test_processes_share_the_memory_of_one():
    """Six with 100 MB each, where 400 are allowed: none of them alone breaks a limit."""
    cell = "import os, time\nfor i in range(6):\n    if os.fork() == 0:\n        x = b'x' * (100 << 20)\n        time.sleep(9)\n        os._exit(0)\ntime.sleep(6)"
    result = told(cell, "raise Exception('alive')", memory=400 << 20)
    assert result["notes"] == [
        "cell 1: ended its own process, or wanted more memory than there is",
        "cell 2: Exception: alive",
    ]


@jailed
def test_processes_share_the_time_of_two():
    cell = "import os\nfor i in range(20):\n    if os.fork() == 0:\n        while True: pass"
    start = time.monotonic()
    result = told(cell, "import time\ntime.sleep(60)", processors=0.1)
    assert "ended its own process" in str(result["notes"])
    assert time.monotonic() - start < 16


@jailed
def test_answers_cross_as_they_are():
    """Of each kind, with type, dtype and shape; keywords and kinds of errors too."""
    names = {f"x{i}": value for i, value in enumerate(VALUES)}
    cells = ["import numpy as np\nimport torch", *(f"{name} = {value}" for name, value in names.items())]
    cells.append("def f(*args, **named):\n    return args, named")
    cells += [f"def g{i}():\n    raise {kind}('why')" for i, kind in enumerate(ERRORS)]
    exact = [f"assert same({name}, {value})" for name, value in names.items()]
    exact += [f"assert same(f({name}, k={name}), (({name},), {{'k': {name}}}))" for name in names]
    exact += [f"assert fails(g{i}) is {kind}" for i, kind in enumerate(ERRORS.values())]
    spec = question("q", {"points": 1, "hidden": True, "locked": False})
    spec["suites"][0]["cases"][0]["code"] = doctest_of(f"import numpy as np\nimport torch\n{SAME}\n" + "\n".join(exact))
    answers = [*names, "f", *(f"g{i}" for i in range(len(ERRORS)))]
    toy = {"name": "toy", "answers": answers, "without": [], "tests": {"q": spec}}
    result = grade.judge(cells, toy, referee.Limits())
    assert result["questions"][0]["score"] == 1, result
    assert not result["notes"]


VALUES = [
    *(
        "None",
        "True",
        "3",
        "-(1 << 31) - 1",
        "-(1 << 200)",
        "0.1",
        "float('nan')",
        "2 + 1j",
        "'text \u00fc'",
        "b'\\x00\\xff'",
    ),
    *("[1, [2.0, 'a']]", "(1, (2, ()))", "{1, 2}", "frozenset({3})", "{'a': [1], 2: (3,)}"),
    *("np.arange(6.0).reshape(2, 3)", "np.array([], dtype=np.int8)", "np.zeros((2, 0, 3), np.float16)"),
    *("np.array(3)", "np.float32(0.1)", "np.int64(-1)", "np.bool_(True)", "np.arange(5)[::-2]", "np.array([1j])"),
    *("torch.arange(6).reshape(2, 3)", "torch.tensor(0.5)", "torch.tensor([True])", "torch.zeros(2, 0)"),
    *("torch.tensor([1.5], dtype=torch.bfloat16)", "torch.arange(6.0).reshape(2, 3).T"),
]
ERRORS = {"ValueError": "ValueError", "StopIteration": "RuntimeError", "KeyboardInterrupt": "RuntimeError"}
ERRORS |= {"SystemExit": "RuntimeError", "OverflowError": "OverflowError", "type('Own', (KeyError,), {})": "KeyError"}
SAME = """
def same(a, b):
    if type(a) is not type(b): return False
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict): return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (np.ndarray, np.generic, torch.Tensor)): return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    return a == b or a != a and b != b
def fails(f):
    try: f()
    except Exception as error: return type(error)
"""


def doctest_of(code):
    """With the marks of a doctest, for blocks too."""
    lines = [line for line in code.splitlines() if line.strip()]
    return "".join(("... " if line.startswith(" ") else ">>> ") + line + "\n" for line in lines)


@pytest.mark.parametrize(
    "frame",
    [
        *(("plain", [1]), ("plain", ...), ("array", "<f8", (2,), b"x" * 8), ("array", "O", (1,), b"x" * 8), ("list",)),
        *(
            ("tensor", "qint8", (1,), b"x"),
            ("tensor", "float32", (2,), b"x" * 4),
            ("array", "<f8", (-1,), b""),
            ("no",),
        ),
    ],
)
def test_forged_frames_are_no_values(frame):
    with pytest.raises((ValueError, TypeError, IndexError)):
        values.unpack(frame)


@pytest.mark.parametrize(
    "value", ["Sub(3)", "[Sub(3)]", "np.array([object()])", "np.array(['a'])", "10**5000", "deep()"]
)
def test_what_is_no_answer_does_not_cross(value):
    class Sub(int):
        pass

    def deep():
        x = []
        for _ in range(50):
            x = [x]
        return x

    with pytest.raises(values.CrossingError):
        values.pack(eval(value, {"Sub": Sub, "deep": deep, "np": np}))


@jailed
def test_what_does_not_cross_costs_its_name_alone():
    cells = ["import numpy as np\nimport torch\na = 10**5000", "b = torch.zeros(2).to(torch.float8_e4m3fn)"]
    cells += ["c = np.zeros(1 << 28, np.int8)", "d = print", DOUBLE, "answer = 'b'"]
    result = grade.judge(cells, TOY | {"answers": [*TOY["answers"], "a", "b", "c"]}, referee.Limits())
    assert [q["score"] for q in result["questions"]] == [4, 2, 0]
    assert [note.split(":")[0] for note in result["notes"]] == ["a", "b", "c"]


@jailed
@pytest.mark.parametrize("name", ["hw1", "hw2", "hw3", "hw4", "hw5", "hw6"])
def test_solutions_in_a_jail(name):
    """They need nothing that a jail does not have."""
    assignment = grade.load(name)
    path = ROOT / "coursework" / "masters" / f"{assignment['name']}.py"
    solved = jupytext.read(path, fmt="py:percent")
    cells = submissions.cells_of(nbformat.writes(solved).encode(), assignment["name"])
    result = grade.judge(cells, assignment, referee.Limits())
    assert result["status"] == "graded" and result["notes"] == []
    assert sum(q["score"] for q in result["questions"]) == 20


def made_up(student, status, *questions, notes=()):
    keys = ("name", "score", "possible", "public", "hidden", "asked")
    return {
        "student": student,
        "file": f"{student}.ipynb",
        "status": status,
        "notes": list(notes),
        "seconds": 1.5,
        "questions": [dict(zip(keys, q, strict=True)) for q in questions],
        "final": True,
    }


def test_what_a_run_leaves(tmp_path):
    """To the letter."""
    a = made_up(
        "=cmd",
        "graded",
        ("q1", 2.5, 4, [("q1 - 1", True, ""), ("q1 - 2", False, "twice `as` much\n# see")], (1, 3), True),
        ("q2", 2, 2, [("q2 - 1", True, "form")], (0, 0), True),
        notes=["cell 1: Error: <b>\x1b[31m", "two", "three", "four", "five"],
    )
    b = made_up(
        "b", "took more than 9 s", ("q1", 4, 4, [("q1 - 1", True, "")], (3, 3), True), ("q2", 0, 2, [], (0, 1), False)
    )
    c = made_up("c", "is no notebook but .<img>|", ("q1", 0, 4, [], (0, 3), False), ("q2", 0, 2, [], (0, 1), False))
    d = made_up("d", "graded", ("q1", 0, 4, [("q1 - 1", False, "no")], (0, 3), True), ("q2", 1, 2, [], (0, 1), True))
    out = tmp_path / "g.csv"
    assignment = {"name": "toy", "tests": {"q1": {}, "q2": {}}}
    (tmp_path / "g_feedback").mkdir()
    (tmp_path / "g_feedback" / "gone.md").write_text("old")
    report.write([a, b, c, d], assignment, out)
    assert out.read_text().splitlines() == [
        "student,file,feedback,score,possible,q1,q2,status,notes,seconds",
        "'=cmd,'=cmd.ipynb,_cmd~26b1f9b9.md,4.5,6,2.5,2,graded,cell 1: Error: <b> [31m | two | three | four | five,1.5",
        "b,b.ipynb,b.md,4,6,4,0,took more than 9 s,,1.5",
        "c,c.ipynb,c.md,0,6,0,0,is no notebook but .<img>|,,1.5",
        "d,d.ipynb,d.md,1,6,0,1,graded,,1.5",
    ]
    folder = tmp_path / "g_feedback"
    assert sorted(path.name for path in folder.iterdir()) == ["_cmd~26b1f9b9.md", "b.md", "c.md", "d.md"]
    assert (folder / "_cmd~26b1f9b9.md").read_text().splitlines() == [
        *("# toy: `'=cmd`", "", "4.5 of 6 points.", "", "## q1: 2.5 of 4", ""),
        *("- q1 - 1: passed", "- q1 - 2: failed: `twice 'as' much # see`", "- of 3 further tests 1 passed", ""),
        *("## q2: 2 of 2", "", "- q2 - 1: passed: `form`", "", "## What else was found", ""),
        *("- `cell 1: Error: <b> [31m`", "- `two`", "- `three`", "- and 2 more", ""),
        "Cells are counted without those of text, as Jupyter numbers them after *Run All Cells*.",
    ]
    late = (folder / "b.md").read_text()
    assert "The notebook `took more than 9 s`. What was not reached" in late
    assert "- of 3 further tests 3 passed" in late and "- of 1 further tests none was reached" in late
    refusal = (folder / "c.md").read_text()
    assert "Nothing was graded: the notebook `is no notebook but .<img>|`." in refusal and "q1" not in refusal
    assert (tmp_path / "g_summary.md").read_text().splitlines() == [
        *("# toy", "", "4 submissions, 2 of them graded to their end."),
        *(
            "Points: mean 2.8, median 2.75, from 1 to 4.5, of 6.",
            "",
            "![How many have how many points](g_histogram.png)",
            "",
        ),
        *(
            "| question | mean | of | full | none |",
            "|---|---|---|---|---|",
            "| q1 | 1.25 | 4 | 0 | 1 |",
            "| q2 | 1.50 | 2 | 1 | 0 |",
        ),
        *("", "| what became of it | submissions |", "|---|---|", "| `graded` | 2 |", "| `took more than 9 s` | 1 |"),
        "| `is no notebook but .<img> ` | 1 |",
    ]
    report.write([c], assignment, out)
    assert not (tmp_path / "g_histogram.png").exists() and [p.name for p in folder.iterdir()] == ["c.md"]


def test_links_are_not_followed(tmp_path):
    """Not even inside of a folder that was handed in."""
    (tmp_path / "other.ipynb").write_bytes(WHOLE)
    folder = tmp_path / "class"
    for student in ("file", "folder"):
        (folder / student).mkdir(parents=True)
    (folder / "file" / "a.ipynb").symlink_to(tmp_path / "other.ipynb")
    (folder / "folder" / "inner").symlink_to(tmp_path)
    found = {s.student: (s.problem, s.content()) for s in submissions.find(folder)}
    assert found == {"file": ("is no file", b""), "folder": ("has 0 notebooks, need one", b"")}


def test_rows_are_on_disk_at_once(tmp_path, monkeypatch):
    """A machine that stops loses no row, and rows of other tests don't count."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((tmp_path / "j").read_bytes()))
    with Journal(tmp_path / "j", "a") as kept:
        for i in range(3):
            kept.add(str(i), {"row": i})
    assert [data.count(b"\n") for data in synced] == [1, 2, 3]
    with Journal(tmp_path / "j", "a") as again:
        assert again.rows == {str(i): {"row": i} for i in range(3)}
    with Journal(tmp_path / "j", "b") as other:
        assert other.rows == {}


@jailed
def test_a_run_that_was_killed_goes_on(tmp_path):
    """As the machine's user would kill it; then nothing is lost, nothing graded twice, and no process left behind."""
    folder, out = tmp_path / "class", tmp_path / "grades.csv"
    folder.mkdir()
    for name, content in slow(8).items():
        (folder / f"{name}.ipynb").write_bytes(content)
    with subprocess.Popen(command_line(folder, out), cwd=ROOT, stderr=subprocess.DEVNULL) as run:
        below = []
        while len(journal(out)) < 3 and run.poll() is None:
            time.sleep(0.1)
            with contextlib.suppress(psutil.NoSuchProcess):
                below = psutil.Process(run.pid).children(recursive=True)
        run.kill()
    before = journal(out)
    assert 3 <= len(before) < 8 and below and not out.exists()
    with open(out.with_suffix(".journal"), "ab") as file:
        file.write(b'{"digest": "torn')
    ended = subprocess.run(command_line(folder, out), cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"8 submissions, {8 - len(before)} of them graded now" in ended.stdout
    assert journal(out)[: len(before)] == before and sorted(journal(out)) == [f"student {i}" for i in range(8)]
    with open(out, newline="") as file:
        assert [(row["student"], row["status"]) for row in csv.DictReader(file)] == [
            (f"student {i}", "graded") for i in range(8)
        ]
    gone, left = psutil.wait_procs(below, timeout=20)
    assert not left and len(gone) == len(below)


@jailed
def test_two_runs_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "load", lambda name: TOY)
    folder, out = tmp_path / "class", tmp_path / "grades.csv"
    folder.mkdir()
    with Journal(out.with_suffix(".journal"), ""), pytest.raises(SystemExit, match="another run is writing it"):
        grade.main([str(folder), "--assignment", "toy", "--out", str(out)])
    assert not out.exists()


@jailed
def test_what_has_changed_is_graded_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(grade, "load", lambda name: assignment)
    folder, out, assignment = tmp_path / "class", tmp_path / "grades.csv", TOY
    folder.mkdir()
    for name in ("correct", "wrong"):
        (folder / f"{name}.ipynb").write_bytes(FILES[name])
    arguments = [str(folder), "--assignment", "toy", "--out", str(out), "--jobs", "1"]
    graded = []
    for step in ("all", "nothing", "one", "other tests"):
        if step == "one":
            (folder / "wrong.ipynb").write_bytes(WHOLE)
        if step == "other tests":
            assignment = TOY | {"tests": {"q1": TOY["tests"]["q1"]}}
        grade.main(arguments)
        graded.append(capsys.readouterr().out.split(",")[1].split()[0])
        with open(out, newline="") as file:
            scores = {row["student"]: row["score"] for row in csv.DictReader(file)}
        wrong = {"all": "0", "nothing": "0", "one": "10", "other tests": "4"}[step]
        assert scores == {"correct": "4" if step == "other tests" else "10", "wrong": wrong}
    assert graded == ["2", "0", "1", "2"]


@jailed
def test_a_cluster_that_loses_workers(tmp_path, monkeypatch):
    """Their submissions go to others; an address is all that the grader needs."""
    from dask import config
    from dask.distributed import LocalCluster

    folder, out = tmp_path / "class", tmp_path / "grades.csv"
    folder.mkdir()
    for name, content in slow(6, 2.0).items():
        (folder / f"{name}.ipynb").write_bytes(content)
    with (
        config.set({"distributed.worker.daemon": False}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
    ):
        arguments = [*command_line(folder, out), "--scheduler", cluster.scheduler_address]
        with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL) as run:
            while not journal(out) and run.poll() is None:
                time.sleep(0.1)
            os.kill(cluster.workers[0].pid, signal.SIGKILL)
        assert run.returncode == 0
    with open(out, newline="") as file:
        rows = {row["student"]: row["status"] for row in csv.DictReader(file)}
    assert rows == dict.fromkeys(slow(6), "graded")
    assert sorted(journal(out)) == sorted(rows)


@jailed
def test_faults_of_the_machine_are_tried_again(tmp_path, capsys, monkeypatch):
    """A row for now, none in the journal, and a status that scripts see."""
    monkeypatch.setattr(grade, "load", lambda name: TOY)
    folder, out = tmp_path / "class", tmp_path / "grades.csv"
    folder.mkdir()
    (folder / "correct.ipynb").write_bytes(WHOLE)
    arguments = [str(folder), "--assignment", "toy", "--out", str(out), "--jobs", "1"]
    never = asdict(referee.nothing("the jail did not start", TOY["tests"], 0, final=False))
    faults = {"could not be graded: TypeError": int, "the jail did not start": lambda *arguments: never}
    for status, judge in faults.items():
        with monkeypatch.context() as patch:
            patch.setattr(grade, "judge", judge)
            assert grade.main(arguments) == 1
        assert "1 failed for no fault of theirs" in capsys.readouterr().out and not journal(out)
        with open(out, newline="") as file:
            (row,) = csv.DictReader(file)
        assert row["score"] == "0" and row["status"].startswith(status)
    assert grade.main(arguments) == 0 and journal(out) == ["correct"]


# Execnet leaves the pipes of what did not start to the end of the process, which is near where a referee has its own.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_jail_that_never_starts_is_no_fault_of_the_submission(monkeypatch):
    monkeypatch.setattr(referee, "specification", lambda without: "popen//python=/bin/false")
    result = referee.grade(ALL, TOY, referee.Limits())
    gc.collect()
    assert not result.final and result.status.startswith("the jail did not start")
    assert {question.score for question in result.questions} == {0}


def test_names_are_kept_apart(tmp_path):
    """Whatever bytes a file system gives as a name, each student has a row and a feedback file of their own."""
    names = ["Zoë Ångström", "a?b", "a*b", "a:b", "x" * 240, "x" * 239 + "y", "two\nlines", "back\\xff"]
    for name in names:
        (tmp_path / f"{name}.ipynb").write_bytes(b"")
    (tmp_path / os.fsdecode(b"back\xff.ipynb")).write_bytes(b"")
    (tmp_path / os.fsdecode(b"\xfe\xff.ipynb")).write_bytes(b"")
    found = submissions.find(tmp_path)
    # One is written as the other is spelled out.
    assert [s.problem for s in found if s.student == "back\\xff"] == ["is one of several of this name"] * 2
    rows = [grade.refused(s, "can't be read", TOY) for s in found if not s.problem]
    assert {row["student"] for row in rows} == {*names[:-1], "\\xfe\\xff"}
    out = tmp_path / "out"
    out.mkdir()
    report.write(rows, TOY, out / "grades.csv")
    assert len(list((out / "grades_feedback").iterdir())) == len(rows)
    assert (out / "grades_feedback" / "Zoë Ångström.md").exists()
    with open(out / "grades.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(rows)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--assignment", "hw", "--out", "g.csv"], "--assignment: need one of those that are built .*hw1_numbers"),
        (["--assignment", "hw9", "--out", "g.csv"], "got hw9"),
        (["--assignment", "hw1"], "--out: need a file .csv"),
        (["--assignment", "hw1", "--out", "g.txt"], "--out: need a file .csv"),
        (["--assignment", "hw1", "--out", "nowhere/g.csv"], "--out: need a file .csv in a folder that is there"),
        (["--assignment", "hw1", "--out", "class/g.csv"], "--out: need a file outside of the submissions"),
        (["--assignment", "hw1", "--out", "g.csv", "--jobs", "0"], "--jobs and --seconds: need more than 0"),
        (["--assignment", "hw1", "--out", "g.csv", "--seconds", "nan"], "--jobs and --seconds"),
        (["--assignment", "hw1", "--trusted"], "with --trusted, need one notebook"),
    ],
)
def test_command_lines_that_mean_nothing(tmp_path, monkeypatch, capsys, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "class").mkdir()
    with pytest.raises(SystemExit):
        grade.main(["class", *arguments])
    assert re.search(complaint, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["class"]


def test_without_bubblewrap_nothing_is_graded(tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "load", lambda name: TOY)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "a.ipynb").write_bytes(WHOLE)
    with pytest.raises(SystemExit, match="bubblewrap is not installed"):
        grade.main([str(tmp_path / "class"), "--assignment", "toy", "--out", str(tmp_path / "g.csv")])
    assert not (tmp_path / "g.csv").exists()
    with pytest.raises(JailError):
        grade.judge([], TOY, referee.Limits())


def test_trusted_grades_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grade, "load", lambda name: TOY)
    (tmp_path / "a.ipynb").write_bytes(WHOLE)
    assert grade.main([str(tmp_path / "a.ipynb"), "--assignment", "toy", "--trusted"]) == 0
    assert "10 of 10 points" in capsys.readouterr().out
