"""The homework: solutions earn all points, blanks none, typical wrong answers are caught where they are wrong."""

import ast
import csv
import importlib
import importlib.util
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jupytext
import nbformat
import pytest
from otter.test_files import OKTestFile
from packaging.requirements import Requirement

import quantcourse
from coursework import assign, referee, report

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "coursework"
NAMES = sorted(path.stem for path in (FOLDER / "masters").glob("*.py"))
POINTS = 20


def master(name):
    return jupytext.read(FOLDER / "masters" / f"{name}.py", fmt="py:percent")


def handed_out(name):
    return nbformat.read(FOLDER / "dist" / name / "student" / f"{name}.ipynb", as_version=4)


def grader(name):
    return json.loads((FOLDER / "dist" / name / "autograder.json").read_text("utf8"))


def code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def scores(name, cells):
    result = referee.grade(cells, grader(name), referee.Limits(), trusted=True)
    assert result.status == "graded"
    return {question.name: question.score for question in result.questions}


def solution(name):
    """Without the tests, which are cells of the master, too."""
    cells, testing = [], False
    for cell in master(name).cells:
        if cell.cell_type == "raw":
            testing = "BEGIN TESTS" in cell.source or (testing and "END TESTS" not in cell.source)
        elif cell.cell_type == "code" and not testing:
            cells.append(cell.source)
    return cells


def wrong_answers(name):
    path = Path(__file__).parent / "wrong_answers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"wrong_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


def test_six_homeworks():
    assert len(NAMES) == 6 and [name.split("_")[0] for name in NAMES] == [f"hw{i}" for i in range(1, 7)]


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_earns_all_points(name):
    tests = grader(name)["tests"]
    possible = {q: sum(c.points for c in OKTestFile.from_spec(dict(spec)).test_cases) for q, spec in tests.items()}
    assert sum(possible.values()) == pytest.approx(POINTS)
    assert scores(name, solution(name)) == pytest.approx(possible)


@pytest.mark.parametrize("name", NAMES)
def test_a_blank_notebook_earns_nothing(name):
    assert set(scores(name, code(handed_out(name))).values()) == {0}


LAZY = {"refuses": "raise ValueError('no')", "gives nothing": "return None", "gives it back": "return args[0]"}


@pytest.mark.parametrize("lazy", LAZY)
@pytest.mark.parametrize("name", NAMES)
def test_functions_that_do_nothing_earn_nothing(name, lazy):
    """Whatever they are asked, also where asking for an error is the question."""
    functions = {
        node.name for cell in solution(name) for node in ast.parse(cell).body if isinstance(node, ast.FunctionDef)
    } & set(grader(name)["answers"])
    cells = [f"def {function}(*args, **named):\n    {LAZY[lazy]}" for function in functions]
    assert functions and sum(scores(name, [*code(handed_out(name)), *cells]).values()) == 0


@pytest.mark.parametrize("name", NAMES)
def test_no_oracle_is_there_when_it_is_graded(name):
    assert grader(name)["without"] == [
        *("quantcourse", "ml_dtypes", "gfloat", "thop", "onnx", "onnxruntime", "torchao", "brevitas")
    ]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ([("# points: ", 1)], "q1: its tests give"),
        ([("# points: ", 1), ("\npoints: ", 1)], "the questions give 21 points, need 20"),
    ],
)
def test_points_that_do_not_add_up(tmp_path, monkeypatch, wrong, complaint):
    """Neither in a question nor in all of them."""
    text = (FOLDER / "masters" / "hw1_numbers.py").read_text("utf8")
    for before, more in wrong:
        first = re.search(rf"{before}([\d.]+)", text)
        text = f"{text[: first.start()]}{before}{float(first[1]) + more:g}{text[first.end() :]}"
    (tmp_path / "masters").mkdir()
    (tmp_path / "masters" / "hw1_numbers.py").write_text(text, "utf8")
    monkeypatch.setattr(assign, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["assign", "--out", str(tmp_path / "dist")])
    with pytest.raises(SystemExit, match=complaint):
        assign.main()
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize("name", NAMES)
def test_eight_typical_mistakes_each(name):
    wrong = wrong_answers(name)
    assert len(wrong) >= 8 and len({label for label, _, _ in wrong}) == len(wrong)
    assert {question for _, question, _ in wrong} <= set(grader(name)["tests"])


MISTAKES = [(name, *answer) for name in NAMES for answer in wrong_answers(name)]


@pytest.fixture(scope="module")
def full():
    return {name: scores(name, solution(name)) for name in NAMES}


@pytest.mark.parametrize(("name", "label", "question", "answer"), MISTAKES, ids=[f"{m[0]}-{m[1]}" for m in MISTAKES])
def test_a_mistake_costs_points_where_it_is(full, name, label, question, answer):
    found = scores(name, [*solution(name), answer])
    assert found.pop(question) < full[name][question]
    assert found == {q: points for q, points in full[name].items() if q != question}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_handed_out_is_what_the_master_gives(tmp_path, name):
    command = [sys.executable, "-m", "coursework.assign", name, "--out", str(tmp_path)]
    built = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    made, stored = (
        {p.relative_to(root): p.read_bytes() for p in (root / name).rglob("*") if p.is_file()}
        for root in (tmp_path, FOLDER / "dist")
    )
    assert made.keys() == stored.keys()
    assert [str(path) for path in made if made[path] != stored[path]] == [], "stale: make assignments"


PAGES = [*(FOLDER / "masters").glob("*.py"), *FOLDER.rglob("*.md")]
each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


@each_page
def test_chapters_that_are_named_exist(path):
    """Those of a list behind the word, as they are titled, or up to the colon."""
    books = [nbformat.read(path, as_version=4).cells[0].source for path in (ROOT / "book").glob("*.ipynb")]
    titles = [text.splitlines()[0].removeprefix("# ") for text in books]
    known = {*titles, *(title.partition(":")[0] for title in titles)}
    text = re.sub(r"\s+(?:# )?", " ", path.read_text("utf8"))
    lists = re.findall(r"(?:[Cc]hapters?|[Rr]ead before:\*\*) ((?:\*[^*]+\*(?:,| and|, and)? ?)+)", text)
    assert {name for names in lists for name in re.findall(r"\*([^*]+)\*", names)} <= known
    assert lists or path.suffix == ".md"


@each_page
def test_names_of_the_package_exist(path):
    modules = {module.name for module in pkgutil.iter_modules(quantcourse.__path__)}
    spoken = re.findall(r"`(?:quantcourse\.)?([a-z]+)\.([A-Za-z_]+)", path.read_text("utf8"))
    for module, name in spoken:
        if module in modules:
            assert hasattr(importlib.import_module(f"quantcourse.{module}"), name), f"{module}.{name}"


@pytest.mark.parametrize("path", [p for p in PAGES if p.suffix == ".md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text("utf8")):
        assert (path.parent / link).exists(), link


def test_messages_reach_students_whole():
    """With the longest error behind them."""
    for name in NAMES:
        for test in grader(name)["tests"].values():
            for case in test["suites"][0]["cases"]:
                length = len(case.get("failure_message") or "") + referee.MOST_TEXT + len(" ()")
                assert case["hidden"] or length <= report.MOST_TEXT


def test_the_guide_counts_right():
    """Minutes, public points, tests and wrong answers, as masters and tests have them."""
    guide = (FOLDER / "README.md").read_text("utf8")
    cases = {n: [c for t in grader(n)["tests"].values() for c in t["suites"][0]["cases"]] for n in NAMES}
    for name in NAMES:
        (minutes,) = re.findall(r"About (\d+) minutes", handed_out(name).cells[1].source)
        points = sum(case["points"] for case in cases[name] if not case["hidden"])
        (row,) = re.findall(rf"^\| `{name}` \|.*$", guide, re.MULTILINE)
        assert row.split(" | ")[2:4] == [minutes, f"{points:g}"], name
    hidden = [case["hidden"] for some in cases.values() for case in some]
    counts = {"public tests": hidden.count(False), "hidden ones": hidden.count(True), "typical": len(MISTAKES)}
    for what, count in counts.items():
        assert f"{count} {what}" in " ".join(guide.split()), what


GRADES = """student,file,feedback,score,possible,status
doejane_12345_678910_hw3_mapping,a.ipynb,a.md,17.5,20,graded
roerichard_LATE_12346_678911_hw3_mapping,b.ipynb,b.md,0,20,is a link
"""
CANVAS = """Student,ID,SIS User ID,SIS Login ID,Section,Homework 3 (4567),Homework 4 (4568)
    Points Possible,,,,,20,20
"Doe, Jane",12345,,jane,1,,
"Roe, Richard",12346,,richard,1,,7
"Poe, Edgar",12347,,edgar,1,3,
"Zoe, Ann",12348,,ann,1,,
"""
MOODLE = """Identifier,Full name,Email address,Status,Grade,Maximum Grade,Last modified (grade)
Participant 12345,Jane Doe,j@example.org,,,20.00,-
Participant 12346,Richard Roe,r@example.org,,5.00,20.00,-
Participant 12347,Edgar Poe,e@example.org,,,20.00,-
"""


def snippets():
    return re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text("utf8"), re.DOTALL)


@pytest.mark.parametrize("platform", ["canvas", "moodle"])
def test_points_reach_the_platform(tmp_path, monkeypatch, platform):
    """As the guide has it: by number; what is not graded stays as before; a stranger's points stop it."""
    (code,) = [code for code in snippets() if f'"{platform}.csv"' in code]
    monkeypatch.chdir(tmp_path)
    grades = GRADES if platform == "canvas" else re.sub(r"_(\d+)_\d+_hw3_mapping", r"_\1_assignsubmission_file", GRADES)
    Path("grades.csv").write_text(grades)
    Path(f"{platform}.csv").write_text(CANVAS if platform == "canvas" else MOODLE)
    for missing in ("", "0"):
        given = 'MISSING = ""'
        assert given in code
        exec(code.replace(given, f'MISSING = "{missing}"'), {})
        with open(f"{platform}_with_points.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        if platform == "canvas":
            assert [row["ID"] for row in rows] == ["", "12345", "12346", "12347", "12348"]
            assert [row["Homework 3 (4567)"] for row in rows] == ["20", "17.5", "", "3", missing]
            assert "Homework 4 (4568)" not in rows[0]
        else:
            assert [row["Grade"] for row in rows] == ["17.5", "5.00", missing]
    for wrong in (grades.replace("12345", "99999"), grades.replace("12345", "12346"), grades.replace("_12345_", "_")):
        Path("grades.csv").write_text(wrong)
        Path(f"{platform}_with_points.csv").unlink()
        with pytest.raises(ValueError, match="need one student each, and one submission each"):
            exec(code, {})
        assert not Path(f"{platform}_with_points.csv").exists()
        Path(f"{platform}_with_points.csv").touch()


def test_feedback_for_the_platform(tmp_path, monkeypatch):
    """Each in the folder that Moodle gave, by the name that the table has."""
    (code,) = [code for code in snippets() if '"feedback.zip"' in code]
    monkeypatch.chdir(tmp_path)
    names = "Jane Doe_12345_assignsubmission_file", "Zoë d'Arc_12346_assignsubmission_file"
    empty = {"file": "hw3.ipynb", "status": "is a link", "notes": [], "questions": [], "seconds": 0}
    rows = [{"student": name, **empty} for name in names]
    report.write(rows, {"name": "hw3_mapping", "tests": {}}, Path("grades.csv"))
    exec(code, {})
    with zipfile.ZipFile("feedback.zip") as archive:
        assert archive.namelist() == [f"{name}/feedback.md" for name in names]
        assert all(name in archive.read(f"{name}/feedback.md").decode() for name in names)


def test_an_archive_for_colab(tmp_path, monkeypatch):
    """Otter reads the tests that it holds, and they are those that students have."""
    (code,) = [code for code in snippets() if "_colab.zip" in code]
    name = "hw3_mapping"
    shutil.copy(FOLDER / "dist" / name / "student" / f"{name}.ipynb", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    with zipfile.ZipFile(f"{name}_colab.zip") as archive:
        archive.extractall("colab")
    for question, spec in handed_out(name).metadata.otter.tests.items():
        test = OKTestFile.from_file(f"colab/tests/{question}.py")
        cases = spec["suites"][0]["cases"]
        assert [case.body for case in test.test_cases] == [case["code"] for case in cases]
    assert len(list(Path("colab/tests").iterdir())) == len(grader(name)["tests"])


@pytest.mark.parametrize("name", NAMES)
def test_students_install_what_the_solution_imports(name):
    """And what it imports is there where it is graded."""
    lines = (FOLDER / "dist" / name / "student" / "requirements.txt").read_text("utf8").split()
    installed = {Requirement(line).name.replace("scikit-learn", "sklearn") for line in lines}
    imported = {
        module.partition(".")[0]
        for cell in solution(name)
        for module in re.findall(r"^ *(?:import|from) ([\w.]+)", cell, re.MULTILINE)
    }
    # numpy comes with torch's companions.
    assert imported - sys.stdlib_module_names - installed <= ({"numpy"} if "sklearn" in installed else set())
    assert not imported & set(grader(name)["without"])


@pytest.mark.parametrize("name", NAMES)
def test_students_get_no_solution_and_no_hidden_test(name):
    """No line of either that is more than a signature or a word, and that no other part of the notebook shows."""
    folder = FOLDER / "dist" / name / "student"
    assert {path.name for path in folder.iterdir()} == {f"{name}.ipynb", "README.md", "requirements.txt"}
    text = json.dumps(handed_out(name), ensure_ascii=False)
    spoken = {json.dumps(line.strip(), ensure_ascii=False)[1:-1] for line in _secrets(name)}
    assert spoken and not [line for line in spoken if line in text]


def _secrets(name):
    inside, shown, secret = False, [], []
    for cell in solution(name):
        for line in cell.splitlines():
            if "BEGIN SOLUTION" in line or "END SOLUTION" in line:
                inside = "BEGIN SOLUTION" in line
            else:
                (secret if inside or line.rstrip().endswith("# SOLUTION") else shown).append(
                    line.split("  # SOLUTION")[0]
                )
    public = "\n".join(
        c["code"] for t in grader(name)["tests"].values() for c in t["suites"][0]["cases"] if not c["hidden"]
    )
    for test in grader(name)["tests"].values():
        for case in test["suites"][0]["cases"]:
            if case["hidden"]:
                secret += [line.removeprefix(">>> ").removeprefix("... ") for line in case["code"].splitlines()]
    known = "\n".join(shown) + public
    return [line for line in secret if len(line.strip()) > 30 and line.strip() not in known]
