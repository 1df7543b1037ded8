"""Run notebooks in place and write them clean: what a clean notebook is, is defined here and nowhere else.

A clean notebook has the two metadata entries below, cell metadata ``tags`` and ``mystnb`` alone, no output metadata,
an id for every cell, streams in one piece, and is written as nbformat writes it, so that a change in a chapter is a
small difference in its file. ``tests/test_notebooks.py`` compares every notebook with ``clean`` of itself.
"""

import argparse
import json
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[1]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_METADATA = ("mystnb", "tags")
TIMEOUT = 600  # seconds for one cell

Json = dict[str, Any]


def lines(text: str | list[str]) -> str:
    """The format stores a text as one string or as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def ids(cells: list[Json]) -> list[str]:
    """Keep the ids that are there and valid; name the other cells after their position."""
    taken = {cell.get("id") for cell in cells}
    names: list[str] = []
    for number, cell in enumerate(cells):
        name = cell.get("id", "")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) or name in names:
            name = next(n for n in (f"cell-{number}" + "x" * k for k in range(len(cells))) if n not in taken)
        names.append(name)
    return names


def clean_outputs(outputs: list[Json]) -> list[Json]:
    cleaned: list[Json] = []
    for output in map(dict, outputs):
        if "metadata" in output:
            output["metadata"] = {}
        if output["output_type"] == "stream":
            output["text"] = lines(output["text"])
            if cleaned and cleaned[-1].get("name") == output["name"]:
                cleaned[-1]["text"] += output["text"]
                continue
        cleaned.append(output)
    return cleaned


def clean(notebook: Json) -> Json:
    """The notebook as it ought to be stored. Runs nothing, and changes neither counts nor what an output says."""
    stored = [cell for cell in notebook["cells"] if lines(cell["source"]).strip()]
    cells = []
    for cell, name in zip(stored, ids(stored), strict=True):
        kept: Json = {
            "cell_type": cell["cell_type"],
            "id": name,
            "metadata": {k: cell["metadata"][k] for k in CELL_METADATA if cell["metadata"].get(k)},
            "source": lines(cell["source"]).rstrip("\n"),
        }
        if cell["cell_type"] == "code":
            kept["execution_count"] = cell["execution_count"]
            kept["outputs"] = clean_outputs(cell["outputs"])
        cells.append(kept)
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def as_text(notebook: Json) -> str:
    """The file's text: nbformat's, with its sorted keys, one space of indent and a newline at the end."""
    text: str = nbformat.writes(nbformat.from_dict(notebook), version=nbformat.NO_CONVERT)
    return text.rstrip("\n") + "\n"


def load(path: Path) -> Json:
    """As stored. Not nbformat.read, which gives cells without an id a new one at every reading."""
    notebook: Json = json.loads(path.read_text("utf8"))
    return notebook


def complaints(notebook: Json) -> list[str]:
    """What may not be in a stored notebook: an error, a word on stderr, a cell that never ran."""
    found = []
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        number += 1
        where = f"code cell {number} ({lines(cell['source']).splitlines()[0][:60]!r})"
        if cell["execution_count"] != number:
            found.append(f"{where}: execution count {cell['execution_count']}, should be {number}")
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                found.append(f"{where}: {output['ename']}: {output['evalue']}")
            if output.get("name") == "stderr":
                found.append(f"{where} writes to stderr: {lines(output['text']).strip()[:300]}")
    return found


def refresh(path: Path) -> list[str]:
    """Run one notebook and write it, unless it fails: then the file stays as it was and the reasons come back."""
    from nbclient import NotebookClient

    stored = clean(load(path))
    notebook = nbformat.from_dict(stored)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    started: list[str] = []
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=lambda cell, cell_index: cell.cell_type == "code" and started.append(cell.source.splitlines()[0]),
    )
    try:
        client.execute()
    except Exception as error:  # it raised, its kernel died, it ran too long: each has the cell to name
        return [f"code cell {len(started)} ({started[-1]!r}): {error}" if started else f"no kernel: {error}"]
    result = clean(notebook)
    problems = complaints(result)
    if not problems:
        path.write_text(as_text(result), "utf8", newline="\n")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks; without any, all of book/")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks to run at a time (2)")
    asked = parser.parse_args()
    paths = [p.resolve() for p in asked.notebooks] or sorted((ROOT / "book").rglob("*.ipynb"))
    paths = [p for p in paths if ".ipynb_checkpoints" not in p.parts]
    failed = False
    with ProcessPoolExecutor(max(1, min(asked.jobs, len(paths)))) as pool:
        for path, problems in zip(paths, pool.map(refresh, paths), strict=True):
            print(f"{'FAILED' if problems else 'fresh '} {path.name}", flush=True)
            for problem in problems:
                print(f"  {problem}", file=sys.stderr, flush=True)
                failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
