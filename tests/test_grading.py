"""The grader against broken and hostile submissions: each gets its row, none more points than its honest work earns."""

import csv
import json
import os
import shutil

import nbformat
import pytest

from coursework import grade, referee
from coursework.jail import JailError, check

try:
    check()
    JAILED = True
except JailError:
    JAILED = False
jailed = pytest.mark.skipif(not JAILED, reason="needs bubblewrap, and a machine that lets it build a jail")


def case(code, points, hidden):
    code = "".join(f">>> {line}\n" for line in code.splitlines())
    return {"code": code, "points": points, "hidden": hidden, "locked": False}


def question(name, *cases):
    suite = {"cases": list(cases), "scored": True, "setup": "", "teardown": "", "type": "doctest"}
    return {"name": name, "points": None, "suites": [suite]}


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
    "the oracle": "import ml_dtypes\nanswer = 'b'",
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
    "too large": WHOLE + b" " * grade.MOST_BYTES,
    "=cmd|' ,\"x": WHOLE,
}
FULL = ("correct", "copied cells", "magics", "=cmd|' ,\"x")
NOTHING = ("blank", "wrong", "no cells", "truncated", "empty", "binary", "list", "deep", "other language")
NOTHING += ("other assignment", "too large", "a link", "two", "none", "text")


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


@jailed
def test_each_has_its_row(run):
    folder, out, rows = run
    assert len(rows) == len(list(folder.iterdir()))
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
@pytest.mark.parametrize("name", [*FRAMES, *LIES, "fork bomb"])
def test_a_lie_wins_nothing(run, name):
    row = run[2][name]
    print(row)
    assert points(row) <= (HONEST if name in FRAMES else 10 if name == "fork bomb" else 0)


@jailed
def test_a_call_that_never_ends_costs_its_question(run):
    for name in ("loops when called", "exits when called", "deleted cells"):
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
def test_a_run_that_was_killed_goes_on(run, tmp_path, monkeypatch):
    """Whole lines of the journal count, a torn one does not; nothing is graded twice."""
    folder, _, _ = run
    some = tmp_path / "some"
    some.mkdir()
    for name in ("correct", "partly", "wrong"):
        shutil.copy(folder / f"{name}.ipynb", some)
    again = tmp_path / "again.csv"
    monkeypatch.setattr(grade, "load", lambda name: TOY)
    judged = []
    monkeypatch.setattr(
        grade, "graded", lambda jobs, *rest: judged.append([s.student for s, *_ in jobs]) or original(jobs, *rest)
    )
    original = _original_graded
    arguments = [str(some), "--assignment", "toy", "--out", str(again), "--jobs", "1", "--seconds", "16"]
    grade.main(arguments)
    first = again.read_bytes()
    journal = again.with_suffix(".journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    grade.main(arguments)
    assert sorted(judged[0]) == ["correct", "partly", "wrong"]
    assert len(judged) == 2 and judged[1] == [json.loads(lines[2])["row"]["student"]]
    names = [json.loads(line)["row"]["student"] for line in journal.read_bytes().splitlines()]
    assert sorted(names) == ["correct", "partly", "wrong"]
    without_times = [
        [row[:-1] for row in csv.reader(data.decode().splitlines())] for data in (first, again.read_bytes())
    ]
    assert without_times[0] == without_times[1]


_original_graded = grade.graded


def test_without_bubblewrap_nothing_is_graded(tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "load", lambda name: TOY)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (tmp_path / "a.ipynb").write_bytes(WHOLE)
    with pytest.raises(SystemExit, match="bubblewrap is not installed"):
        grade.main([str(tmp_path), "--assignment", "toy", "--out", str(tmp_path / "g.csv")])
    assert not (tmp_path / "g.csv").exists()
    with pytest.raises(JailError):
        grade.judge([], TOY, referee.Limits())


def test_trusted_grades_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grade, "load", lambda name: TOY)
    (tmp_path / "a.ipynb").write_bytes(WHOLE)
    assert grade.main([str(tmp_path / "a.ipynb"), "--assignment", "toy", "--trusted"]) == 0
    assert "10 of 10 points" in capsys.readouterr().out
