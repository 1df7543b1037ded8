"""Builds what is handed out and what grades it, from the masters.

    python -m coursework.assign

A master, ``masters/NAME.py``, is a notebook in text (jupytext's percent format) with questions, solutions and tests as
Otter-Grader's Assign reads them.  Otter runs the tests on the solution, and takes solutions and hidden tests out.
``dist/NAME/student`` is for students: the notebook, what it needs, and how to work with it.  ``dist/NAME/autograder.json``
has all tests, and is for the grader alone.
"""

import argparse
import ast
import json
import re
import runpy
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
POINTS = 20
"""Of each homework."""
ORACLES = ("quantcourse", "ml_dtypes", "gfloat", "thop", "onnx", "onnxruntime", "torchao", "brevitas")
"""What would answer a question by itself, and is not there when a submission is graded."""
PACKAGES = {"otter": "otter-grader", "sklearn": "scikit-learn"}
"""Names on the package index of what is imported by another name."""
TORCH_IS_LARGE = """
The larger part of that is torch. On Linux it also brings libraries for GPUs, several GB that this homework never uses. To
do without them, install the build for the CPU first; the *Get started* page of PyTorch has the ADDRESS for Pip and CPU:

```sh
.venv/bin/python -m pip install {torch} --index-url ADDRESS
```
"""


def build(master: Path, out: Path) -> None:
    """Student's folder and grader's tests of one master.

    Raises:
        RuntimeError: if the solution does not pass its tests.
        ValueError: if points don't add up.
    """
    import jupytext
    import nbformat

    name = master.stem
    notebook = jupytext.read(master, fmt="py:percent")
    _check_points(notebook)
    student = out / name / "student"
    with tempfile.TemporaryDirectory() as scratch:
        made = by_otter(master, Path(scratch))
        shutil.rmtree(out / name, ignore_errors=True)
        student.mkdir(parents=True)
        handed = nbformat.read(made / "student" / f"{name}.ipynb", as_version=4)
        _number(handed, name)
        nbformat.write(handed, student / f"{name}.ipynb")
        (archive,) = (made / "autograder").glob("*.zip")
        with zipfile.ZipFile(archive) as file:
            file.extractall(Path(scratch) / "all")
        tests = {
            path.stem: runpy.run_path(str(path))["test"]
            for path in sorted((Path(scratch) / "all" / "tests").glob("*.py"))
        }
    needed = requirements(handed)
    (student / "requirements.txt").write_text("\n".join([*needed, ""]), encoding="utf-8")
    text = (FOLDER / "student.md").read_text(encoding="utf-8")
    title = next(cell.source for cell in handed.cells if cell.cell_type == "markdown").splitlines()[0]
    weight = "".join(TORCH_IS_LARGE.format(torch=line) for line in needed if line.startswith("torch=="))
    text = text.format(title=title.removeprefix("# "), name=name, weight=weight)
    (student / "README.md").write_text(text, encoding="utf-8")
    grader = {"name": name, "answers": answers(notebook), "without": list(ORACLES), "tests": tests}
    text = json.dumps(grader, indent=1, ensure_ascii=False) + "\n"
    (out / name / "autograder.json").write_text(text, encoding="utf-8")


def by_otter(master: Path, scratch: Path) -> Path:
    """What Otter makes of a master: a folder with ``student`` and, as an archive, ``autograder``."""
    import jupytext
    import nbformat
    from otter.assign import main as otter_assign

    notebook = jupytext.read(master, fmt="py:percent")
    _number(notebook, master.stem)
    source = scratch / f"{master.stem}.ipynb"
    nbformat.write(notebook, source)
    otter_assign(str(source), str(scratch / "dist"), no_pdfs=True)
    return scratch / "dist"


def _number(notebook: Any, name: str) -> None:
    """Identifiers of cells that are the same at each build."""
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"{name.replace('_', '-')}-{i:03d}"


def _check_points(notebook: Any) -> None:
    said: dict[str, float] = {}
    given: dict[str, float] = {}
    for cell in notebook.cells:
        if "BEGIN QUESTION" in cell.source:
            (name,), (points,) = (re.findall(rf"{key}: (\S+)", cell.source) for key in ("name", "points"))
            said[name], given[name] = float(points), 0.0
        elif "BEGIN TEST CONFIG" in cell.source:
            (points,) = re.findall(r"^points: (\S+)", cell.source, re.MULTILINE)
            given[name] += float(points)
    for name, points in said.items():
        if abs(given[name] - points) > 1e-9:
            raise ValueError(f"{name}: its tests give {given[name]:g} points, need {points:g}")
    if abs(sum(said.values()) - POINTS) > 1e-9:
        raise ValueError(f"the questions give {sum(said.values()):g} points, need {POINTS}")


def requirements(notebook: Any) -> list[str]:
    """What a student installs: Jupyter and all that the notebook imports, as this course pins it."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    imports: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            imports |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports.add(str(node.module).partition(".")[0])
    packages = {PACKAGES.get(name, name) for name in imports - sys.stdlib_module_names} | {"ipykernel", "jupyterlab"}
    lines = (FOLDER.parent / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.partition("==")[0]: line.split()[0] for line in lines if "==" in line}
    return [pins[package] for package in sorted(packages)]


def answers(notebook: Any) -> list[str]:
    """The names that the cells of solutions define: what tests may ask for."""
    found: dict[str, None] = {}
    inside = False
    for cell in notebook.cells:
        if cell.cell_type == "raw":
            inside = "BEGIN SOLUTION" in cell.source or (inside and "END SOLUTION" not in cell.source)
        elif cell.cell_type == "code" and inside:
            for statement in ast.parse(cell.source).body:
                found |= dict.fromkeys(_bound(statement))
    return list(found)


def _bound(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m coursework.assign", description="Build the homework from its masters."
    )
    masters = {path.stem: path for path in sorted((FOLDER / "masters").glob("*.py"))}
    parser.add_argument("names", nargs="*", help=f"of {', '.join(masters)} (default: all)")
    parser.add_argument("--out", type=Path, default=FOLDER / "dist", help="default: coursework/dist")
    options = parser.parse_args()
    for name in options.names or masters:
        if name not in masters:
            parser.error(f"names: need some of {', '.join(masters)}, got {name}")
        try:
            build(masters[name], options.out)
        except ValueError as error:
            raise SystemExit(f"{masters[name].name}: {error}") from None
        print(options.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
