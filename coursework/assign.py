"""Builds what is handed out and what grades it, from the masters.

    python -m coursework.assign

A master, ``masters/NAME.py``, is a notebook in text (jupytext's percent format) with questions, solutions and tests as
Otter-Grader's Assign reads them.  Otter runs the tests on the solution, and takes solutions and hidden tests out.
``dist/NAME/student`` is for students; ``dist/NAME/autograder.json`` has all tests, and is for the grader alone.
"""

import argparse
import ast
import json
import runpy
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ORACLES = ("quantcourse", "ml_dtypes", "gfloat", "thop", "onnx", "onnxruntime", "torchao", "brevitas")
"""What would answer a question by itself, and is not there when a submission is graded."""


def build(master: Path, out: Path) -> None:
    """Student's folder and grader's tests of one master.

    Raises:
        RuntimeError: if the solution does not pass its tests.
    """
    import jupytext
    import nbformat
    from otter.assign import main as otter_assign

    notebook = jupytext.read(master, fmt="py:percent")
    name = master.stem
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"{name.replace('_', '-')}-{i:03d}"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / f"{name}.ipynb"
        nbformat.write(notebook, source)
        otter_assign(str(source), str(Path(scratch) / "dist"), no_pdfs=True)
        made = Path(scratch) / "dist"
        student = out / name / "student"
        shutil.rmtree(out / name, ignore_errors=True)
        student.mkdir(parents=True)
        handed = nbformat.read(made / "student" / f"{name}.ipynb", as_version=4)
        for i, cell in enumerate(handed.cells):
            cell["id"] = f"{name.replace('_', '-')}-{i:03d}"
        nbformat.write(handed, student / f"{name}.ipynb")
        (archive,) = (made / "autograder").glob("*.zip")
        with zipfile.ZipFile(archive) as file:
            file.extractall(Path(scratch) / "all")
        tests = {
            path.stem: runpy.run_path(str(path))["test"]
            for path in sorted((Path(scratch) / "all" / "tests").glob("*.py"))
        }
    grader = {"name": name, "answers": answers(notebook), "without": list(ORACLES), "tests": tests}
    text = json.dumps(grader, indent=1, ensure_ascii=False) + "\n"
    (out / name / "autograder.json").write_text(text, encoding="utf-8")


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
        build(masters[name], options.out)
        print(options.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
