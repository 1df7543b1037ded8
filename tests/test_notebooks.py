"""Stored notebooks: run from top to bottom, clean, quiet, compared cell by cell, with a text beside every picture."""

import re
from pathlib import Path

import pytest

import prose
import refresh

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "book").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)

# Every cell whose output nbval does not compare: (notebook, first line). A new one needs a good reason and a row here.
NOT_COMPARED = {
    ("low_precision", "# not compared: times depend on the machine"),
    ("roofline", "# not compared: times depend on the machine"),
    ("beyond_uniform", "# not compared: ratios of times depend on the machine"),
    ("ptq", "# not compared: a value next to the border of two codes falls as the kernels round"),
    ("data_free", "# not compared: a value next to the border of two codes falls as the kernels round"),
    ("selective", "# not compared: a value next to the border of two codes falls as the kernels round"),
    ("deployment", "# not compared: times depend on the machine"),
}

# What would make nbval look away. Only nbval-ignore-output is allowed, as a tag, with a row above.
FORBIDDEN_TAGS = {"nbval-skip", "nbval-raises-exception", "raises-exception", "nbval-check-output", "skip-execution"}
MARKER = re.compile(r"^\s*#+\s*(?:NBVAL_\w+|PYTEST_VALIDATE_IGNORE_OUTPUT)\s*$", re.MULTILINE)

MACHINE = re.compile(
    r"/(?:home|root|tmp|usr|opt|work|Users|var)/|\b[A-Za-z]:\\|site-packages|ipykernel_\d+|<[^<>\n]* at 0x[0-9a-fA-F]+"
)
TIMING = re.compile(
    r"\d\s?(?:ns|[µμ]s|us|ms|msec|sec|secs|seconds?|minutes?)\b|\bper loop\b|\bwall time\b|\b\d+(?:\.\d+)?s\b",
    re.IGNORECASE,
)
TIMER = re.compile(r"^\s*%{1,2}(?:time|timeit|prun)\b", re.MULTILINE)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def code_cells(path: Path) -> list[prose.Json]:
    return [cell for cell in prose.load(path) if cell["cell_type"] == "code"]


def alt_text(cell: prose.Json) -> str:
    return cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "").strip()


def looks_away(cell: prose.Json) -> list[str]:
    """Ways in which a cell escapes comparison without being listed."""
    found = sorted(FORBIDDEN_TAGS & {tag.lower().replace("_", "-") for tag in prose.tags(cell)})
    found += MARKER.findall(cell["source"])
    last = [line.split("#")[0].rstrip() for line in cell["source"].splitlines() if line.split("#")[0].strip()][-1:]
    if last and last[0].endswith(";"):
        found.append("a semicolon at the end, which silences a cell in Jupyter but not here")
    if TIMER.search(cell["source"]):
        found.append("a timing magic")
    return found


def shown(cell: prose.Json) -> str:
    return prose.output_text([{**cell, "metadata": {}}])


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@each_notebook
def test_run_in_order_without_errors_or_warnings(path: Path) -> None:
    """nbval compares nothing in a cell that was never run, so every cell must have been: 1, 2, 3, ..."""
    assert refresh.complaints(refresh.load(path)) == []


@each_notebook
def test_is_clean(path: Path) -> None:
    stored = path.read_text("utf8")
    assert stored == refresh.as_text(refresh.clean(refresh.load(path))), f"{path.name} is not clean: run `make refresh`"


@each_notebook
def test_nothing_escapes_comparison(path: Path) -> None:
    found = {cell["source"].splitlines()[0]: ways for cell in code_cells(path) if (ways := looks_away(cell))}
    assert not found


@each_notebook
def test_lines_fit_the_page(path: Path) -> None:
    """On the page of a desktop a line of code or output of more than 88 characters would have to be scrolled."""
    cells = code_cells(path)
    texts = [cell["source"] for cell in cells]
    texts += [refresh.lines(output.get("text", "")) for cell in cells for output in cell["outputs"]]
    long = [line for text in texts for line in text.splitlines() if len(line) > 88]
    assert not long, "\n".join(long)


def test_cells_not_compared_are_listed() -> None:
    found = {
        (path.stem, cell["source"].splitlines()[0])
        for path in NOTEBOOKS
        for cell in code_cells(path)
        if "nbval-ignore-output" in {tag.lower().replace("_", "-") for tag in prose.tags(cell)}
    }
    assert found == NOT_COMPARED
    without_reason = [row for row in sorted(found) if not re.match(r"# not compared: \w.{10,}", row[1])]
    assert not without_reason, "the first line must be `# not compared: <reason>`"


@each_notebook
def test_outputs_name_no_machine(path: Path) -> None:
    found = [match[0] for cell in code_cells(path) for match in MACHINE.finditer(shown(cell))]
    assert not found


@each_notebook
def test_compared_outputs_hold_no_timings(path: Path) -> None:
    compared = [c for c in code_cells(path) if not {"nbval-ignore-output", "source"} & set(prose.tags(c))]
    found = [match[0] for cell in compared for match in TIMING.finditer(shown(cell))]
    assert not found, "print a ratio in words, or assert a bound"


@each_notebook
def test_pictures_have_alt_texts_and_are_png(path: Path) -> None:
    for cell in code_cells(path):
        kinds = {kind for output in cell["outputs"] for kind in output.get("data", {}) if kind.startswith("image/")}
        first = cell["source"].splitlines()[0]
        if kinds:
            assert kinds == {"image/png"}, f"{first}: nbval compares other pictures byte by byte"
            assert len(alt_text(cell)) >= 30, f"{first}: say in metadata mystnb.image.alt what the picture shows"
        else:
            assert not alt_text(cell), f"{first}: an alt text without a picture"


def cell(source: str, *tags: str, text: str = "") -> prose.Json:
    outputs = [{"output_type": "stream", "name": "stdout", "text": text}] if text else []
    return {"cell_type": "code", "source": source, "metadata": {"tags": list(tags)}, "outputs": outputs}


@pytest.mark.parametrize(
    "bad",
    [
        cell("# NBVAL_IGNORE_OUTPUT\nx"),
        cell("x\n  ## NBVAL_SKIP"),
        cell("# PYTEST_VALIDATE_IGNORE_OUTPUT\nx"),
        cell("1 / 0", "raises-exception"),
        cell("1 / 0", "nbval-skip"),
        cell("1 / 0", "NBVAL_RAISES_EXCEPTION"),
        cell("plt.plot(x);"),
        cell("plt.plot(x);  # silent\n\n# end"),
        cell("%%time\nx"),
        cell("x = 1\n%timeit x"),
    ],
)
def test_ways_to_escape_are_seen(bad: prose.Json) -> None:
    assert looks_away(bad)


@pytest.mark.parametrize("good", [cell("x"), cell("a = 1; b = 2\nshow(a)"), cell("# NBVAL_IGNORE_OUTPUT explained\nx")])
def test_plain_cells_do_not_escape(good: prose.Json) -> None:
    assert not looks_away(good)


@pytest.mark.parametrize("bad", ["12 ms", "3.5 µs", "took 2 seconds", "1.25s", "10 ns per loop", "Wall time: 2"])
def test_timings_are_seen(bad: str) -> None:
    assert TIMING.search(bad)


@pytest.mark.parametrize("good", ["1 s 8 e", "fields: 1-8-23", "3 bits", "at least twice as fast", "Q3.4s8"])
def test_other_outputs_are_no_timings(good: str) -> None:
    assert not TIMING.search(good)


@pytest.mark.parametrize("bad", ["/" + "home/x/a.py", "<function f at 0x7f3a>", "C:\\Users", "lib/site-packages/numpy"])
def test_machine_names_are_seen(bad: str) -> None:
    assert MACHINE.search(bad)


DIRTY = {
    "cells": [
        {"cell_type": "markdown", "metadata": {"collapsed": False}, "source": ["# A"]},
        {
            "cell_type": "code",
            "id": "x",
            "metadata": {"tags": []},
            "source": [""],
            "execution_count": None,
            "outputs": [],
        },
        {
            "cell_type": "code",
            "id": "x",
            "metadata": {"tags": ["source"], "jupyter": {}},
            "source": ["f()\n", "\n"],
            "execution_count": 1,
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["a"]},
                {"output_type": "stream", "name": "stdout", "text": ["b\n"]},
                {"output_type": "stream", "name": "stderr", "text": ["c"]},
                {"output_type": "display_data", "metadata": {"needs_background": "light"}, "data": {}},
            ],
        },
    ],
    "metadata": {"jupytext": {}},
    "nbformat": 4,
    "nbformat_minor": 4,
}


def test_clean_cleans() -> None:
    cleaned = refresh.clean(DIRTY)
    assert cleaned["metadata"] == refresh.METADATA
    assert [(c["id"], c["metadata"], c["source"]) for c in cleaned["cells"]] == [
        ("cell-0", {}, "# A"),
        ("x", {"tags": ["source"]}, "f()"),
    ]
    assert [(o.get("text"), o.get("metadata")) for o in cleaned["cells"][1]["outputs"]] == [
        ("ab\n", None),
        ("c", None),
        (None, {}),
    ]
    assert refresh.clean(cleaned) == cleaned


def test_complaints_are_made() -> None:
    assert refresh.complaints(refresh.clean(DIRTY)) == ["code cell 1 ('f()') writes to stderr: c"]
    failed = cell("1 / 0") | {
        "execution_count": 2,
        "outputs": [{"output_type": "error", "ename": "ZeroDivisionError", "evalue": "division by zero"}],
    }
    assert [c.split(": ", 1)[1] for c in refresh.complaints({"cells": [failed]})] == [
        "execution count 2, should be 1",
        "ZeroDivisionError: division by zero",
    ]
