"""The homework: solutions earn all points, blanks none, typical wrong answers are caught where they are wrong."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from otter.test_files import OKTestFile
from packaging.requirements import Requirement

from coursework import referee

FOLDER = Path(__file__).parents[1] / "coursework"
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
